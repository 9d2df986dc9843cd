"""A checkpoint, loaded for inference on the device and in the dtype that suit each other."""

from collections.abc import Sequence
from pathlib import Path

import torch

from flowmo.cores import usable_cores
from flowmo.model import registry
from flowmo.model.errors import CheckpointError, ConfigError
from flowmo.model.flowmo import FlowMo
from flowmo.model.inference import HALVES, Half, InferenceModel

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def choose_device(device: str | torch.device) -> torch.device:
    """The device to compute on.

    Args:
        device: ``auto`` (the first GPU, else the CPU) or a PyTorch device.

    Raises:
        ConfigError: PyTorch does not know the device or cannot use it here.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).partition("\n")[0]
        raise ConfigError(
            f"device {str(device)!r} cannot be used: {reason}; try auto, cpu or cuda"
        ) from None
    return chosen


def choose_dtype(dtype: str | torch.dtype, device: torch.device) -> torch.dtype:
    """The dtype of weights and activations.

    Args:
        dtype: ``auto`` (bfloat16 on a GPU, float32 elsewhere), a name or a value of
            :data:`DTYPES`.
        device: The device that computes.

    Raises:
        ConfigError: The dtype is none of these.
    """
    if dtype == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    chosen = DTYPES.get(dtype) if isinstance(dtype, str) else dtype
    if chosen is None or chosen not in DTYPES.values():
        raise ConfigError(f"dtype must be auto or one of {sorted(DTYPES)}, got {str(dtype)!r}")
    return chosen


def load_inference_model(
    checkpoint: str | Path,
    *,
    device: str | torch.device = "auto",
    dtype: str | torch.dtype = "auto",
    threads: int | None = None,
    halves: Sequence[Half] = HALVES,
) -> InferenceModel:
    """Load a checkpoint for inference.

    Args:
        checkpoint: A folder with ``config.json`` and safetensors, or a hub repository.
        device: As for :func:`choose_device`.
        dtype: As for :func:`choose_dtype`.
        threads: CPU threads of the process for one operation; by default PyTorch's choice, but no
            more than there are cores for it (a container may have few of its machine's).
        halves: What is kept of the model, and placed on the device.

    Raises:
        CheckpointError: There is no such checkpoint, or it is damaged.
        ConfigError: The device or the dtype cannot be used.
    """
    chosen_device = choose_device(device)
    chosen_dtype = choose_dtype(dtype, chosen_device)
    wanted = threads or min(torch.get_num_threads(), usable_cores())
    # OpenMP keeps a pool of threads for each thread that computes in parallel, and with more of
    # them than cores each pool waits in a slower way: a step would take a quarter longer. So only
    # the thread that will serve the device gets one, not the one that loads.
    torch.set_num_threads(1)
    try:
        network = registry.load(checkpoint, expected=FlowMo)
        return InferenceModel(network, dtype=chosen_dtype, device=chosen_device, halves=halves)
    finally:
        torch.set_num_threads(wanted)


def check_has_tokens(model: InferenceModel, checkpoint: str | Path) -> None:
    """Refuse a continuous model where tokens are needed.

    Args:
        model: The model that was loaded.
        checkpoint: The name that it was loaded by, for the message.

    Raises:
        CheckpointError: The model's latent is continuous.
    """
    if model.config.quantizer != "lfq":
        raise CheckpointError(
            f"{checkpoint} is a continuous model ({model.config.name!r}): it has no tokens; use a "
            f"checkpoint with quantizer='lfq'"
        )
