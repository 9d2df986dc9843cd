"""Newer FlashAttention, where its package is installed, in the place of the one in PyTorch.

PyTorch has hooks for FlashAttention-3 (Hopper) and -4 (Hopper, Blackwell), which then compute what
:data:`torch.nn.attention.SDPBackend.FLASH_ATTENTION` names, for the whole process. cuDNN and the
others stay what they are, and :func:`flowmo.model.attention.ranked_backends` chooses among all.
"""

import logging
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Literal

import torch
import torch.nn.functional as F
from torch.nn import attention as hooks
from torch.nn.attention import SDPBackend, sdpa_kernel

from flowmo.model.attention import time_backends

logger = logging.getLogger(__name__)

Implementation = Literal["FA3", "FA4"]
# The packages whose modules PyTorch's hooks import.
_PACKAGES: dict[Implementation, str] = {"FA3": "flash_attn_interface", "FA4": "flash_attn"}
# The largest difference from float32 that 16-bit attention of unit normal values may have.
_TOLERANCE = 0.02


@dataclass(frozen=True, kw_only=True, slots=True)
class AttentionShape:
    """What attention is timed and checked at.

    Attributes:
        heads: H.
        tokens: L, of both streams.
        head_dim: C.
        dtype: A 16-bit one.
        device: A CUDA device.
    """

    heads: int
    tokens: int
    head_dim: int
    dtype: torch.dtype
    device: torch.device


def use_fastest_flash_attention(shape: AttentionShape) -> Implementation | None:
    """Activate the implementation that is installed, right and faster than PyTorch's own.

    It is the process's, not a model's: every later 16-bit attention by that backend is computed so.

    Args:
        shape: What the model asks of it.

    Returns:
        What is active now; None for PyTorch's own.
    """
    restore()
    best, least = None, _seconds(shape)
    for name in installed():
        try:
            hooks.activate_flash_attention_impl(name)
            seconds = _seconds(shape) if _is_right(shape) else None
        except Exception as error:  # noqa: BLE001  (a package with a compiler of its own)
            logger.warning("%s cannot compute attention here: %s", name, error)
            seconds = None
        finally:
            restore()
        if seconds is not None and (least is None or seconds < least):
            best, least = name, seconds
    if best is not None:
        hooks.activate_flash_attention_impl(best)
        logger.info("attention of the whole process is %s", best)
    return best


def installed() -> list[Implementation]:
    """Those that this PyTorch has a hook for, and whose package is here."""
    known = hooks.list_flash_attention_impls()
    return [name for name, package in _PACKAGES.items() if name in known and find_spec(package)]


def restore() -> None:
    """Have PyTorch's own compute again, if something else did."""
    if hooks.current_flash_attention_impl() is not None:
        hooks.restore_flash_attention_impl()


def _seconds(shape: AttentionShape) -> float | None:
    """Of one row, by whatever the flash backend is now; None if it refuses."""
    with torch.inference_mode(), torch.cuda.device(shape.device):
        seconds = time_backends(
            rows=1,
            heads=shape.heads,
            tokens=shape.tokens,
            head_dim=shape.head_dim,
            dtype=shape.dtype,
            device=shape.device,
        )
    return seconds.get(SDPBackend.FLASH_ATTENTION)


def _is_right(shape: AttentionShape) -> bool:
    """Whether it agrees with float32, for queries that are a slice of the tokens, as a stream's."""
    size = (1, shape.heads, shape.tokens, shape.head_dim)
    generator = torch.Generator().manual_seed(0)
    q, k, v = (
        torch.randn(size, generator=generator).to(shape.device, shape.dtype) for _ in range(3)
    )
    q = q[:, :, shape.tokens // 2 :]
    with torch.inference_mode():
        with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
            came = F.scaled_dot_product_attention(q, k, v)
        with sdpa_kernel(SDPBackend.MATH):
            expected = F.scaled_dot_product_attention(q.float(), k.float(), v.float())
    return bool((came.float() - expected).abs().max() <= _TOLERANCE)
