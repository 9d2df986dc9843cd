"""Other tokenizers, given as ``module:function`` or by name."""

import importlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np

from flowmo.imaging.reading import Pixels
from flowmo.training.evaluation.errors import EvaluationError
from flowmo.training.evaluation.methods import Came
from flowmo.training.evaluation.tokenizers import TOKENIZERS


class Adapter(Protocol):
    """What a function must be to take part as a method (docs/evaluation.md has an example)."""

    def __call__(
        self, pictures: Pixels, numbers: Sequence[int], /
    ) -> tuple[Pixels, Sequence[int | None]]:
        """Reconstruct a batch.

        Equal pictures of equal numbers must give equal results, whatever is in the batch, or the
        figures depend on how the work was cut.

        Args:
            pictures: uint8 [N, S, S, 3].
            numbers: The numbers of the pictures in the list; seeds for a decoder that wants noise.

        Returns:
            Reconstructions, uint8 [N, S, S, 3], and the bytes that each was made from (None where
            that has no meaning).
        """
        ...


def load_adapter(text: str, *, device: str = "cpu") -> Adapter:
    """The function that ``module:function`` names; modules of the current folder are found too.

    Args:
        text: ``module:function``, or ``NAME:ARGUMENTS`` with a name of
            :data:`flowmo.training.evaluation.tokenizers.TOKENIZERS`.
        device: Where tokenizers by name compute.

    Raises:
        EvaluationError: no such module or function, or what a name needs cannot be had.
    """
    module, _, function = text.partition(":")
    if not (module and function):
        raise EvaluationError(
            f"an adapter is written module:function, or NAME:ARGUMENTS with one of "
            f"{', '.join(TOKENIZERS)}; got {text!r}"
        )
    if module in TOKENIZERS:
        return TOKENIZERS[module](function, device)
    # The `flowmo` script's path has its own folder in front, not the user's, as `python -m` has.
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)
    try:
        found = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise EvaluationError(f"the adapter {text!r} cannot be had: {error}") from error
    if not callable(found):
        raise EvaluationError(f"the adapter {text!r} is a {type(found).__name__}, not a function")
    return cast("Adapter", found)


class AdapterMethod:
    """A method that asks an adapter.

    Args:
        text: As :func:`load_adapter` takes it, which is also its name.
        device: Where tokenizers by name compute.

    Raises:
        EvaluationError: no such module or function, or what a name needs cannot be had.
    """

    def __init__(self, text: str, *, device: str = "cpu") -> None:
        self.name, self._adapter = text, load_adapter(text, device=device)

    def describe(self) -> dict[str, Any]:
        """Its name: what the function does is the caller's to keep the same."""
        return {"kind": "adapter", "function": self.name}

    def reconstruct(self, originals: Sequence[Pixels], numbers: Sequence[int]) -> list[Came | None]:
        """As :class:`flowmo.training.evaluation.methods.Method` says.

        Raises:
            EvaluationError: the adapter returned something else than it must.
        """
        asked = np.stack(originals)
        returned: object = self._adapter(asked.copy(), list(numbers))
        if not isinstance(returned, tuple) or len(returned) != 2:
            raise EvaluationError(
                f"the adapter {self.name!r} must return (pictures, bytes of each), got a "
                f"{type(returned).__name__}"
            )
        came, sizes = returned
        if not isinstance(came, np.ndarray) or (came.dtype, came.shape) != (np.uint8, asked.shape):
            got = getattr(came, "dtype", type(came).__name__), getattr(came, "shape", None)
            raise EvaluationError(
                f"the adapter {self.name!r} must return uint8 {asked.shape}, got {got}"
            )
        if len(sizes) != len(asked):
            raise EvaluationError(
                f"the adapter {self.name!r} returned {len(sizes)} sizes for {len(asked)} pictures"
            )
        return [
            Came(pixels=one, size=None if size is None else int(size))
            for one, size in zip(came, sizes, strict=True)
        ]
