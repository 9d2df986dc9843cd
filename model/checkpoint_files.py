"""What the files of a checkpoint folder say, each checked by itself (model.checkpoint)."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from flowmo.model.errors import CheckpointError
from flowmo.model.fingerprint import is_fingerprint

FORMAT_VERSION = 1
MODEL_TYPE = "flowmo"
CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
SHARD_PATTERN = "model-*-of-*.safetensors"
# What weights are stored in. Others would round differently, and so change the fingerprint.
DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}

_SAFETENSORS_DTYPES = {"BF16": "bfloat16", "F32": "float32"}
_OPTIONAL = frozenset({"fingerprint"})
_FIELDS = frozenset({"format_version", "model_type", "fingerprint", "dtype", "config"})
# How many names an error lists of each kind; the rest is counted.
_LISTED = 8


def read_record(path: Path, *, model_type: str = MODEL_TYPE) -> dict[str, Any]:
    """``config.json``, its outer form checked, of a checkpoint of one type."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(
            f"{path.parent} has no {CONFIG_FILE}: it is no checkpoint, or saving it was "
            f"interrupted; save or download it again"
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read as JSON: {error}") from error
    named = record.get("model_type") if isinstance(record, dict) else None
    if not isinstance(record, dict) or named != model_type:
        came = "missing" if named is None else repr(named)
        hint = (
            "`flowmo convert` makes one of a published .pth file"
            if model_type == MODEL_TYPE
            else f"name the folder of a {model_type}"
        )
        kind = "FlowMo" if model_type == MODEL_TYPE else model_type
        raise CheckpointError(
            f"{path} is of no {kind} checkpoint: its model_type is {came}, not {model_type!r}; "
            f"{hint}"
        )
    if (version := record.get("format_version")) != FORMAT_VERSION:
        raise CheckpointError(
            f"{path} has format version {version!r}, this release reads {FORMAT_VERSION}; "
            f"update flowmo-serve, or save the checkpoint again with this release"
        )
    if missing := sorted(_FIELDS - _OPTIONAL - record.keys()):
        raise CheckpointError(f"{path} lacks the fields {missing}")
    if surplus := sorted(record.keys() - _FIELDS):
        raise CheckpointError(f"{path} has unknown fields {surplus}; there are {sorted(_FIELDS)}")
    if (dtype := record["dtype"]) not in tuple(DTYPES):
        raise CheckpointError(f"{path} names the dtype {dtype!r}; there are {sorted(DTYPES)}")
    stored = record.get("fingerprint")
    if stored is not None and not is_fingerprint(stored):
        raise CheckpointError(
            f"{path} has the fingerprint {stored!r}, which is not 32 lower-case hex digits"
        )
    return record


def weight_files(folder: Path) -> dict[Path, frozenset[str] | None]:
    """The safetensors files and, when an index says so, which tensors belong in each."""
    single, index = folder / WEIGHTS_FILE, folder / INDEX_FILE
    if single.is_file() and index.is_file():
        raise CheckpointError(
            f"{folder} holds both {WEIGHTS_FILE} and {INDEX_FILE}; delete the one that is stale"
        )
    if single.is_file():
        return {single: None}
    if not index.is_file():
        raise CheckpointError(
            f"{folder} holds neither {WEIGHTS_FILE} nor {INDEX_FILE}: the weights are missing; "
            f"save or download it again"
        )
    try:
        weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        by_file: dict[str, set[str]] = {}
        for name, file in weight_map.items():
            by_file.setdefault(file, set()).add(name)
    except (OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{index} is no index of safetensors files ({error!r}); save or download it again"
        ) from error
    files: dict[Path, frozenset[str] | None] = {}
    for file, names in by_file.items():
        # An index comes from wherever the checkpoint comes from; it must not name other folders.
        if not isinstance(file, str) or Path(file).name != file:
            raise CheckpointError(f"{index} names {file!r}, which is no file name in its folder")
        if not (folder / file).is_file():
            raise CheckpointError(
                f"{folder} lacks {file}, with {len(names)} tensors; save or download it again"
            )
        files[folder / file] = frozenset(names)
    return files


def tensor_shapes(
    path: Path, names: frozenset[str] | None, dtype: str
) -> dict[str, tuple[int, ...]]:
    """Names and shapes in one file, which must hold ``names`` and be of ``dtype``."""
    shapes: dict[str, tuple[int, ...]] = {}
    wrong: list[str] = []
    try:
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 (a file of tensors is no mapping)
                part = file.get_slice(name)
                shapes[name] = tuple(part.get_shape())
                if _SAFETENSORS_DTYPES.get(stored := part.get_dtype()) != dtype:
                    wrong.append(f"{name} {stored}")
    except (OSError, SafetensorError) as error:
        raise unreadable(path, error) from error
    if wrong:
        raise CheckpointError(
            f"{path} holds {len(wrong)} tensors of another dtype than the {dtype} that "
            f"{CONFIG_FILE} names: {listing(wrong)}"
        )
    if names is not None and names != shapes.keys():
        raise CheckpointError(
            f"{path} does not hold the tensors that {INDEX_FILE} places there: "
            f"{listing(sorted(names ^ shapes.keys()))}"
        )
    return shapes


def metadata_of(path: Path) -> dict[str, str]:
    """What a safetensors file says of itself beside its tensors."""
    try:
        with safe_open(path, framework="pt") as file:
            return dict(file.metadata() or {})
    except (OSError, SafetensorError) as error:
        raise unreadable(path, error) from error


def sort_metadata(path: Path) -> None:
    """Put in order what a safetensors file says of itself; the library's order is never the same.

    So the same weights are the same bytes.
    """
    with path.open("r+b") as file:
        size = int.from_bytes(file.read(8), "little")
        header: dict[str, Any] = json.loads(file.read(size))
        header["__metadata__"] = dict(sorted(header.get("__metadata__", {}).items()))
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        assert len(text) <= size  # the same, but for their order
        file.seek(8)
        file.write(text.ljust(size))


def unreadable(path: Path, error: Exception) -> CheckpointError:
    """The error for a safetensors file that cannot be opened or read."""
    return CheckpointError(
        f"{path} is no readable safetensors file ({error}); save or download it again"
    )


def listing(names: list[str]) -> str:
    """The first names, and how many more there are."""
    rest = len(names) - _LISTED
    return ", ".join(names[:_LISTED]) + (f" and {rest} more" if rest > 0 else "")
