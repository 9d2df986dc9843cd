"""Two pieces of work on a GPU at the same time, a small one beside a large one."""

import threading
from collections.abc import Callable
from typing import TypeVar

import torch

T = TypeVar("T")


class _Sides(threading.local):
    """A second stream a device and thread: a thread that captures a graph has it for itself."""

    def __init__(self) -> None:
        self.of: dict[torch.device, torch.cuda.Stream] = {}


_sides = _Sides()


def beside(small: Callable[[], T], large: Callable[[], T], device: torch.device) -> tuple[T, T]:
    """Launch both; what is launched afterwards waits for both.

    In a CUDA graph they become two branches. Whatever either reads must live until this returns,
    which arguments of the caller do: memory is then never given to somebody else too soon. What
    ``small`` allocates is freed to its own stream, which waits for the present one at the next
    call.

    Args:
        small: Work that leaves most of the device idle.
        large: Work beside which it fits.
        device: The CUDA device of both.

    Returns:
        What they return.
    """
    main = torch.cuda.current_stream(device)
    if (side := _sides.of.get(device)) is None:
        side = _sides.of[device] = torch.cuda.Stream(device)
    side.wait_stream(main)
    with torch.cuda.stream(side):
        first = small()
    second = large()
    main.wait_stream(side)
    return first, second
