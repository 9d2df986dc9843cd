"""Published ``.pth`` files to checkpoint folders, without running what a pickle may hold.

Such a file is a dict with ``model_ema_state_dict``, ``model_state_dict`` and ``total_steps``
(SPEC, top); its tensor names are this network's own.
"""

import pickle
import re
import struct
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from flowmo.model.checkpoint import (
    DEFAULT_MAX_SHARD_SIZE,
    check_shapes,
    dtype_name,
    expected_shapes,
    save_checkpoint,
)
from flowmo.model.config import PRESETS, FlowMoConfig
from flowmo.model.errors import CheckpointError

Weights = Literal["ema", "raw"]

_KEYS: dict[Weights, str] = {"ema": "model_ema_state_dict", "raw": "model_state_dict"}
# What wrapping a module for data-parallel training or compilation puts before every name.
_WRAPPERS = ("module.", "_orig_mod.")
# torch.load raises nearly anything on bytes that are no checkpoint.
_UNREADABLE = (
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    pickle.UnpicklingError,
    struct.error,
    zipfile.BadZipFile,
)

# What people pass by mistake, by its first bytes.
_KINDS = (
    (b"\xff\xd8\xff", "a JPEG picture"),
    (b"\x89PNG", "a PNG picture"),
    (b"GIF8", "a GIF picture"),
    (b"RIFF", "a WebP picture"),
    (b"\x89FLM", "a .flowmo file of tokens"),
    (b"version https://git-lfs", "a Git LFS pointer, which only names the file"),
    (b"<", "a web page"),
    (b"{", "a text in JSON"),
)
_LONGEST_START = max(len(magic) for magic, _ in _KINDS)
_FOREIGN_OBJECT = re.compile(r"GLOBAL ([\w.]+)")


@dataclass(frozen=True, kw_only=True, slots=True)
class Published:
    """The weights of a published file.

    Attributes:
        state: The state dict, its names and shapes those of the config; mapped from the file.
        weights: Which of the file's two sets these are.
        total_steps: The number of training steps, if the file says.
        prefix: What all names began with and was taken off, usually nothing.
    """

    state: dict[str, Tensor]
    weights: Weights
    total_steps: int | None
    prefix: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Conversion:
    """What :func:`convert_published` did.

    Attributes:
        published: What was read.
        fingerprint: The fingerprint of the model.
        parameters: How many numbers the model has.
    """

    published: Published
    fingerprint: str
    parameters: int


def read_published(
    path: str | Path, config: FlowMoConfig, *, weights: Weights = "ema"
) -> Published:
    """Read a ``.pth`` file; only tensors and plain containers are unpickled.

    Args:
        path: The file.
        config: The config of the model that it should hold.
        weights: ``ema`` (the averaged weights, which are the ones to serve) or ``raw``.

    Raises:
        CheckpointError: It is no such file, or tensors are missing, surplus, misshapen, not
            floating or not finite.
    """
    if weights not in get_args(Weights):
        raise CheckpointError(f"weights must be one of {get_args(Weights)}, got {weights!r}")
    path = Path(path)
    content = _load(path)
    key = _KEYS[weights]
    if not isinstance(content, Mapping) or not isinstance(content.get(key), Mapping):
        keys = sorted(map(str, content))[:8] if isinstance(content, Mapping) else None
        came = type(content).__name__ if keys is None else f"a dict with the keys {keys}"
        raise CheckpointError(
            f"{path} has no {key}: it holds {came}, a published file has "
            f"{', '.join(_KEYS.values())} and total_steps"
        )
    state, prefix = _unwrapped(content[key])
    not_tensors = [str(name) for name, value in state.items() if not _is_weight(value)]
    if not_tensors:
        raise CheckpointError(
            f"{path}: {len(not_tensors)} entries of {key} are no floating-point tensors, "
            f"e.g. {not_tensors[0]!r}"
        )
    _check_against(config, state, path)
    if broken := [name for name, tensor in state.items() if not bool(tensor.isfinite().all())]:
        raise CheckpointError(
            f"{path}: {len(broken)} tensors hold infinite or undefined numbers, e.g. "
            f"{broken[0]!r}; download the file again"
        )
    steps = content.get("total_steps")
    return Published(
        state=state,
        weights=weights,
        total_steps=int(steps) if isinstance(steps, int | float | Tensor) else None,
        prefix=prefix,
    )


