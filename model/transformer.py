"""The two-stream transformer that is both encoder and decoder (SPEC "One transformer").

Module names are those of the published checkpoints, so their state dicts load unchanged.

Shape legend: B batch, N patches, K latent tokens, L = K + N, d width, H heads, C head dimension.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowmo.model.attention import attention
from flowmo.model.config import TokenPositions, TransformerConfig
from flowmo.model.recomputation import recomputed
from flowmo.model.rotary import TableKey, apply_rotary, kept_table

LAYER_NORM_EPS = 1e-6
RMS_NORM_EPS = 1e-6
TIME_EMBEDDING_DIM = 256
TIME_SCALE = 1000.0
# muP attention: scores are scaled by 8 / C, which is 1 / sqrt(C) at C = 64 (SPEC, step 4).
ATTENTION_NUMERATOR = 8.0


class Streams(NamedTuple):
    """One tensor for each of the two streams."""

    img: Tensor
    txt: Tensor


class Modulation(NamedTuple):
    """Shift, scale and gate of one sub-layer, each [B, 1, d]."""

    shift: Tensor
    scale: Tensor
    gate: Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class TransformerShape:
    """A transformer and the sizes of what goes in and comes out."""

    transformer: TransformerConfig
    img_dim: int
    img_out_dim: int
    txt_in_dim: int
    txt_out_dim: int
    token_positions: TokenPositions


def joint_rotary(
    shape: TransformerShape,
    code_length: int,
    grid: tuple[int, int],
    device: torch.device | str = "cpu",
) -> Tensor:
    """Rotary table of the joint sequence, latent tokens first: float32 [2, K + N, C / 2].

    It is kept for the next call (:func:`flowmo.model.rotary.kept_table`): do not change it.
    """
    return kept_table(
        TableKey(
            rule=shape.token_positions,
            length=code_length,
            rows=grid[0],
            columns=grid[1],
            axes_dims=shape.transformer.rope_dims,
            device=torch.device(device),
        )
    )


def time_embedding(t: Tensor, dim: int = TIME_EMBEDDING_DIM) -> Tensor:
    """Sinusoids [cos, sin] of 1000 t 10000^(-i / (dim / 2)) (SPEC, step 2).

    Args:
        t: Times [B] in [0, 1].
        dim: The number of sinusoids, even.

    Returns:
        Float32 [B, dim].
    """
    half = dim // 2
    exponent = torch.arange(half, device=t.device, dtype=torch.float32) / half
    angle = TIME_SCALE * t.float()[:, None] * torch.pow(10_000.0, -exponent)
    return torch.cat([angle.cos(), angle.sin()], dim=-1)


def layer_norm(x: Tensor) -> Tensor:
    """Layer norm over the last dimension with no affine parameters."""
    return F.layer_norm(x, x.shape[-1:], eps=LAYER_NORM_EPS)


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """(1 + scale) LN(x) + shift."""
    return (1 + scale) * layer_norm(x) + shift


class TimeEmbedder(nn.Module):
    """Linear, SiLU, Linear on the sinusoidal embedding."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.in_layer = nn.Linear(TIME_EMBEDDING_DIM, width)
        self.out_layer = nn.Linear(width, width)

    def forward(self, t: Tensor) -> Tensor:
        """Embed times [B] as vectors [B, d]."""
        embedding = time_embedding(t).to(self.in_layer.weight.dtype)
        out: Tensor = self.out_layer(F.silu(self.in_layer(embedding)))
        return out


class RMSNorm(nn.Module):
    """RMS norm over the head dimension with a learned scale, computed in float32."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        """Norm x [..., C]; the result has x's shape and dtype."""
        wide = x.float()
        norm = torch.rsqrt(wide.square().mean(-1, keepdim=True) + RMS_NORM_EPS)
        return (wide * norm * self.scale.float()).to(x.dtype)


class QKNorm(nn.Module):
    """The norms of queries and keys."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.query_norm = RMSNorm(dim)
        self.key_norm = RMSNorm(dim)


class SelfAttention(nn.Module):
    """One stream's projections in and out of the joint attention."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.norm = QKNorm(width // heads)
        self.proj = nn.Linear(width, width)

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Project x [B, L, d] to normed q and k and plain v, each [B, H, L, C]."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return self.norm.query_norm(q), self.norm.key_norm(k), v


