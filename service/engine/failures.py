"""What the error of a batch says about the device: out of memory, lost for good, or neither.

A CUDA error of the first kind passes: the batch was too large for what was free. One of the second
kind is sticky: CUDA's documentation says of it that the process is in an inconsistent state, that
any further work returns the same error, and that the process must be ended and started again.
"""

import gc
from collections.abc import Iterator
from typing import Literal

import torch

# memory: a smaller batch may do; lost: nothing will, in this process; other: anything else.
FailureKind = Literal["memory", "lost", "other"]

# Each as its library writes it, in lower case: PyTorch's allocators, CUDA, cuBLAS and cuDNN, C++.
_MEMORY_TEXTS = (
    "out of memory",
    "outofmemory",
    "can't allocate memory",
    "failed to allocate memory",
    "_status_alloc_failed",
    "bad_alloc",
)
# The texts of the errors after which a CUDA context is of no more use (cudaGetErrorString), and
# what the libraries above it make of them.
_LOST_TEXTS = (
    "illegal memory access",
    "illegal instruction",
    "misaligned address",
    "invalid program counter",
    "operation not supported on global/shared address space",
    "unspecified launch failure",
    "launch timed out",
    "launch failure",
    "hardware stack error",
    "device-side assert",
    "uncorrectable ecc error",
    "uncorrectable nvlink error",
    "contained error",
    "external device error",
    "driver shutting down",
    "gpu is lost",
    "device not ready for use",
    "cublas_status_execution_failed",
    "cudnn_status_execution_failed",
)


def kind_of(error: BaseException) -> FailureKind:
    """Say what an error of a batch means for the batches after it.

    Args:
        error: What a runner raised; what it was raised from counts, too.
    """
    errors = tuple(_chain(error))
    texts = [str(one).lower() for one in errors]
    if any(text in said for said in texts for text in _LOST_TEXTS):
        return "lost"
    if any(isinstance(one, torch.OutOfMemoryError | MemoryError) for one in errors):
        return "memory"
    if any(text in said for said in texts for text in _MEMORY_TEXTS):
        return "memory"
    return "other"


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__


def release_memory() -> None:
    """Give what PyTorch's allocator holds and nobody uses back to the device."""
    gc.collect()  # the tensors of the batch that failed hang on its traceback
    if torch.cuda.is_initialized():
        try:
            torch.cuda.empty_cache()
        except RuntimeError as error:
            # The allocator refuses while another model's graph is captured: it keeps what it has.
            if kind_of(error) == "lost":
                raise
