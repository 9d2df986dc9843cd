"""Networks that measure compute in float32 throughout, whatever a run trains in."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def exact_float32(device: torch.device | str) -> Iterator[None]:
    """Within it there is no autocast, and no product or convolution is rounded to TF32.

    cuDNN's convolutions take TF32 unless they are told not to, which moves FID and LPIPS in their
    third digit.

    Args:
        device: Where the networks compute.
    """
    products, convolutions = (
        torch.get_float32_matmul_precision(),
        torch.backends.cudnn.allow_tf32,
    )
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    try:
        with torch.autocast(torch.device(device).type, enabled=False):
            yield
    finally:
        torch.set_float32_matmul_precision(products)
        torch.backends.cudnn.allow_tf32 = convolutions
