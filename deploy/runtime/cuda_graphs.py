"""One CUDA graph for each batch size, over buffers that stay where they are."""

import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

# Launches before a graph is captured: libraries allocate and choose kernels in the first.
_WARM_RUNS = 3
# One capture at a time in the process: another one's warm-up may call what a capture forbids.
_CAPTURING = threading.Lock()


class CudaGraphs:
    """Calls of a function of tensors, replayed as graphs.

    Inputs are copied to the graph's own buffers on the device, and the output out of them, so that
    it stays what it is through later calls. It computes on the device of its inputs, whatever the
    thread's present device is; other threads may use the device during a capture.

    Args:
        compute: A function of tensors with a batch dimension, on one device, that does not
            synchronize.
    """

    def __init__(self, compute: Callable[..., Tensor]) -> None:
        self._compute = compute
        self._captured: dict[int, tuple[torch.cuda.CUDAGraph, tuple[Tensor, ...], Tensor]] = {}
        self._pool: Any = None
        # Captures that share a pool use the memory of each other's only on one and the same stream.
        self._stream: torch.cuda.Stream | None = None

    @torch.inference_mode()  # the buffers are such tensors, which nothing else may write to
    def __call__(self, *inputs: Tensor) -> Tensor:
        """Compute the function's output."""
        rows = inputs[0].shape[0]
        with torch.cuda.device(inputs[0].device):
            if rows not in self._captured:
                with _CAPTURING:
                    self._captured[rows] = self._capture(inputs)
            graph, buffers, output = self._captured[rows]
            for buffer, value in zip(buffers, inputs, strict=True):
                buffer.copy_(value)
            graph.replay()
            return output.clone()

    def _capture(
        self, inputs: tuple[Tensor, ...]
    ) -> tuple[torch.cuda.CUDAGraph, tuple[Tensor, ...], Tensor]:
        buffers = tuple(value.clone() for value in inputs)
        stream = self._stream = self._stream or torch.cuda.Stream(inputs[0].device)
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(_WARM_RUNS):
                self._compute(*buffers)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        # All of them share one pool: only one runs at a time. In the default mode a capture fails,
        # and breaks them, when any other thread allocates or waits on the device meanwhile.
        with torch.cuda.graph(
            graph, pool=self._pool, stream=stream, capture_error_mode="thread_local"
        ):
            output = self._compute(*buffers)
        self._pool = self._pool or graph.pool()
        return graph, buffers, output
