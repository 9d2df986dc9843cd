"""Images to sequences of patches and back (SPEC "One transformer", step 1)."""

from torch import Tensor


def patchify(images: Tensor, patch_size: int) -> Tensor:
    """Cut into patches, row-major; inside a patch row, then column, then channel.

    Args:
        images: [B, 3, H, W], H and W divisible by ``patch_size``.
        patch_size: p.

    Returns:
        [B, (H / p) (W / p), p p 3].
    """
    p = patch_size
    b, c, h, w = images.shape
    tiles = images.reshape(b, c, h // p, p, w // p, p)
    return tiles.permute(0, 2, 4, 3, 5, 1).reshape(b, (h // p) * (w // p), p * p * c)


def unpatchify(patches: Tensor, patch_size: int, grid: tuple[int, int]) -> Tensor:
    """Inverse of :func:`patchify`; ``grid`` is (rows, columns) of patches."""
    p, (rows, columns) = patch_size, grid
    b, _, dim = patches.shape
    tiles = patches.reshape(b, rows, columns, p, p, dim // (p * p))
    return tiles.permute(0, 5, 1, 3, 2, 4).reshape(b, -1, rows * p, columns * p)
