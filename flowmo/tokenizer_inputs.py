"""What callers of a tokenizer hand in, one by one, as what its model reads."""

import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from flowmo.imaging.fit import Fit, fit_image
from flowmo.imaging.reading import DecodedImage, ImageError, from_picture, read_image
from flowmo.imaging.tensors import to_images
from flowmo.model.container import Container
from flowmo.model.errors import ConfigError, TokenError
from flowmo.model.image_tokens import ImageTokens
from flowmo.model.layout import PictureLayout
from flowmo.model.pictures import tile_batches
from flowmo.model.tiling import DEFAULT_OVERLAP_SHARE, overlap_pixels
from flowmo.model.tokens import Tokens

Bytes: TypeAlias = bytes | bytearray | memoryview
Path_: TypeAlias = str | os.PathLike[str]

ImageInput: TypeAlias = Path_ | Bytes | Image.Image | NDArray[np.uint8] | Tensor
"""One image: a path, a file's bytes, Pillow's image, an array uint8 [H, W, 3], or a float tensor
[3, S, S] that has the model's size."""

TokenInput: TypeAlias = Tokens | Container | Path_ | Bytes | NDArray[np.integer] | Tensor
"""One image's tokens: tokens, a container, the path or bytes of a ``.flowmo`` file, or ids of one
square, [K, D/G] or [1, K, D/G]."""

ValueRange: TypeAlias = tuple[float, float]
MODEL_RANGE: ValueRange = (-1.0, 1.0)
# As the model's own check has it: one of 255 levels.
_TOLERANCE = 1 / 255


def split(given: object, *, dimensions: tuple[int, ...]) -> tuple[list[Any], bool]:
    """The items of what a caller gave, and whether it was one alone.

    Args:
        given: One item, a list, tuple or iterator of items, or an array or tensor of several.
        dimensions: How many dimensions one item has as an array or tensor; one more is a batch.
    """
    if isinstance(given, list | tuple | Iterator):
        return list(given), False
    if isinstance(given, np.ndarray | Tensor) and given.ndim == max(dimensions) + 1:
        return list(given), False
    return [given], True


class ImageReader:
    """Turns images of any kind into the model's tensors.

    Args:
        size: S, the side of the model's images in pixels.
        fit: What becomes of a picture of another shape. Tensors are not fitted.
        overlap: The share of a tile's side that neighbouring tiles have in common at least, of
            ``native``.
        value_range: What the tensors' lowest and highest value stand for; None where they lie in
            [-1, 1] beyond doubt.

    Raises:
        ConfigError: There is no such fit or overlap, or the range is none.
    """

    def __init__(
        self,
        *,
        size: int,
        fit: Fit,
        value_range: ValueRange | None,
        overlap: float = DEFAULT_OVERLAP_SHARE,
    ) -> None:
        if fit not in get_args(Fit):
            raise ConfigError(f"fit must be one of {', '.join(get_args(Fit))}, got {fit!r}")
        self._overlap = overlap_pixels(size, overlap)
        if value_range is not None:
            low, high = value_range
            if not (math.isfinite(low) and math.isfinite(high) and low < high):
                raise ConfigError(f"value_range must be (lowest, highest), got {value_range!r}")
        self._size, self._fit, self._range = size, fit, value_range

    def check_range(self, items: Sequence[object]) -> None:
        """Refuse tensors that say not what they mean: all of them in [0, 1], or bright in [-1, 1].

        Args:
            items: All images of a call.

        Raises:
            ConfigError: No range was given, and no value of any tensor is below 0.
        """
        tensors = [item for item in items if isinstance(item, Tensor) and item.is_floating_point()]
        if self._range is None and tensors and all(bool((item >= 0).all()) for item in tensors):
            raise ConfigError(
                "no value of the tensors is below 0, so they may be images in [0, 1] or bright "
                "ones in [-1, 1]: say which by value_range=(0, 1) or value_range=(-1, 1)"
            )

    def read(self, item: object) -> tuple[PictureLayout, Iterator[Tensor]]:
        """An image's layout and its tiles, float [3, S, S] each, in [-1, 1] if a tensor was.

        Args:
            item: The image.

        Raises:
            ConfigError: A tensor has another shape or type, or lies outside the range given.
            ImageError: A picture cannot be read.
            OSError: A file cannot be read.
            TypeError: An item is no image.
            ValueError: An array is no picture.
        """
        size = self._size
        if isinstance(item, Tensor):
            layout = PictureLayout(width=size, height=size, tile_size=size)
            return layout, iter([self._in_model_range(item)])
        picture = self._picture(item)
        layout = PictureLayout(
            width=picture.width,
            height=picture.height,
            tile_size=size,
            overlap=self._overlap,
            fit=self._fit,
        )
        pixels = fit_image(picture, size, self._fit).pixels
        batches = tile_batches(pixels, layout.tiling, 1)
        return layout, (to_images(batch)[0] for batch in batches)

    def _picture(self, item: object) -> DecodedImage:
        side = None if self._fit == "native" else self._size
        if isinstance(item, DecodedImage):
            return item
        if isinstance(item, Image.Image):
            return from_picture(item)
        if isinstance(item, np.ndarray):
            return from_picture(_picture_of_array(item))
        if isinstance(item, bytes | bytearray | memoryview):
            return read_image(bytes(item), side=side)
        if isinstance(item, str | os.PathLike):
            try:
                return read_image(Path(item).read_bytes(), side=side)
            except ImageError as error:
                raise type(error)(f"{os.fspath(item)}: {error}") from error
        raise TypeError(
            f"an image is a path, the bytes of a file, Pillow's image, an array uint8 [H, W, 3] or "
            f"a float tensor [3, {self._size}, {self._size}]; got {type(item).__name__}"
        )

    def _in_model_range(self, tensor: Tensor) -> Tensor:
        expected = (3, self._size, self._size)
        if tuple(tensor.shape) != expected:
            raise ConfigError(
                f"a tensor must have the shape {list(expected)} (or several of them in one), got "
                f"{list(tensor.shape)}; resize it first, or pass the picture, which is fitted"
            )
        if not tensor.is_floating_point():
            raise ConfigError(
                f"a tensor must be floating-point, got {tensor.dtype}; 8-bit levels become that by "
                f"tensor / 127.5 - 1, or pass tensor.permute(1, 2, 0).numpy(), a picture"
            )
        if self._range is None or self._range == MODEL_RANGE:
            return tensor.detach()  # the model looks at the values
        low, high = self._range
        slack = _TOLERANCE * (high - low)
        values = tensor.detach().float()
        least, most = float(values.min()), float(values.max())
        if not (low - slack <= least and most <= high + slack):
            raise ConfigError(
                f"the tensor was said to lie in [{low:g}, {high:g}], its values are {least:.4g} to "
                f"{most:.4g}; mend the values or value_range"
            )
        return (values - low) * (2 / (high - low)) - 1


