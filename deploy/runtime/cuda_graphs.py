"""One CUDA graph for each batch size, over buffers that stay where they are."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

# Launches before a graph is captured: libraries allocate and choose kernels in the first.
_WARM_RUNS = 3


class CudaGraphs:
    """Calls of a function of tensors, replayed as graphs.

    Inputs are copied to the graph's own buffers on the device; the output is the graph's buffer,
    valid until the next call of the same batch size.

    Args:
        compute: A function of tensors with a batch dimension, on the device, that does not
            synchronize.
    """

    def __init__(self, compute: Callable[..., Tensor]) -> None:
        self._compute = compute
        self._captured: dict[int, tuple[torch.cuda.CUDAGraph, tuple[Tensor, ...], Tensor]] = {}
        self._pool: Any = None

    def __call__(self, *inputs: Tensor) -> Tensor:
        """Compute the function's output."""
        rows = inputs[0].shape[0]
        if rows not in self._captured:
            self._captured[rows] = self._capture(inputs)
        graph, buffers, output = self._captured[rows]
        for buffer, value in zip(buffers, inputs, strict=True):
            buffer.copy_(value)
        graph.replay()
        return output

    def _capture(
        self, inputs: tuple[Tensor, ...]
    ) -> tuple[torch.cuda.CUDAGraph, tuple[Tensor, ...], Tensor]:
        buffers = tuple(value.clone() for value in inputs)
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(_WARM_RUNS):
                self._compute(*buffers)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        # All of them share one pool: only one runs at a time.
        with torch.cuda.graph(graph, pool=self._pool):
            output = self._compute(*buffers)
        self._pool = self._pool or graph.pool()
        return graph, buffers, output
