"""A prior through torch.compile, on a GPU as CUDA graphs; checked against PyTorch first."""

import logging
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from flowmo.deploy.cuda_graphs import CudaGraphs
from flowmo.deploy.regional import compile_graph
from flowmo.model.errors import CompilationError
from flowmo.model.prior.checkpoint import Prior

logger = logging.getLogger(__name__)

# Relative errors, root mean square over all logits: sums in another order, in the dtype's rounding.
_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 3e-2, torch.float16: 5e-3}


def compile_prior(prior: Prior, buckets: Sequence[int]) -> Callable[[Tensor, Tensor], Tensor]:
    """Compile a prior for some batch sizes.

    Args:
        prior: The network, on its device, whose weights are shared and not copied.
        buckets: The batch sizes that will be asked for; each compiles now.

    Returns:
        A function of ids int64 [B, N] and classes int64 [B] that gives the logits [B, N, V], as the
        network does.

    Raises:
        CompilationError: It cannot be compiled here, or gives something else.
    """
    on_gpu = prior.bias.device.type == "cuda"
    compute: Callable[..., Tensor] = compile_graph(prior, freeze=not on_gpu)
    if on_gpu:
        compute = CudaGraphs(compute)
    try:
        error = max(_error(compute, prior, bucket) for bucket in buckets)
    except CompilationError:
        raise
    except Exception as failure:
        # A compiler without its own compiler, a kernel that does not launch: whatever it is.
        raise CompilationError(f"the prior cannot be compiled: {failure}") from failure
    most = _TOLERANCE[prior.bias.dtype]
    if not error <= most:
        raise CompilationError(
            f"the compiled prior differs from PyTorch's by {error:.2g} of its logits' size, at "
            f"most {most:g} is allowed"
        )
    logger.info("the prior is compiled; relative error %.2g", error)
    return compute


@torch.inference_mode()
def _error(compute: Callable[..., Tensor], prior: Prior, rows: int) -> float:
    config, device = prior.config, prior.bias.device
    generator = torch.Generator().manual_seed(rows)
    ids = torch.randint(config.mask_id + 1, (rows, config.length), generator=generator)
    classes = torch.randint(config.null_class + 1, (rows,), generator=generator)
    inputs = ids.to(device), classes.to(device)
    wanted = prior(*inputs).float()
    difference = compute(*inputs).float() - wanted
    return float(difference.square().mean().sqrt() / wanted.square().mean().sqrt())
