"""The stages before writing: images are read, and encoded. Neither knows of the other."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from flowmo.cores import usable_cores
from flowmo.imaging.reading import Pixels
from flowmo.imaging.tensors import to_images
from flowmo.model.inference import InferenceModel
from flowmo.model.quantizer import codes_to_ids
from flowmo.training.data.batches import or_none
from flowmo.training.data.images import read_training_square
from flowmo.training.data.index import ImageIndex

Ids = NDArray[np.uint16]


class Squares(NamedTuple):
    """Images that were read: their numbers, their pixels, and the numbers of the others."""

    numbers: list[int]
    pixels: list[Pixels]
    unreadable: list[int]


class Rows(NamedTuple):
    """Ids uint16 [R, K D/G], the image of each row, and whether the row is of its mirror image."""

    ids: Ids
    images: NDArray[np.int64]
    flipped: NDArray[np.bool_]


def read_squares(index: ImageIndex, numbers: Sequence[int], size: int) -> Squares:
    """The largest centred squares of images, as a server would see them.

    Args:
        index: The images.
        numbers: Which of them.
        size: The side S in pixels.

    Raises:
        DataError: The storage fails.
    """
    with ThreadPoolExecutor(usable_cores()) as pool:  # Pillow decodes without the GIL
        came = pool.map(
            lambda data: or_none(data, lambda data: read_training_square(data, size)),
            index.read_many(numbers),
        )
        pairs = list(zip(numbers, came, strict=True))
    return Squares(
        numbers=[number for number, square in pairs if square is not None],
        pixels=[square for _, square in pairs if square is not None],
        unreadable=[number for number, square in pairs if square is None],
    )


@torch.inference_mode()
def encode_squares(
    model: InferenceModel, squares: Squares, *, flips: bool, batch_size: int
) -> Rows:
    """The ids of images, and of their mirror images right after each.

    Args:
        model: The tokenizer, with its encoder.
        squares: What :func:`read_squares` gave.
        flips: Whether each image has a second row, of its mirror image.
        batch_size: The number of rows that are computed at once. On some devices the last bit of a
            code depends on it, and so may an id whose code is all but 0.
    """
    config, times = model.config, 2 if flips else 1
    pixels = [one for square in squares.pixels for one in (square, square[:, ::-1])[:times]]
    length = config.code_length * config.ids_per_token
    ids = np.empty((len(pixels), length), dtype=np.uint16)
    for first in range(0, len(pixels), batch_size):
        images = to_images(
            [np.ascontiguousarray(one) for one in pixels[first : first + batch_size]]
        )
        code = model.encode(images.to(model.device)).float()
        came = codes_to_ids(code, config.group_bits).flatten(1).cpu().numpy()
        ids[first : first + batch_size] = came
    return Rows(
        ids=ids,
        images=np.repeat(np.array(squares.numbers, dtype=np.int64), times),
        flipped=np.tile(np.arange(times) == 1, len(squares.numbers)),
    )