def convert_published(
    path: str | Path,
    config: FlowMoConfig,
    folder: str | Path,
    *,
    weights: Weights = "ema",
    dtype: torch.dtype = torch.bfloat16,
    max_shard_size: int | str = DEFAULT_MAX_SHARD_SIZE,
) -> Conversion:
    """Turn a ``.pth`` file into a checkpoint folder.

    Args:
        path: The file.
        config: The config of the model that it holds.
        folder: The folder that the checkpoint is written to.
        weights: ``ema`` or ``raw``.
        dtype: torch.bfloat16 or torch.float32.
        max_shard_size: The largest safetensors file, in bytes or as ``"5GB"``.

    Raises:
        CheckpointError: The file is refused by :func:`read_published`, or the dtype cannot be
            stored.
    """
    dtype_name(dtype)  # refuse before gigabytes are read
    published = read_published(path, config, weights=weights)
    fingerprint = save_checkpoint(
        published.state, config, folder, dtype=dtype, max_shard_size=max_shard_size
    )
    parameters = sum(tensor.numel() for tensor in published.state.values())
    return Conversion(published=published, fingerprint=fingerprint, parameters=parameters)


def _load(path: Path) -> Any:
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise CheckpointError(f"{path} {what}; pass a published .pth file")
    try:
        # Files of old torch versions are no zip archives and cannot be mapped.
        mapped = zipfile.is_zipfile(path)
        with warnings.catch_warnings():
            # About pickle protocols, said of files that are no pickles, too.
            warnings.filterwarnings("ignore", "Detected pickle protocol", UserWarning)
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except _UNREADABLE as error:
        raise CheckpointError(f"{path} {_problem(path, error)}") from error


def _problem(path: Path, error: Exception) -> str:
    """Why a file could not be loaded.

    Not in torch's words: of whatever is no pickle of tensors they advise to unpickle it anyway.
    """
    with path.open("rb") as file:
        start = file.read(_LONGEST_START)
    if not start:
        return "is empty; download it again"
    if (
        kind := next((kind for magic, kind in _KINDS if start.startswith(magic)), None)
    ) is not None:
        return f"is {kind}, not a published .pth file; pass the file of a FlowMo release"
    if start[8:10] == b'{"':
        return (
            "is a safetensors file, not a published .pth file; beside its config.json it is a "
            "checkpoint, which needs no conversion"
        )
    if (foreign := _FOREIGN_OBJECT.search(str(error))) is not None:
        return (
            f"holds other objects than tensors ({foreign[1]}), which could run code and are "
            f"therefore never loaded; ask its author for a file of tensors alone"
        )
    return "cannot be read as tensors alone: it is damaged or no .pth file; download it again"


def _unwrapped(state: Mapping[Any, Any]) -> tuple[dict[str, Any], str]:
    """Names without what wrappers put before all of them, and what that was."""
    names, prefix = dict(state), ""
    while names:
        found = next((w for w in _WRAPPERS if all(str(n).startswith(w) for n in names)), None)
        if found is None:
            break
        prefix += found
        names = {str(name).removeprefix(found): value for name, value in names.items()}
    return names, prefix


def _is_weight(value: object) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point() and not value.is_sparse


def _check_against(config: FlowMoConfig, state: Mapping[str, Tensor], path: Path) -> None:
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    try:
        check_shapes(config, shapes, path)
    except CheckpointError as error:
        fitting = [name for name, other in PRESETS.items() if expected_shapes(other) == shapes]
        if not fitting:
            raise
        raise CheckpointError(
            f"{path} holds the tensors of preset {' or '.join(map(repr, fitting))}, not of "
            f"{config.name!r}; convert it with that preset"
        ) from error
