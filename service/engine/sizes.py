"""Batch sizes by kind of device, and the name of what computes them by default."""

from flowmo.deploy.buckets import powers_of_two

TORCH = "torch"

CPU_MAX_BATCH = 8
GPU_MAX_BATCH = 16


def buckets_of(device: str, max_batch: int | None) -> tuple[int, ...]:
    """The batch sizes for a kind of device, ascending.

    Args:
        device: ``cpu`` or ``cuda``.
        max_batch: The largest batch size; what suits the device by default.
    """
    return powers_of_two(max_batch or (GPU_MAX_BATCH if device == "cuda" else CPU_MAX_BATCH))
