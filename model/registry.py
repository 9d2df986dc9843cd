"""Which class a checkpoint's weights belong to: ``config.json`` names a ``model_type``.

A class is registered under its name once; whoever holds a checkpoint of unknown type asks
:func:`load`, and whoever can use one class alone names it, so that another type is refused in words
and not by a missing attribute.
"""

import json
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from torch import nn

from flowmo.model.checkpoint_files import CONFIG_FILE, MODEL_TYPE
from flowmo.model.errors import CheckpointError
from flowmo.model.flowmo import FlowMo
from flowmo.model.hub import resolve_checkpoint
from flowmo.model.prior.checkpoint import PRIOR_TYPE, Prior

M = TypeVar("M", bound=nn.Module)


class Pretrained(Protocol):
    """A model class that reads and writes checkpoint folders."""

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | str = "cpu",
    ) -> Any:
        """Load a checkpoint folder, in evaluation mode."""
        ...


_CLASSES: dict[str, type[Pretrained]] = {MODEL_TYPE: FlowMo, PRIOR_TYPE: Prior}


def register(model_type: str, cls: type[Pretrained]) -> None:
    """Make checkpoints of a type known.

    Args:
        model_type: The name that ``config.json`` has.
        cls: The class of such models.

    Raises:
        CheckpointError: The name is taken by another class.
    """
    if _CLASSES.get(model_type, cls) is not cls:
        raise CheckpointError(
            f"the model type {model_type!r} is that of {_CLASSES[model_type].__name__}; "
            f"give {cls.__name__} another name"
        )
    _CLASSES[model_type] = cls


def known() -> list[str]:
    """The registered model types, sorted."""
    return sorted(_CLASSES)


def model_type(folder: str | Path) -> str:
    """The type that a checkpoint folder names.

    Raises:
        CheckpointError: There is no readable ``config.json``, it names no type, or an unknown one.
    """
    path = Path(folder, CONFIG_FILE)
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(
            f"{folder} has no {CONFIG_FILE}: it is no checkpoint, or saving it was interrupted; "
            f"save or download it again"
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read as JSON: {error}") from error
    named = record.get("model_type") if isinstance(record, dict) else None
    if named is None:
        raise CheckpointError(
            f"{path} does not say what model it is of: it has no model_type; there are "
            f"{', '.join(known())}. `flowmo convert` makes a checkpoint of a published .pth file"
        )
    if not isinstance(named, str) or named not in _CLASSES:
        raise CheckpointError(
            f"{path} is of the model type {named!r}, which this release does not know; it knows "
            f"{', '.join(known())}. Update flowmo-serve, or register the class that reads it"
        )
    return named


def load(
    name_or_path: str | Path,
    *,
    expected: type[M],
    preset: str | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
) -> M:
    """Load a checkpoint as an instance of the class that its type names, in evaluation mode.

    Args:
        name_or_path: A name of :func:`flowmo.model.hub.resolve_checkpoint`.
        expected: The class that the caller can use; ``torch.nn.Module`` takes any.
        preset: The config of a published file, which does not say what it holds.
        dtype: The dtype of the weights; as stored by default.
        device: The device to load to.

    Returns:
        The model.

    Raises:
        CheckpointError: There is none, it is of an unknown type or of another class than expected,
            or its files are wrong.
    """
    folder = resolve_checkpoint(name_or_path, preset=preset)
    named = model_type(folder)
    cls: Any = _CLASSES[named]
    if not issubclass(cls, expected):
        wanted = [name for name, one in _CLASSES.items() if issubclass(one, expected)]
        raise CheckpointError(
            f"{name_or_path} is of the model type {named!r}, where one of type "
            f"{' or '.join(wanted) or expected.__name__} is needed; name another checkpoint"
        )
    model: M = cls.from_pretrained(folder, dtype=dtype, device=device)
    return model
