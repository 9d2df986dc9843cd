"""Any number of rows through something that is compiled for certain numbers only."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def in_buckets(
    compute: Callable[..., Tensor], buckets: Sequence[int], inputs: Sequence[Tensor]
) -> Tensor:
    """Compute any number of rows with a function that takes certain numbers only.

    Args:
        compute: A function of inputs of one of the batch sizes.
        buckets: The batch sizes, ascending.
        inputs: Tensors [B, …], B at least 1. What is missing to a bucket is filled with zeros.
    """
    rows, most = inputs[0].shape[0], buckets[-1]
    if rows > most:
        parts = zip(*(value.split(most) for value in inputs), strict=True)
        # Copies, because a function may give the same memory each time.
        return torch.cat([in_buckets(compute, buckets, part).clone() for part in parts])
    missing = next(bucket for bucket in buckets if bucket >= rows) - rows
    if missing:
        inputs = [F.pad(value, (0, 0) * (value.ndim - 1) + (0, missing)) for value in inputs]
    return compute(*inputs)[:rows]
