"""A CUDA stream for each device thread: models of one process do not wait for each other."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the contracts of the engine do not need torch
    import torch


@contextmanager
def own_stream(device: "torch.device") -> Iterator[None]:
    """Have the calling thread use a device, and a stream of its own there, while the block runs.

    PyTorch's present device and stream belong to a thread. All threads begin with the first GPU and
    its default stream, where the work of one model stands behind that of every other.

    Args:
        device: The device that computes; on anything but a GPU the block runs as it is.
    """
    if device.type != "cuda":
        yield
        return
    import torch

    with torch.cuda.device(device):
        stream = torch.cuda.Stream(device)
        # Weights were copied and cast on the default stream by the thread that loaded them.
        stream.wait_stream(torch.cuda.default_stream(device))
        with torch.cuda.stream(stream):
            yield
