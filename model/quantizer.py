"""Lookup-free quantization and the Gaussian posterior (SPEC "Encode", paper section A.1).

Shape legend: B batch, K tokens, D bits a token, G bits an id, h = D / G ids a token, V = 2^G.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

ENTROPY_TEMPERATURE = 0.1
ENTROPY_EPS = 1e-5
LOG_VARIANCE_RANGE = (-30.0, 20.0)


def signs(code: Tensor) -> Tensor:
    """+1 where the code is positive, else -1 (zero counts as negative)."""
    return torch.where(code > 0, 1.0, -1.0).to(code.dtype)


def straight_through(code: Tensor) -> Tensor:
    """The signs, with the gradient of the identity."""
    return code + (signs(code) - code).detach()


def codes_to_ids(code: Tensor, group_bits: int) -> Tensor:
    """The ids of a code or of its signs.

    Element i = g (D / G) + j of a token, with 0 <= g < G and 0 <= j < D / G, is bit g, least
    significant first, of that token's id j (SPEC "Grouping").

    Args:
        code: [..., K, D].
        group_bits: G, dividing D.

    Returns:
        int64 [..., K, D / G], each in [0, 2^G).
    """
    bits = (code > 0).long().unflatten(-1, (group_bits, -1))
    places = torch.arange(group_bits, device=code.device)
    ids: Tensor = (bits << places[:, None]).sum(-2)
    return ids


def ids_to_signs(ids: Tensor, group_bits: int) -> Tensor:
    """The signs of ids, the inverse of :func:`codes_to_ids`.

    Args:
        ids: Integers [..., K, D / G], each in [0, 2^G).
        group_bits: G.

    Returns:
        Float32 [..., K, D], each -1 or +1.
    """
    shifts = torch.arange(group_bits, device=ids.device)
    bits = (ids[..., None, :] >> shifts[:, None]) & 1
    return (2.0 * bits - 1.0).float().flatten(-2)


@dataclass(frozen=True, kw_only=True, slots=True)
class LFQLosses:
    """Scalar losses of a mini-batch; entropy = per-sample entropy - codebook entropy."""

    entropy: Tensor
    per_sample_entropy: Tensor
    codebook_entropy: Tensor
    commitment: Tensor


def lfq_losses(
    code: Tensor, group_bits: int, *, temperature: float = ENTROPY_TEMPERATURE
) -> LFQLosses:
    """Entropy and commitment losses over all B K D/G vectors of G numbers.

    A vector's distribution over the 2^G sign vectors s is softmax(2 v.s / temperature). It is the
    product of the distributions of its two half-codes, so its entropy is the sum of theirs, and the
    mean distribution is one product of two matrices of 2^(G/2) columns: exact, without 2^G numbers
    for each vector.

    Args:
        code: [B, K, D], before quantization.
        group_bits: G, dividing D.
        temperature: The temperature of the softmax.

    Returns:
        Float32 scalars, in nats.
    """
    code = code.float()
    v = code.unflatten(-1, (group_bits, -1)).transpose(-1, -2).reshape(-1, group_bits)
    low = group_bits // 2
    log_p = [_log_distribution(half, temperature) for half in v.split([low, group_bits - low], 1)]
    p = [one.exp() for one in log_p]
    per_sample = -sum((a * b).sum(-1).mean() for a, b in zip(p, log_p, strict=True))
    assert isinstance(per_sample, Tensor)
    # The parity values show that epsilon stands in this logarithm only.
    mean = (p[0] / len(v)).T @ p[1]
    codebook = -(mean * (mean + ENTROPY_EPS).log()).sum()
    commitment = (code - signs(code).detach()).square().mean()
    return LFQLosses(
        entropy=per_sample - codebook,
        per_sample_entropy=per_sample,
        codebook_entropy=codebook,
        commitment=commitment,
    )


def _log_distribution(v: Tensor, temperature: float) -> Tensor:
    """Logarithms of the probabilities of all sign vectors, [n, 2^g], for vectors [n, g]."""
    bits = v.shape[1]
    table = ids_to_signs(torch.arange(2**bits, device=v.device)[:, None], bits)
    return F.log_softmax(2.0 / temperature * (v @ table.T), dim=-1)


class GaussianPosterior:
    """Diagonal Gaussian of the continuous variant; the code splits by feature.

    Args:
        code: [B, K, 2D]: mean, then log-variance (clamped to [-30, 20]).
    """

    def __init__(self, code: Tensor) -> None:
        self.mean, log_variance = code.float().chunk(2, dim=-1)
        self.log_variance = log_variance.clamp(*LOG_VARIANCE_RANGE)

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """mean + sigma * unit normal, [B, K, D]; gradients reach both parts."""
        unit = torch.randn(
            self.mean.shape,
            generator=generator,
            device=self.mean.device if generator is None else generator.device,
        ).to(self.mean.device)
        return self.mean + (0.5 * self.log_variance).exp() * unit

    def kl(self) -> Tensor:
        """KL to the unit normal, summed over K D, mean over the batch; a scalar."""
        terms = self.mean.square() + self.log_variance.exp() - 1 - self.log_variance
        return 0.5 * terms.flatten(1).sum(1).mean()
