"""Regional compilation: the blocks of a half are compiled, once for all, not the whole half.

Tracing and generating code for the whole of Lo takes three quarters of a minute a batch size; its
blocks are two kinds (in the last one a stream ends), and what is compiled for one serves all of a
kind. What lies between them is a few operations.

Weights are inputs of what is compiled, not constants in it. So the code is the same for every
checkpoint of these shapes, and Inductor can keep it on disk (:mod:`flowmo.deploy.compile_cache`);
on a CPU, where constants would be packed for its products, a step is no slower for it
(docs/decisions/0031-regional-compilation.md).
"""

import copy
import functools
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from flowmo.deploy.graphs import DecoderStepGraph, EncoderGraph

# All blocks of a process share one function, of which there is a variant a kind, batch size, half
# and model. PyTorch gives up at 8 of them.
_MOST_VARIANTS = 1024

M = TypeVar("M", bound=nn.Module)


def compile_blocks(graph: EncoderGraph | DecoderStepGraph) -> Callable[..., Tensor]:
    """Make the function of a graph whose blocks are compiled at its first call a batch size.

    Args:
        graph: The graph of a half; its weights are shared, its modules are not changed.

    Returns:
        A function of the graph's inputs, of any strides.
    """
    compiled = _with_compiled_blocks(graph)
    # On a CPU Inductor's processes do nothing but start the compiler, which this one can, too; and
    # they would be started for code that is read from disk.
    workers = {"compile_threads": 1} if graph.table.device.type == "cpu" else {}
    return _called(compiled.forward, workers)


def compile_graph(graph: Callable[..., Tensor], *, freeze: bool) -> Callable[..., Tensor]:
    """A whole function of tensors, compiled at its first call a batch size.

    Args:
        graph: The function, or a module.
        freeze: Whether weights are constants, packed once for a CPU's products.
    """
    return _called(torch.compile(graph, dynamic=False, fullgraph=True), {"freezing": freeze})


def _called(
    compiled: Callable[..., Tensor], inductor_settings: dict[str, Any]
) -> Callable[..., Tensor]:
    """What calls, or compiles, with settings that hold meanwhile, for inputs of any strides."""

    @functools.wraps(compiled)
    def compute(*inputs: Tensor) -> Tensor:
        import torch._dynamo.config as dynamo
        import torch._inductor.config as inductor

        with (
            inductor.patch(inductor_settings),
            dynamo.patch(
                recompile_limit=_MOST_VARIANTS, accumulated_recompile_limit=_MOST_VARIANTS
            ),
            torch.inference_mode(),
        ):
            output: Tensor = compiled(*(_plain(value) for value in inputs))
        return output

    return compute


def _with_compiled_blocks(
    graph: EncoderGraph | DecoderStepGraph,
) -> EncoderGraph | DecoderStepGraph:
    """A graph of the same modules, but for its blocks."""
    graph, network = shallow(graph), shallow(graph.network)
    network.blocks = nn.ModuleList(_CompiledBlock(block) for block in graph.network.blocks)
    graph.network = network
    return graph


class _CompiledBlock(nn.Module):
    """A block, compiled at its first call of a kind and batch size."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.compiled = torch.compile(block, dynamic=False, fullgraph=True)

    def forward(
        self, img: Tensor, txt: Tensor, table: Tensor, modulation: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """See :class:`flowmo.model.inference_network.InferenceBlock`."""
        # The encoder's first is one row, seen many times: by its strides it would be another kind.
        streams: tuple[Tensor, Tensor] = self.compiled(
            img.contiguous(), txt.contiguous(), table, modulation
        )
        return streams


def shallow(module: M) -> M:
    """A module that shares all parts of another; to exchange one changes its own list alone."""
    made = copy.copy(module)
    made.__dict__["_modules"] = dict(module._modules)
    return made


def _plain(value: Tensor) -> Tensor:
    """Contiguous, and made in inference mode: PyTorch compiles once more for each other kind."""
    if value.is_inference():
        return value.contiguous()
    return value.clone(memory_format=torch.contiguous_format)
