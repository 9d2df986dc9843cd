"""A gated update of the residual stream, and the modulated layer norm of the sum.

Shape legend: B rows, N tokens of a stream, d width.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from flowmo.model.kernels.quantize import Quantized, pairs, quantized
from flowmo.model.transformer import layer_norm


def gated_norm(
    x: Sequence[Tensor],
    update: Sequence[Tensor],
    modulation: Tensor | None,
    which: Sequence[int],
    *,
    gate: int | None,
    first: int | None,
    fused: bool,
    quantize: bool = False,
) -> tuple[list[Tensor], list[Tensor] | list[Quantized]]:
    """x + gate · update, and (1 + scale) · LN of that + shift, of one or two streams.

    Args:
        x: The streams, each [B, N, d].
        update: What is added to them, of the same shapes; empty without ``gate``.
        modulation: [streams, 6, B or 1, 1, d], scales kept as 1 + scale, or None for the identity.
        which: The row of ``modulation`` of each stream.
        gate: The chunk of the gate; None to add nothing.
        first: The chunk of the shift, the scale follows it; None to norm nothing.
        fused: Whether Triton computes all of it in one launch, in float32 with one rounding.
        quantize: Whether the normed streams are in fp8.

    Returns:
        The updated streams (``x`` itself without ``gate``), and the normed ones (none without
        ``first``).
    """
    if fused:
        from flowmo.model.kernels.triton_gated_norm import gated_norm as launch

        if modulation is not None:
            # [streams, 6, B, d]: the kernel reads a row's chunks at their strides.
            modulation = modulation.squeeze(3)
        out = launch(
            list(x),
            list(update),
            modulation,
            list(which),
            -1 if gate is None else gate,
            -1 if first is None else first,
            quantize,
        )
        count = 0 if gate is None else len(x)
        added, normed = out[:count] or list(x), out[count:]
        return added, pairs(normed) if quantize else normed
    mods = [None if modulation is None else modulation[index] for index in which]
    added = list(x)
    if gate is not None:
        added = [_gated(*parts, gate) for parts in zip(x, update, mods, strict=True)]
    if first is None:
        return added, []
    normed = [modulated(value, mod, first) for value, mod in zip(added, mods, strict=True)]
    return added, [quantized(value) for value in normed] if quantize else normed


def modulated(x: Tensor, mod: Tensor | None, first: int) -> Tensor:
    """LN, then scale (kept as 1 + scale) and shift of the sub-layer whose chunks start at first.

    Args:
        x: [B, N, d].
        mod: [chunks, B or 1, 1, d], or None for the norm alone.
        first: The chunk of the shift.
    """
    normed = layer_norm(x)
    return normed if mod is None else torch.addcmul(mod[first], normed, mod[first + 1])


def _gated(x: Tensor, update: Tensor, mod: Tensor | None, gate: int) -> Tensor:
    return x + update if mod is None else torch.addcmul(x, mod[gate], update)
