"""Whether something compiled computes what a prior means, before it serves."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from flowmo.deploy.prior_graph import prior_example
from flowmo.model.errors import CompilationError
from flowmo.model.prior.checkpoint import Prior

# Relative errors, root mean square over all logits: sums in another order, in the dtype's rounding.
_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 3e-2, torch.float16: 5e-3}


def check_prior(compute: Callable[..., Tensor], prior: Prior, buckets: Sequence[int]) -> float:
    """Compare logits with those of the network, at each batch size.

    Args:
        compute: A function of ids int64 [B, N] and classes int64 [B] that gives logits [B, N, V].
        prior: The network, on the device where it computes.
        buckets: The batch sizes that will be asked for.

    Returns:
        The largest relative error.

    Raises:
        CompilationError: It is larger than the dtype's rounding explains, or not a number.
    """
    errors = [_error(compute, prior, rows) for rows in buckets]
    most = _TOLERANCE[prior.bias.dtype]
    for rows, error in zip(buckets, errors, strict=True):
        if not error <= most:
            raise CompilationError(
                f"the compiled prior differs from PyTorch's by {error:.2g} of its logits' size at "
                f"batch size {rows}, at most {most:g} is allowed"
            )
    return max(errors)


@torch.inference_mode()
def _error(compute: Callable[..., Tensor], prior: Prior, rows: int) -> float:
    ids, classes = prior_example(prior.config, rows)
    inputs = ids.to(prior.bias.device), classes.to(prior.bias.device)
    wanted = prior(*inputs).float()
    difference = compute(*inputs).float() - wanted
    return float(difference.square().mean().sqrt() / wanted.square().mean().sqrt())
