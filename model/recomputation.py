"""Less memory for the backward pass: parts of a network are computed again there."""

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar, cast

import torch
from torch.utils.checkpoint import (
    CheckpointPolicy,
    checkpoint,
    create_selective_checkpoint_contexts,
)

T = TypeVar("T")

_aten = torch.ops.aten
# The dearest operators for what their outputs weigh: a product of all tokens with all others.
KEPT_OPERATORS = frozenset(
    {
        _aten._scaled_dot_product_flash_attention.default,
        _aten._scaled_dot_product_efficient_attention.default,
        _aten._scaled_dot_product_cudnn_attention.default,
        _aten._scaled_dot_product_flash_attention_for_cpu.default,
    }
)


def _policy(_context: object, operator: object, *_: object, **__: object) -> CheckpointPolicy:
    if operator in KEPT_OPERATORS:
        return CheckpointPolicy.MUST_SAVE
    return CheckpointPolicy.PREFER_RECOMPUTE


def recomputed(function: Callable[..., T], *arguments: Any) -> T:
    """A function's result, with its inputs and fused attention's outputs alone kept for backward.

    Without gradients it is the plain call. Attention that is computed in parts, as for few tokens
    on a CPU, is computed again, too.

    Args:
        function: It uses no random numbers.
        arguments: Its arguments.
    """
    if not torch.is_grad_enabled():
        return function(*arguments)
    contexts = partial(create_selective_checkpoint_contexts, _policy)
    result = checkpoint(
        function,
        *arguments,
        use_reentrant=False,
        preserve_rng_state=False,
        context_fn=contexts,
    )
    return cast("T", result)
