"""A prior through torch.compile, on a GPU as CUDA graphs; checked against PyTorch first."""

import logging
from collections.abc import Callable, Sequence

from torch import Tensor

from flowmo.deploy.cuda_graphs import CudaGraphs
from flowmo.deploy.prior_golden import check_prior
from flowmo.deploy.regional import compile_graph
from flowmo.model.errors import CompilationError
from flowmo.model.prior.checkpoint import Prior

logger = logging.getLogger(__name__)


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
        error = check_prior(compute, prior, buckets)
    except CompilationError:
        raise
    except Exception as failure:
        # A compiler without its own compiler, a kernel that does not launch: whatever it is.
        raise CompilationError(f"the prior cannot be compiled: {failure}") from failure
    logger.info("the prior is compiled; relative error %.2g", error)
    return compute
