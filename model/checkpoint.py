"""Checkpoints: a folder with ``config.json`` and safetensors, nothing pickled (docs/container.md).

    FOLDER/config.json                      format version, fingerprint, dtype, FlowMoConfig
           model.safetensors                all weights, or, above the shard size,
           model-00001-of-00003.safetensors a part of them each, and
           model.safetensors.index.json     which tensor is in which file

File names and the index are those of huggingface_hub, so its tools read the folder too. Reading is
strict: names, shapes and dtypes are exactly what the config asks for, or nothing is loaded.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic

import torch
from huggingface_hub import save_torch_state_dict
from safetensors import SafetensorError, safe_open
from torch import Tensor
from typing_extensions import TypeVar

from flowmo.model.checkpoint_files import (
    CONFIG_FILE,
    DTYPES,
    FORMAT_VERSION,
    INDEX_FILE,
    MODEL_TYPE,
    SHARD_PATTERN,
    WEIGHTS_FILE,
    listing,
    metadata_of,
    read_record,
    sort_metadata,
    tensor_shapes,
    unreadable,
    weight_files,
)
from flowmo.model.config import FlowMoConfig
from flowmo.model.errors import CheckpointError, ConfigError
from flowmo.model.files import replacing_contents
from flowmo.model.fingerprint import compute_fingerprint, identity_digest
from flowmo.model.network import FlowMoNetwork

DEFAULT_MAX_SHARD_SIZE = "5GB"


C = TypeVar("C", default=FlowMoConfig)


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckpointInfo(Generic[C]):
    """What a checkpoint folder says of itself, known without reading a weight.

    Attributes:
        folder: The folder itself.
        config: The config of the model.
        fingerprint: 32 hex digits as stored, or None if ``config.json`` has none.
        dtype: ``bfloat16`` or ``float32``, of every tensor.
        files: The safetensors files, sorted.
        shapes: The shape of every tensor, by name.
    """

    folder: Path
    config: C
    fingerprint: str | None
    dtype: str
    files: tuple[Path, ...]
    shapes: dict[str, tuple[int, ...]]

    @property
    def size(self) -> int:
        """Bytes on disk of the weights."""
        return sum(path.stat().st_size for path in self.files)


def dtype_name(dtype: torch.dtype) -> str:
    """The name under which weights of ``dtype`` are stored.

    Raises:
        CheckpointError: Checkpoints hold no such weights.
    """
    for name, known in DTYPES.items():
        if dtype == known:
            return name
    raise CheckpointError(
        f"checkpoints hold torch.bfloat16 or torch.float32, got {dtype}; pass one of them as dtype"
    )


def expected_shapes(config: FlowMoConfig) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors of a model of ``config``; nothing is allocated."""
    with torch.device("meta"):
        state = FlowMoNetwork(config).state_dict()
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


def check_shapes(
    config: FlowMoConfig, came: Mapping[str, tuple[int, ...]], source: str | Path
) -> None:
    """Check that tensors are exactly those of a model of ``config``.

    Raises:
        CheckpointError: Some are missing, surplus or of another shape; all three are listed.
    """
    check_tensors(expected_shapes(config), came, source, label=config.name)


def check_tensors(
    expected: Mapping[str, tuple[int, ...]],
    came: Mapping[str, tuple[int, ...]],
    source: str | Path,
    *,
    label: str,
) -> None:
    """Check names and shapes of tensors against those that a model has.

    Args:
        expected: The model's.
        came: Those at hand.
        source: Where they come from, for the message.
        label: The name of the model's config.

    Raises:
        CheckpointError: Some are missing, surplus or of another shape; all three are listed.
    """
    missing = [name for name in expected if name not in came]
    surplus = [name for name in came if name not in expected]
    misshapen = [
        f"{name} {list(came[name])} instead of {list(shape)}"
        for name, shape in expected.items()
        if name in came and came[name] != shape
    ]
    problems = [
        f"{len(found)} {kind}: {listing(found)}"
        for kind, found in (
            ("missing", missing),
            ("surplus", surplus),
            ("of another shape", misshapen),
        )
        if found
    ]
    if problems:
        raise CheckpointError(
            f"{source} does not hold the {len(expected)} tensors of {label!r}; "
            f"{'; '.join(problems)}. Is it a checkpoint of another preset?"
        )


