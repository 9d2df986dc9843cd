"""What adapters of tokenizers share: pictures to tensors and back, and bits to bytes."""

import importlib
import math
import pickle
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flowmo.imaging.reading import Pixels
from flowmo.imaging.tensors import to_images, to_pixels
from flowmo.training.evaluation.errors import EvaluationError


@dataclass(frozen=True, kw_only=True, slots=True)
class Reconstruction:
    """What a tokenizer made of a batch.

    Attributes:
        images: [B, 3, S, S] in about [-1, 1].
        bits: Bits of the tokens of a picture; None for a continuous latent.
    """

    images: Tensor
    bits: int | None


class TensorAdapter:
    """An adapter out of a function of tensors.

    Args:
        reconstruct: [B, 3, S, S] in [-1, 1] in the network's dtype, and the pictures' numbers, to
            what came of them.
        device: Where the network is.
        dtype: The dtype of the network's input.
    """

    def __init__(
        self,
        reconstruct: Callable[[Tensor, Sequence[int]], Reconstruction],
        *,
        device: str,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self._reconstruct, self._device, self._dtype = reconstruct, device, dtype

    @torch.inference_mode()
    def __call__(
        self, pictures: Pixels, numbers: Sequence[int]
    ) -> tuple[Pixels, Sequence[int | None]]:
        """As :class:`flowmo.training.evaluation.adapters.Adapter` says; bytes are whole."""
        images = to_images(pictures, self._device).to(self._dtype)
        came = self._reconstruct(images, numbers)
        size = None if came.bits is None else math.ceil(came.bits / 8)
        return to_pixels(came.images.float()), [size] * len(pictures)


def bits_of_indices(indices: Tensor, pictures: int, codebook: int) -> int:
    """Bits of a picture's indices into a codebook, at a whole number of bits an index."""
    return indices.numel() // pictures * math.ceil(math.log2(codebook))


def arguments(text: str, form: str, *, least: int) -> list[str]:
    """The parts between commas.

    Raises:
        EvaluationError: There are fewer than ``least``, or more than ``form`` names.
    """
    parts = text.split(",")
    if not least <= len(parts) <= form.count(",") + 1 or not all(parts):
        raise EvaluationError(f"write {form}, got {text!r}")
    return parts


def imported(module: str, clone: str) -> Any:
    """A module of a repository that the user has cloned, from the current folder or the path.

    Raises:
        EvaluationError: It cannot be imported.
    """
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise EvaluationError(
            f"{module} cannot be imported ({error}): run this in a clone of {clone}, with what its "
            f"requirements name installed, or put the clone on PYTHONPATH"
        ) from error


def read_state(path: str, *keys: str) -> dict[str, Tensor]:
    """Tensors of a ``.pth`` or ``.ckpt`` file, without running code that may be in it.

    Args:
        path: The file.
        keys: Where the tensors are, the first that is there; dots step into a dictionary.

    Raises:
        EvaluationError: It cannot be read, or has none of the keys.
    """
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, ValueError, EOFError, pickle.UnpicklingError) as error:
        reason = str(error).partition("\n")[0]
        raise EvaluationError(
            f"{path} cannot be read as weights ({reason}); a file with other objects than tensors "
            f"in it is not unpickled: save its tensors alone"
        ) from error
    for key in keys:
        found = content
        for part in key.split("."):
            found = found.get(part) if isinstance(found, dict) else None
        if isinstance(found, dict):
            return found
    raise EvaluationError(f"{path} has none of {', '.join(keys)}; it has {list(content)[:5]}")
