"""Attention with an explicit score scale, by the faster of two equal ways.

Shape legend: B batch, H heads, L tokens, C head dimension.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch.nn.functional as F
from torch import Tensor

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


def attention(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    """softmax(scale q k^T) v, all [B, H, L, C] of one dtype."""
    form = _form
    if form == "auto":
        few = q.device.type == "cpu" and q.shape[-2] <= CPU_EXPLICIT_MAX_TOKENS
        form = "explicit" if few else "fused"
    if form == "explicit":
        scores = (q * scale) @ k.transpose(-1, -2)
        return scores.softmax(-1) @ v
    return F.scaled_dot_product_attention(q, k, v, scale=scale)