class ModulationLinear(nn.Module):
    """Linear(SiLU(vec)) to the six chunks of a block and stream."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.lin = nn.Linear(width, 6 * width)

    def forward(self, vec: Tensor) -> tuple[Modulation, Modulation]:
        """Compute the modulations of attention and MLP from the conditioning [B, d]."""
        chunks = self.lin(F.silu(vec))[:, None].chunk(6, dim=-1)
        return Modulation(*chunks[:3]), Modulation(*chunks[3:])


class DoubleStreamBlock(nn.Module):
    """One block: the streams have their own weights and meet in attention."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        d, hidden = config.width, config.width * config.mlp_ratio

        def mlp() -> nn.Sequential:
            return nn.Sequential(
                nn.Linear(d, hidden), nn.GELU(approximate="tanh"), nn.Linear(hidden, d)
            )

        self.attention_scale = ATTENTION_NUMERATOR / config.head_dim
        self.img_mod = ModulationLinear(d)
        self.img_attn = SelfAttention(d, config.heads)
        self.img_mlp = mlp()
        self.txt_mod = ModulationLinear(d)
        self.txt_attn = SelfAttention(d, config.heads)
        self.txt_mlp = mlp()

    def forward(self, x: Streams, vec: Tensor | None, table: Tensor) -> Streams:
        """Update the streams [B, N, d] and [B, K, d].

        Args:
            x: Both streams.
            vec: The conditioning [B, d], or None for the identity modulation.
            table: The rotary table of L positions.
        """
        img, txt = x
        if vec is None:  # the encoder has no timestep: modulation is the identity
            zero, one = img.new_zeros(()), img.new_ones(())
            identity = Modulation(shift=zero, scale=zero, gate=one)
            img_mods = txt_mods = (identity, identity)
        else:
            img_mods, txt_mods = self.img_mod(vec), self.txt_mod(vec)

        parts = [
            attn.project(modulate(stream, mods[0].shift, mods[0].scale))
            for attn, stream, mods in (
                (self.txt_attn, txt, txt_mods),
                (self.img_attn, img, img_mods),
            )
        ]
        q, k, v = (torch.cat(pair, dim=2) for pair in zip(*parts, strict=True))
        q, k = apply_rotary(q, table), apply_rotary(k, table)
        out = attention(q, k, v, self.attention_scale)
        out = out.transpose(1, 2).flatten(2)
        length = txt.shape[1]
        txt = txt + txt_mods[0].gate * self.txt_attn.proj(out[:, :length])
        img = img + img_mods[0].gate * self.img_attn.proj(out[:, length:])

        def mlp(stream: Tensor, net: nn.Sequential, mod: Modulation) -> Tensor:
            update: Tensor = net(modulate(stream, mod.shift, mod.scale))
            return stream + mod.gate * update

        return Streams(
            img=mlp(img, self.img_mlp, img_mods[1]), txt=mlp(txt, self.txt_mlp, txt_mods[1])
        )


class FinalLayer(nn.Module):
    """Modulate, norm once more, project (SPEC, step 5: the second norm is in the network)."""

    def __init__(self, width: int, out_dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, out_dim)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))

    def forward(self, x: Tensor, vec: Tensor | None) -> Tensor:
        """Project x [B, L, d] to [B, L, out]."""
        if vec is not None:
            shift, scale = self.adaLN_modulation(vec)[:, None].chunk(2, dim=-1)
            x = modulate(x, shift, scale)
        out: Tensor = self.linear(layer_norm(x))
        return out


def _run_again(block: nn.Module, x: Streams, vec: Tensor | None, table: Tensor) -> Streams:
    """What a block gives, with what is between kept for no backward pass."""

    # Tensors one by one, so that autograd knows what is kept.
    def run(img: Tensor, txt: Tensor, vec: Tensor | None, table: Tensor) -> Streams:
        out: Streams = block(Streams(img=img, txt=txt), vec, table)
        return out

    return recomputed(run, x.img, x.txt, vec, table)


class Transformer(nn.Module):
    """Two streams through ``depth`` joint blocks.

    Args:
        shape: The sizes of the blocks and of both streams' inputs and outputs.

    Attributes:
        recompute: Whether blocks keep only their inputs and attention's outputs for the backward
            pass, which then computes the rest once more; gradients are the same.
    """

    def __init__(self, shape: TransformerShape) -> None:
        super().__init__()
        config = shape.transformer
        self.shape = shape
        self.recompute = False
        self.time_in = TimeEmbedder(config.width)
        self.img_in = nn.Linear(shape.img_dim, config.width)
        self.txt_in = nn.Linear(shape.txt_in_dim, config.width)
        self.double_blocks = nn.ModuleList(DoubleStreamBlock(config) for _ in range(config.depth))
        self.final_layer_img = FinalLayer(config.width, shape.img_out_dim)
        self.final_layer_txt = FinalLayer(config.width, shape.txt_out_dim)

    def forward(
        self, patches: Tensor, txt: Tensor, grid: tuple[int, int], t: Tensor | None
    ) -> Streams:
        """Run both streams.

        Args:
            patches: [B, N, 3p^2], row-major.
            txt: [B, K, D_in].
            grid: (rows, columns) of the patches.
            t: [B] in [0, 1], or None for the encoder.

        Returns:
            img [B, N, 3p^2] (and what a head takes) and txt [B, K, D_out].
        """
        vec = None if t is None else self.time_in(t)
        table = joint_rotary(self.shape, txt.shape[1], grid, patches.device)
        x = Streams(img=self.img_in(patches), txt=self.txt_in(txt))
        for block in self.double_blocks:
            x = _run_again(block, x, vec, table) if self.recompute else block(x, vec, table)
        return Streams(img=self.final_layer_img(x.img, vec), txt=self.final_layer_txt(x.txt, vec))
