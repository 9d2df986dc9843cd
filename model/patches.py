"""Images to sequences of patches and back (SPEC "One transformer", step 1)."""

from torch import Tensor


def patchify(images: Tensor, patch_size: int) -> Tensor:
    """Cut images into patches, row-major; inside a patch row, then column, then channel.

    Args:
        images: [B, 3, H, W], H and W divisible by ``patch_size``.
        patch_size: The side p of a patch in pixels.

    Returns:
        [B, (H / p) (W / p), p p 3].
    """
    p = patch_size
    b, c, h, w = images.shape
    tiles = images.reshape(b, c, h // p, p, w // p, p)
    return tiles.permute(0, 2, 4, 3, 5, 1).reshape(b, (h // p) * (w // p), p * p * c)


def unpatchify(patches: Tensor, patch_size: int, grid: tuple[int, int]) -> Tensor:
    """Put patches together again, the inverse of :func:`patchify`.

    Args:
        patches: [B, N, p p 3].
        patch_size: The side p of a patch in pixels.
        grid: The number of rows and columns of patches, N together.

    Returns:
        [B, 3, H, W].
    """
    p, (rows, columns) = patch_size, grid
    b, _, dim = patches.shape
    tiles = patches.reshape(b, rows, columns, p, p, dim // (p * p))
    return tiles.permute(0, 5, 1, 3, 2, 4).reshape(b, -1, rows * p, columns * p)
