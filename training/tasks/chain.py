"""Gradients through the sampling chain (stage 1B, supplement A.2; distillation).

Shape legend: B batch, K tokens, D bits a token, S image side, n steps.
"""

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from flowmo.model.flowmo import FlowMo


def random_times(spacing: Tensor) -> Tensor:
    """Times of a chain with random spacing: t_i = (u_i + ... + u_n) / (u_1 + ... + u_n).

    Args:
        spacing: u, [B, n], at least 0.

    Returns:
        [B, n + 1], descending from 1 to 0.
    """
    # Zeros are possible in float32, though not all of a row: they would make 0 / 0.
    steps = spacing + torch.finfo(spacing.dtype).eps
    tails = steps.flip(1).cumsum(1).flip(1)
    return torch.cat([tails / tails[:, :1], torch.zeros_like(tails[:, :1])], dim=1)


def sample_chain(
    model: FlowMo, condition: Tensor, start: Tensor, times: Tensor, *, recompute: bool
) -> Tensor:
    """Euler's method along each image's own times, without guidance; gradients flow through all.

    Args:
        model: in training form.
        condition: [B, K, D + 1] with the mask channel.
        start: state at t = 1, [B, 3, S, S].
        times: [B, n + 1], descending from 1 to 0.
        recompute: keep only the states between the steps for the backward pass, and compute
            each step once more there. Gradients are the same.

    Returns:
        The sample [B, 3, S, S], not clipped: a clip would hide errors from the gradient.
    """

    def step(x: Tensor, t: Tensor, t_next: Tensor) -> Tensor:
        v = model.velocity(x, t, condition).float()
        return x - (t - t_next)[:, None, None, None] * v

    x = start
    for t, t_next in zip(times[:, :-1].unbind(1), times[:, 1:].unbind(1), strict=True):
        if recompute:
            stepped = checkpoint(step, x, t, t_next, use_reentrant=False, preserve_rng_state=False)
            assert isinstance(stepped, Tensor)
            x = stepped
        else:
            x = step(x, t, t_next)
    return x