def save_checkpoint(
    state: Mapping[str, Tensor],
    config: FlowMoConfig,
    folder: str | Path,
    *,
    dtype: torch.dtype,
    max_shard_size: int | str = DEFAULT_MAX_SHARD_SIZE,
) -> str:
    """Write a checkpoint folder; a checkpoint that is already there is replaced.

    The weights are complete on disk before anything is replaced, and ``config.json`` is absent
    while files are exchanged: a folder that has one is whole. It may be the folder that ``state``
    was loaded from.

    Args:
        state: The model's state dict, floating, on any device.
        config: The config of the model.
        folder: The folder, made if it does not exist; other files in it stay.
        dtype: torch.bfloat16 or torch.float32.
        max_shard_size: The largest safetensors file, in bytes or as ``"5GB"``.

    Returns:
        The fingerprint, which depends on ``state`` and ``config`` alone.

    Raises:
        CheckpointError: The dtype cannot be stored, or the tensors are not those of ``config``.
    """
    name, folder = dtype_name(dtype), Path(folder)
    check_shapes(config, {key: tuple(tensor.shape) for key, tensor in state.items()}, "the model")
    fingerprint = compute_fingerprint(config, state)
    record = {
        "format_version": FORMAT_VERSION,
        "model_type": MODEL_TYPE,
        "fingerprint": fingerprint,
        "dtype": name,
        "config": config.to_dict(),
    }
    write_folder(
        folder,
        state,
        record,
        dtype=dtype,
        max_shard_size=max_shard_size,
        metadata=_voucher(fingerprint, config),
    )
    return fingerprint


