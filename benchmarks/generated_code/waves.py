"""An estimate of a decode's time on an H100 from launches, traffic and waves of tiles.

It is a model, not a measurement. A product or attention is cut into tiles, each of which one of the
132 multiprocessors computes at its share of the peak; the last wave may be nearly empty, and costs
what a full one does. What lies between is memory traffic. The few constants stand below.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

from flowmo.model.config import FlowMoConfig, SamplerConfig
from flowmo.model.sampler import is_guided, time_grid

MULTIPROCESSORS = 132
"""Of an H100 SXM."""
PRODUCT_PEAK = 798e12
"""FLOP a second of a large bf16 product, measured on that card."""
FP8_PRODUCT_PEAK = 1200e12
"""The same in fp8 with scales of rows: a guess. The card's own limit is twice that of bf16, of
which short sums (1152 numbers in three of four products) and scaling leave less than there."""
TRAFFIC_PEAK = 2.57e12
"""Bytes a second of elementwise kernels, 86 % of the 3.0 TB/s of a copy."""
# Rows and columns of a product's tile, and the share of the peak that its kernel reaches.
_PRODUCT_TILES = ((128, 256, 1.0), (128, 128, 0.8))


@dataclass(frozen=True, kw_only=True, slots=True)
class Attention:
    """Who computes attention: the queries of a tile, and FLOP a second when every wave is full."""

    tile: int
    peak: float


CUDNN = Attention(tile=128, peak=478e12)
"""What PyTorch brings."""
FLASH = Attention(tile=192, peak=600e12)
"""FlashAttention-3 or -4 at a head dimension of 96: a guess, between those of 64 and 128."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Form:
    """How a block is computed.

    Attributes:
        units: U of traffic a block, of :func:`benchmarks.generated_code.count.count`.
        attention: Who computes attention.
        split_attention: Whether each stream's queries are a call of their own.
        txt_beside: Whether the txt stream costs nothing, because it fills what the waves of the img
            stream leave idle: the best that can come of it.
        fp8: Whether products are in fp8.
    """

    units: float
    attention: Attention
    split_attention: bool
    txt_beside: bool
    fp8: bool = False


def forward_seconds(config: FlowMoConfig, rows: int, form: Form) -> dict[str, float]:
    """Seconds of one forward of the decoder's blocks, by what takes them.

    Args:
        config: The model.
        rows: The batch size.
        form: How a block is computed.

    Returns:
        ``img products``, ``txt products``, ``attention`` and ``elementwise``.
    """
    shape = config.decoder
    patches = (config.image_size // config.patch_size) ** 2
    streams = {"img": patches, "txt": config.code_length}
    tokens = sum(streams.values())
    width, wide = shape.width, shape.width * shape.mlp_ratio
    layers = ((width, 3 * width), (width, width), (width, wide), (wide, width))
    peak = FP8_PRODUCT_PEAK if form.fp8 else PRODUCT_PEAK
    seconds = {
        f"{name} products": sum(_product(rows * length, *layer, peak) for layer in layers)
        for name, length in streams.items()
    }
    calls = list(streams.values()) if form.split_attention else [tokens]
    if form.txt_beside:
        seconds["txt products"], calls = 0.0, [patches]
    seconds["attention"] = sum(
        _attention(rows, queries, tokens, shape.heads, shape.head_dim, form.attention)
        for queries in calls
    )
    unit = rows * tokens * width * 2
    seconds["elementwise"] = form.units * unit / TRAFFIC_PEAK
    return {name: value * shape.depth for name, value in seconds.items()}


def decode_seconds(
    config: FlowMoConfig, rows: int, forms: Sequence[Form], sampler: SamplerConfig
) -> float:
    """Seconds of a whole decode; guided steps are forwards of twice the rows.

    Args:
        config: The model.
        rows: The pictures that are decoded together.
        forms: How a block is computed at ``rows`` and at twice as many.
        sampler: Steps and guidance.
    """
    plain, guided = (
        sum(forward_seconds(config, count, form).values())
        for count, form in zip((rows, 2 * rows), forms, strict=True)
    )
    return sum(guided if is_guided(t, sampler) else plain for t in time_grid(sampler)[:-1])


def _product(rows: int, inner: int, outer: int, peak: float) -> float:
    """Seconds of [rows, inner] x [inner, outer] by the best of the tiles."""
    share = peak / MULTIPROCESSORS
    return min(
        ceil(ceil(rows / high) * ceil(outer / wide) / MULTIPROCESSORS)
        * (2 * high * wide * inner / (share * reached))
        for high, wide, reached in _PRODUCT_TILES
    )


def _attention(rows: int, queries: int, keys: int, heads: int, dim: int, by: Attention) -> float:
    tiles = ceil(queries / by.tile) * heads * rows
    tile = 4 * by.tile * keys * dim / (by.peak / MULTIPROCESSORS)
    return ceil(tiles / MULTIPROCESSORS) * tile