def stacked(rows: Sequence[Tensor]) -> Tensor:
    """Tiles [3, S, S] as one batch, where a tensor among them is already."""
    devices = [row.device for row in rows if row.device.type != "cpu"]
    device = devices[0] if devices else torch.device("cpu")
    return torch.stack([row.to(device, torch.float32) for row in rows])


def _picture_of_array(array: NDArray[Any]) -> Image.Image:
    if array.dtype != np.uint8:
        raise ValueError(
            f"an array must be uint8 with levels from 0 to 255, got {array.dtype}; values from 0 "
            f"to 1 become that by (255 * array).round().astype('uint8'), or pass a tensor [3, S, S]"
        )
    planes = array[:, :, 0] if array.ndim == 3 and array.shape[2] == 1 else array
    if 0 in planes.shape or not (
        planes.ndim == 2 or (planes.ndim == 3 and planes.shape[2] in (3, 4))
    ):
        raise ValueError(
            f"an array must be a picture [H, W, 3] (or [H, W], [H, W, 4]; several as "
            f"[B, H, W, 3]), got {list(array.shape)}; channels go last: array.transpose(1, 2, 0)"
        )
    return Image.fromarray(planes)


def read_tokens(item: object, group_bits: int) -> Tokens:
    """One token set of any kind.

    Args:
        item: What came.
        group_bits: G of the model at hand, for ids.

    Returns:
        The tokens, with the model that made them if they tell.

    Raises:
        ContainerError: Bytes or a file cannot be read as a container.
        OSError: A file cannot be read.
        TokenError: Ids have a wrong shape or range.
        TypeError: The item is no token set.
    """
    if isinstance(item, Tokens):
        return item
    if isinstance(item, Container):
        return ImageTokens.of(item)
    if isinstance(item, bytes | bytearray | memoryview):
        return ImageTokens.from_bytes(item)
    if isinstance(item, str | os.PathLike):
        return ImageTokens.load(item)
    if isinstance(item, Tensor):
        item = item.detach().cpu().numpy()
    if isinstance(item, np.ndarray):
        return Tokens(ids=item, group_bits=group_bits)
    # An answer of the client has it, too.
    to_bytes = getattr(item, "to_bytes", None)
    if to_bytes is not None and not isinstance(item, int):
        return ImageTokens.from_bytes(to_bytes())
    if isinstance(item, list | tuple):
        raise TokenError("ids as nested lists are ambiguous; pass numpy.array(ids), [K, D/G]")
    raise TypeError(
        f"tokens are what encode gave, a container, the path or bytes of a .flowmo file, or an "
        f"array of ids [K, D/G]; got {type(item).__name__}"
    )
