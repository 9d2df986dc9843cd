"""Attention with an explicit score scale, by the faster of two equal ways.

Shape legend: B batch, H heads, L tokens, C head dimension.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

BACKENDS = (
    SDPBackend.CUDNN_ATTENTION,
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
)
# What the fast backends take; float32 is for checks, and must not meet them.
HALF_PRECISION = (torch.float16, torch.bfloat16)
_WARM_RUNS, _TIMED_RUNS = 3, 10

# auto: whichever is faster here. fused: one operator. explicit: two products and a softmax.
Form = Literal["auto", "fused", "explicit"]

# Up to here the L x L scores of a head fit the caches of a CPU, and two batched products with a
# softmax between them beat its fused kernel (2.3 x at L = 320, C = 64, bf16, gradients included).
CPU_EXPLICIT_MAX_TOKENS = 1024


_form: Form = "auto"


@contextmanager
def attention_form(form: Form) -> Iterator[None]:
    """Have attention computed in one form while a graph is recorded; for the whole process."""
    global _form  # noqa: PLW0603  (a context variable would end a traced graph)
    before, _form = _form, form
    try:
        yield
    finally:
        _form = before


def attention(
    q: Tensor, k: Tensor, v: Tensor, scale: float, backends: Sequence[SDPBackend] = ()
) -> Tensor:
    """softmax(scale q k^T) v, all [B, H, L, C] of one dtype.

    Args:
        q: Queries, [B, H, L, C].
        k: Keys, of the same shape but for the number of tokens.
        v: Values, of the keys' shape.
        scale: What scores are multiplied by.
        backends: What computes fused attention of 16-bit queries on a GPU, the first that can;
            PyTorch's own choice if empty. The fast ones refuse float32, which is left to PyTorch.
    """
    form = _form
    if form == "auto":
        few = q.device.type == "cpu" and q.shape[-2] <= CPU_EXPLICIT_MAX_TOKENS
        form = "explicit" if few else "fused"
    if form == "explicit":
        scores = (q * scale) @ k.transpose(-1, -2)
        return scores.softmax(-1) @ v
    if backends and q.device.type == "cuda" and q.dtype in HALF_PRECISION:
        with sdpa_kernel(list(backends), set_priority=True):
            return F.scaled_dot_product_attention(q, k, v, scale=scale)
    return F.scaled_dot_product_attention(q, k, v, scale=scale)


def time_backends(
    *, rows: int, heads: int, tokens: int, head_dim: int, dtype: torch.dtype, device: torch.device
) -> dict[SDPBackend, float]:
    """Seconds of one attention by each backend that can compute it; on a CUDA device."""
    q, k, v = torch.randn(3, rows, heads, tokens, head_dim, dtype=dtype, device=device)
    seconds: dict[SDPBackend, float] = {}
    for backend in BACKENDS:
        try:
            with sdpa_kernel(backend):
                for _ in range(_WARM_RUNS):
                    F.scaled_dot_product_attention(q, k, v)
                begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
                begin.record()
                for _ in range(_TIMED_RUNS):
                    F.scaled_dot_product_attention(q, k, v)
                end.record()
                end.synchronize()
        except RuntimeError:  # not for this GPU, dtype or shape
            continue
        seconds[backend] = begin.elapsed_time(end) / 1e3 / _TIMED_RUNS
    return seconds


def ranked_backends(
    *, heads: int, tokens: int, head_dim: int, dtype: torch.dtype, device: torch.device
) -> tuple[SDPBackend, ...]:
    """Those that can compute it on this GPU, the fastest for one row first, then the plain form.

    The list ends in what can compute everything, so that a shape, a mask or a batch size that the
    fast ones refuse is slow and not an error.
    """
    with torch.inference_mode(), torch.cuda.device(device):
        seconds = time_backends(
            rows=1, heads=heads, tokens=tokens, head_dim=head_dim, dtype=dtype, device=device
        )
    return (*sorted(seconds, key=seconds.__getitem__), SDPBackend.MATH)
