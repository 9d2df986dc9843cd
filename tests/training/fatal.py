"""A process that kills itself, threads and all, instead of one of its operations on files."""

import os
import signal
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

_OPERATIONS = ("fsync", "mkdir", "rename", "replace", "rmdir", "unlink")


def arm(fatal: int) -> None:
    """Have this process killed instead of one of the operations that change files.

    Args:
        fatal: Its number, counted from 1.
    """
    counted = 0

    def counting(operation: Callable[P, R]) -> Callable[P, R]:
        def wrapped(*arguments: P.args, **options: P.kwargs) -> R:
            nonlocal counted
            counted += 1
            if counted == fatal:
                os.kill(os.getpid(), signal.SIGKILL)
            return operation(*arguments, **options)

        return wrapped

    for name in _OPERATIONS:
        setattr(os, name, counting(getattr(os, name)))
