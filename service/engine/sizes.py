"""What suits a kind of device when nobody says: the largest batch, and what computes."""

TORCH = "torch"

CPU_MAX_BATCH = 8
GPU_MAX_BATCH = 16


def default_max_batch(device: str) -> int:
    """Rows of the largest batch.

    Args:
        device: ``cpu`` or ``cuda``.
    """
    return GPU_MAX_BATCH if device == "cuda" else CPU_MAX_BATCH