def write_folder(
    folder: Path,
    state: Mapping[str, Tensor],
    record: Mapping[str, Any],
    *,
    dtype: torch.dtype,
    max_shard_size: int | str = DEFAULT_MAX_SHARD_SIZE,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write weights and ``config.json`` of a model of any type, as :func:`save_checkpoint` does.

    Args:
        folder: The folder.
        state: The weights, on any device.
        record: What ``config.json`` says.
        dtype: The dtype to store, which the record names.
        max_shard_size: The largest safetensors file, in bytes or as ``"5GB"``.
        metadata: What the files of weights say of themselves.
    """
    stale = (WEIGHTS_FILE, INDEX_FILE, SHARD_PATTERN)
    with replacing_contents(folder, key=CONFIG_FILE, stale=stale) as temporary:
        stored = {key: tensor.detach().to("cpu", dtype) for key, tensor in state.items()}
        save_torch_state_dict(
            stored,
            str(temporary),
            max_shard_size=max_shard_size,
            metadata=dict(metadata or {}),
        )
        weights = list(temporary.iterdir())
        for file in weights:
            if file.suffix == ".safetensors":
                sort_metadata(file)
        config_file = temporary / CONFIG_FILE
        config_file.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        for file in weights:
            # safetensors lets the owner alone read; a server may run as somebody else.
            file.chmod(config_file.stat().st_mode)


def inspect_checkpoint(folder: str | Path) -> CheckpointInfo:
    """Read what a checkpoint holds, without its weights, and check that it is complete.

    Raises:
        CheckpointError: It is no checkpoint folder; a file is missing, malformed or of an unknown
            format version; tensors are missing, surplus, of another shape or dtype.
    """
    folder = Path(folder)
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise CheckpointError(
            f"{folder} {what}; a checkpoint is a folder with {CONFIG_FILE} and {WEIGHTS_FILE} "
            f"(`flowmo convert` makes one of a published .pth file)"
        )
    return inspect_folder(folder, MODEL_TYPE, FlowMoConfig.from_dict, check_shapes)


def inspect_folder(
    folder: Path,
    model_type: str,
    read_config: Callable[[dict[str, Any]], C],
    check: Callable[[C, Mapping[str, tuple[int, ...]], Path], None],
) -> CheckpointInfo[C]:
    """Read what a checkpoint of any model type holds; see :func:`inspect_checkpoint`.

    Args:
        folder: The folder.
        model_type: The type that ``config.json`` must name.
        read_config: Makes the config of what ``config.json`` has.
        check: Compares the tensors of the folder with those of a model of the config.

    Raises:
        CheckpointError: As of :func:`inspect_checkpoint`.
    """
    record = read_record(folder / CONFIG_FILE, model_type=model_type)
    try:
        config = read_config(record["config"])
    except (ConfigError, TypeError, ValueError) as error:
        raise CheckpointError(f"{folder / CONFIG_FILE} has an invalid config: {error}") from error
    placed = weight_files(folder)
    shapes: dict[str, tuple[int, ...]] = {}
    for path, names in placed.items():
        shapes |= tensor_shapes(path, names, record["dtype"])
    check(config, shapes, folder)
    return CheckpointInfo(
        folder=folder,
        config=config,
        fingerprint=record.get("fingerprint"),
        dtype=record["dtype"],
        files=tuple(sorted(placed)),
        shapes=shapes,
    )


def is_vouched_for(info: CheckpointInfo) -> bool:
    """Whether the weights' files say themselves that they have the stored fingerprint.

    They were then written with it and with this config, and nobody has put others in their place.
    Those of earlier releases and of other tools say nothing, and neither do parts of large ones.

    Raises:
        CheckpointError: They say that they are others.
    """
    if info.fingerprint is None:
        return False
    voucher = _voucher(info.fingerprint, info.config)
    said = [{k: v for k, v in metadata_of(path).items() if k in voucher} for path in info.files]
    for found in said:
        if found and found != voucher:
            raise stale_fingerprint(info, f"they were saved as {', '.join(found.values())}")
    return all(said)


def _voucher(fingerprint: str, config: FlowMoConfig) -> dict[str, str]:
    return {"flowmo.fingerprint": fingerprint, "flowmo.config": identity_digest(config)}


def stale_fingerprint(info: CheckpointInfo, found: str) -> CheckpointError:
    """The error for weights or a config that have not the stored fingerprint."""
    return CheckpointError(
        f"{info.folder / CONFIG_FILE} has the fingerprint {info.fingerprint}, but of its weights "
        f"{found}: weights or config were exchanged; save or download the checkpoint again"
    )


def load_weights(
    info: CheckpointInfo[Any],
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
) -> dict[str, Tensor]:
    """The state dict of an inspected checkpoint.

    On the CPU and in the stored dtype, tensors are private mappings of the files, read when used.

    Args:
        info: What :func:`inspect_checkpoint` found.
        dtype: The dtype to load as; as stored by default.
        device: The device to load to.

    Raises:
        CheckpointError: A file changed since, or cannot be read.
    """
    state: dict[str, Tensor] = {}
    for path in info.files:
        try:
            with safe_open(path, framework="pt", device=str(device)) as file:
                for name in file.keys():  # noqa: SIM118 (a file of tensors is no mapping)
                    state[name] = file.get_tensor(name).to(dtype)
        except (OSError, SafetensorError) as error:
            raise unreadable(path, error) from error
    return state


def load_checkpoint(
    folder: str | Path,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
) -> tuple[FlowMoConfig, dict[str, Tensor]]:
    """Load the config and state dict of a checkpoint folder; see :func:`load_weights`.

    Raises:
        CheckpointError: The folder is refused by :func:`inspect_checkpoint`.
    """
    info = inspect_checkpoint(folder)
    return info.config, load_weights(info, dtype=dtype, device=device)
