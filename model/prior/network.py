"""The network of a prior: which id stands in the masked places, given the others and a class.

Shape legend: B rows, N ids an image, L = N + 1 places with the class first, W width, H heads,
C head dimension, V = 2^G ids.
"""

import math
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowmo.model.attention import attention
from flowmo.model.errors import TokenError
from flowmo.model.prior.config import PriorConfig

# The deviation of initial weights in BERT and MaskGIT, here that of the published width.
INITIAL_DEVIATION, PUBLISHED_WIDTH = 0.02, 1024
_EPS = 1e-6


def _embedding(count: int, width: int) -> nn.Embedding:
    # Zeros until `initialize` or a checkpoint: torch's own normal numbers are thrown away either
    # way, and on the meta device they cost seconds of imports.
    made: nn.Embedding = nn.Embedding.from_pretrained(torch.zeros(count, width), freeze=False)
    return made


class Attention(nn.Module):
    """Attention of every place to every other, with normalized queries and keys.

    Args:
        width: W.
        heads: H.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.q_norm = nn.RMSNorm(width // heads, eps=_EPS)
        self.k_norm = nn.RMSNorm(width // heads, eps=_EPS)
        self.out = nn.Linear(width, width, bias=False)

    def forward(self, x_BLW: Tensor) -> Tensor:
        """What each place takes of the others, [B, L, W]."""
        qkv = self.qkv(x_BLW).unflatten(-1, (3, self.heads, -1))
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        q, k = _normalized(q, self.q_norm), _normalized(k, self.k_norm)
        mixed = attention(q, k, v, q.shape[-1] ** -0.5)
        out: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return out


def _normalized(x: Tensor, norm: nn.RMSNorm) -> Tensor:
    # In float32 whatever the weights are in, as in the tokenizer.
    scaled = F.rms_norm(x.float(), x.shape[-1:], norm.weight.float(), _EPS)
    return scaled.to(x.dtype)


class GatedMLP(nn.Module):
    """(SiLU(x A) * x B) C, Shazeer 2020.

    Args:
        width: W.
        inner: The inner width.
    """

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.rise = nn.Linear(width, 2 * inner, bias=False)
        self.fall = nn.Linear(inner, width, bias=False)

    def forward(self, x_BLW: Tensor) -> Tensor:
        """[B, L, W] of the same."""
        gate, value = self.rise(x_BLW).chunk(2, dim=-1)
        out: Tensor = self.fall(F.silu(gate) * value)
        return out


class Block(nn.Module):
    """x + attention, x + MLP, each of a normalized x.

    Args:
        config: The sizes.
    """

    def __init__(self, config: PriorConfig) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(config.width, eps=_EPS, bias=False)
        self.attention = Attention(config.width, config.heads)
        self.mlp_norm = nn.LayerNorm(config.width, eps=_EPS, bias=False)
        self.mlp = GatedMLP(config.width, config.mlp_width)

    def forward(self, x_BLW: Tensor) -> Tensor:
        """[B, L, W] of the same."""
        x_BLW = x_BLW + self.attention(self.attention_norm(x_BLW))
        out: Tensor = x_BLW + self.mlp(self.mlp_norm(x_BLW))
        return out


class PriorNetwork(nn.Module):
    """Logits of every id at every place.

    The class is a token before the ids. The readout shares its matrix with the ids' embedding, as
    in MaskGIT, with a dense layer before it and a bias for each id.

    Args:
        config: The sizes.
    """

    def __init__(self, config: PriorConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.ids = _embedding(config.vocabulary + 1, width)
        self.classes = _embedding(config.classes + 1, width)
        self.positions = _embedding(config.length + 1, width)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.norm = nn.LayerNorm(width, eps=_EPS, bias=False)
        self.dense = nn.Linear(width, width)
        self.dense_norm = nn.LayerNorm(width, eps=_EPS, bias=False)
        self.bias = nn.Parameter(torch.zeros(config.vocabulary))

    def forward(self, ids_BN: Tensor, classes_B: Tensor) -> Tensor:
        """Logits [B, N, V].

        Args:
            ids_BN: Whole numbers 0 ... V, where V is the mask.
            classes_B: Whole numbers 0 ... classes, where the last is the null class.

        Raises:
            TokenError: The shapes are others.
        """
        if ids_BN.ndim != 2 or ids_BN.shape[1] != self.config.length:
            raise TokenError(
                f"ids must be [B, {self.config.length}] for the prior {self.config.name!r}, got "
                f"{list(ids_BN.shape)}"
            )
        if classes_B.shape != ids_BN.shape[:1]:
            raise TokenError(
                f"classes must be [{len(ids_BN)}], one for each row, got {list(classes_B.shape)}"
            )
        x_BLW = torch.cat([self.classes(classes_B)[:, None], self.ids(ids_BN)], dim=1)
        x_BLW = x_BLW + self.positions.weight
        for block in self.blocks:
            x_BLW = block(x_BLW)
        x_BNW = self.dense_norm(F.gelu(self.dense(self.norm(x_BLW[:, 1:]))))
        return F.linear(x_BNW, self.ids.weight[: self.config.vocabulary], self.bias)


@torch.no_grad()
def initialize(network: PriorNetwork, *, seed: int) -> None:
    """Set the weights before the first step, each tensor from the seed in the order of names.

    Matrices are normal with deviation 0.02 at width 1024 and in proportion to 1 / sqrt(width), cut
    off at two deviations; those that end a residual branch are smaller by sqrt(2 depth), so that
    the depth does not decide how large x becomes. Ids that have bits in common begin alike, and so
    do places of one token, of one slot of the tokens, and of one row or column where K is a square
    (docs/decisions/0029).

    Args:
        network: Its weights are replaced, where they are.
        seed: The seed.
    """
    generator = torch.Generator().manual_seed(seed)
    config = network.config
    branch = (2 * config.depth) ** -0.5
    deviation = INITIAL_DEVIATION * (PUBLISHED_WIDTH / config.width) ** 0.5
    for name, parameter in sorted(network.named_parameters()):
        kind = _kind(name)
        if kind == "matrix":
            values = _normal(parameter.shape, deviation, generator)
            if name == "ids.weight":
                values[: config.vocabulary] += _by_bits(config, deviation, generator)
                values[: config.vocabulary] *= 0.5**0.5
            elif name == "positions.weight":
                values[1:] = _by_token_and_slot(config, deviation, generator)
            ends_branch = name.endswith((".attention.out.weight", ".mlp.fall.weight"))
            parameter.copy_(values * (branch if ends_branch else 1.0))
        else:
            parameter.fill_(1.0 if kind == "scale" else 0.0)


def _normal(shape: Sequence[int], deviation: float, generator: torch.Generator) -> Tensor:
    values = torch.empty(*shape)
    nn.init.trunc_normal_(
        values, std=deviation, a=-2 * deviation, b=2 * deviation, generator=generator
    )
    return values


def _by_bits(config: PriorConfig, deviation: float, generator: torch.Generator) -> Tensor:
    """[V, W]: a sum of one vector a bit, with the bit's sign."""
    bits = torch.arange(config.group_bits)
    signs_VG = 1.0 - 2.0 * ((torch.arange(config.vocabulary)[:, None] >> bits) & 1)
    vectors_GW = _normal((config.group_bits, config.width), deviation, generator)
    total: Tensor = signs_VG @ vectors_GW * config.group_bits**-0.5
    return total


def _by_token_and_slot(config: PriorConfig, deviation: float, generator: torch.Generator) -> Tensor:
    """[N, W]: a sum of vectors of the token, its slot, and its row and column."""
    places = torch.arange(config.length)
    tokens, slots = places // config.ids_per_token, places % config.ids_per_token
    parts = [tokens, slots]
    side = math.isqrt(config.code_length)
    if side * side == config.code_length:
        # The tokens may be a grid; a prior is not told, and learns it where they are not.
        parts += [tokens // side, tokens % side]
    total = torch.zeros(config.length, config.width)
    for part in parts:
        total += _normal((int(part.max()) + 1, config.width), deviation, generator)[part]
    return total.mul_(len(parts) ** -0.5)


def _kind(name: str) -> Literal["matrix", "scale", "bias"]:
    if name.endswith("norm.weight"):
        return "scale"
    return "bias" if name.endswith("bias") else "matrix"
