"""The network modules that serve: equal numbers, less work (SPEC).

What differs from the training form, none of it visible in float32 beyond 1e-5:

- dead parts are gone: the encoder's modulation, time embedding, img head and the img stream after
  its last attention; the decoder's txt head and the txt stream after its last attention;
- modulation is one tensor for the whole network, computed apart for each time;
- the score scale is folded into the query norm; norm scales stay float32 whatever the weights are.

Shape legend: B rows, N patches, K latent tokens, L = K + N, d width, H heads, C head dimension,
M numbers of modulation a row.
"""

import copy
from collections.abc import Callable, Sequence
from functools import partial
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend

from flowmo.model.attention import attention
from flowmo.model.head import Head, in_two_parts, rate, to_pixels
from flowmo.model.kernels import choice
from flowmo.model.kernels.beside import beside
from flowmo.model.kernels.choice import NO_KERNELS
from flowmo.model.kernels.gated_norm import gated_norm, modulated
from flowmo.model.kernels.gelu import linear_gelu
from flowmo.model.kernels.qkv import joint_qkv
from flowmo.model.kernels.quantize import Quantized, quantize_rows
from flowmo.model.patches import patchify
from flowmo.model.transformer import (
    DoubleStreamBlock,
    SelfAttention,
    Transformer,
    layer_norm,
    time_embedding,
)


def _frozen(module: nn.Linear, rows: slice = slice(None)) -> nn.Linear:
    """A copy of a Linear (of some of its outputs), detached from the training form."""
    weight = module.weight.detach()[rows].clone()
    with torch.device("meta"):
        out = nn.Linear(weight.shape[1], weight.shape[0])
    out.weight = nn.Parameter(weight, requires_grad=False)
    out.bias = nn.Parameter(module.bias.detach()[rows].clone(), requires_grad=False)
    return out


class _Stream(nn.Module):
    """One stream of one block. ``alive`` is false for a stream that nobody reads any more."""

    q_scale: Tensor
    k_scale: Tensor

    def __init__(
        self, attn: SelfAttention, mlp: nn.Sequential, scale: float, *, alive: bool
    ) -> None:
        super().__init__()
        self.heads, self.alive = attn.heads, alive
        width = attn.proj.in_features
        # A dead stream still gives keys and values to the other one.
        self.qkv = _frozen(attn.qkv, slice(0 if alive else width, None))
        self.register_buffer("k_scale", attn.norm.key_norm.scale.detach().float().clone())
        if alive:
            self.register_buffer("q_scale", attn.norm.query_norm.scale.detach().float() * scale)
            first, last = mlp[0], mlp[2]
            assert isinstance(first, nn.Linear) and isinstance(last, nn.Linear)
            self.proj, self.mlp_in, self.mlp_out = _frozen(attn.proj), _frozen(first), _frozen(last)


class InferenceBlock(nn.Module):
    """A block; the modulation argument is [2 streams][6][B, 1, d] or None for the identity.

    Attributes:
        attention_backends: What computes attention on a GPU, see
            :func:`flowmo.model.attention.attention`.
        kernels: Which hand-written kernels compute what lies between the products.
    """

    def __init__(self, block: DoubleStreamBlock, *, img_alive: bool, txt_alive: bool) -> None:
        super().__init__()
        scale = block.attention_scale
        self.img = _Stream(block.img_attn, block.img_mlp, scale, alive=img_alive)
        self.txt = _Stream(block.txt_attn, block.txt_mlp, scale, alive=txt_alive)
        self.attention_backends: tuple[SDPBackend, ...] = ()
        self.kernels = NO_KERNELS

    def forward(
        self, img: Tensor, txt: Tensor, table: Tensor, modulation: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Update the streams [B, N, d] and [B, K, d]; see the class for the modulation."""
        use = self.kernels
        # Of eager launches alone: compiled code has one stream.
        apart = use.txt_beside and choice.on_gpu(img) and not torch.compiler.is_compiling()
        # In the sequence's order; the modulation has the img stream first.
        streams, x = (self.txt, self.img), [txt, img]
        _, normed = gated_norm(
            *(x, (), modulation, (1, 0)),
            gate=None,
            first=0,
            fused=use.fused_norm,
            quantize=use.fp8_rowwise,
        )
        products = _both(lambda i: streams[i].qkv(normed[i]), device=img.device if apart else None)
        q, k, v = joint_qkv(
            products,
            [stream.q_scale if stream.alive else None for stream in streams],
            [stream.k_scale for stream in streams],
            table,
            self.img.heads,
            fused=use.fused_qkv,
        )
        alive = [i for i, stream in enumerate(streams) if stream.alive]
        lengths = [x[i].shape[1] for i in alive]
        if apart and len(alive) == 2:
            queries = q.split(lengths, dim=2)
            txt, img = _both(
                lambda i: self._finish([i], x, [self._attend(queries[i], k, v)], modulation)[0],
                device=img.device,
            )
            return img, txt
        if use.split_attention:
            attended = [self._attend(queries, k, v) for queries in q.split(lengths, dim=2)]
        else:
            attended = list(self._attend(q, k, v).split(lengths, dim=1))
        for i, value in zip(alive, self._finish(alive, x, attended, modulation), strict=True):
            x[i] = value
        return x[1], x[0]

    def _attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """What queries [B, H, N, C] attend to, [B, N, d]."""
        return attention(q, k, v, 1.0, self.attention_backends).transpose(1, 2).flatten(2)

    def _finish(
        self, of: list[int], x: list[Tensor], attended: list[Tensor], modulation: Tensor | None
    ) -> list[Tensor]:
        """The rest of some streams after attention; 0 is txt, 1 is img."""
        use = self.kernels
        streams, which = [(self.txt, self.img)[i] for i in of], [1 - i for i in of]
        inputs: Sequence[Tensor | Quantized] = attended
        if use.fp8_rowwise:
            inputs = quantize_rows(attended, gelu=False, fused=use.fused_norm)
        left, normed = gated_norm(
            [x[i] for i in of],
            [stream.proj(value) for stream, value in zip(streams, inputs, strict=True)],
            modulation,
            which,
            gate=2,
            first=3,
            fused=use.fused_norm,
            quantize=use.fp8_rowwise,
        )
        updates = self._mlps(streams, normed)
        return gated_norm(
            left, updates, modulation, which, gate=5, first=None, fused=use.fused_norm
        )[0]

    def _mlps(
        self, streams: Sequence[_Stream], x: Sequence[Tensor] | Sequence[Quantized]
    ) -> list[Tensor]:
        """The MLPs of some streams, [B, N, d] to the same, not yet gated."""
        use = self.kernels
        if use.fp8_rowwise:
            products = [stream.mlp_in(value) for stream, value in zip(streams, x, strict=True)]
            quantized = quantize_rows(products, gelu=True, fused=use.fused_norm)
            return [stream.mlp_out(value) for stream, value in zip(streams, quantized, strict=True)]
        wide = [
            linear_gelu(value, stream.mlp_in, epilogue=use.gelu_epilogue)
            for stream, value in zip(streams, cast("Sequence[Tensor]", x), strict=True)
        ]
        return [stream.mlp_out(value) for stream, value in zip(streams, wide, strict=True)]


def _both(compute: Callable[[int], Tensor], device: torch.device | None) -> list[Tensor]:
    """Something of both streams, txt and img: in turn, or on a device beside each other."""
    if device is None:
        return [compute(0), compute(1)]
    return list(beside(partial(compute, 0), partial(compute, 1), device))


class InferenceEncoder(nn.Module):
    """The encoder: image patches in, the code out.

    Args:
        encoder: The training form; its weights are copied, its dead parts are not.
    """

    start: Tensor

    def __init__(self, encoder: Transformer) -> None:
        super().__init__()
        depth = len(encoder.double_blocks)
        self.img_in = _frozen(encoder.img_in)
        # The txt input is zeros, so all that is left of its projection is the bias.
        self.register_buffer("start", encoder.txt_in.bias.detach().clone())
        self.blocks = nn.ModuleList(
            InferenceBlock(block, img_alive=i < depth - 1, txt_alive=True)
            for i, block in enumerate(_blocks(encoder))
        )
        self.out = _frozen(encoder.final_layer_txt.linear)

    def forward(self, patches: Tensor, table: Tensor, code_length: int) -> Tensor:
        """Encode patches.

        Args:
            patches: [B, N, 3p^2].
            table: The rotary table of L positions.
            code_length: K.

        Returns:
            The code [B, K, D], not quantized.
        """
        img = self.img_in(patches)
        txt = self.start.expand(img.shape[0], code_length, -1)
        for block in self.blocks:
            img, txt = block(img, txt, table, None)
        out: Tensor = self.out(layer_norm(txt))
        return out


class InferenceDecoder(nn.Module):
    """The decoder: noisy patches, condition and modulation in, the velocity's patches out.

    Args:
        decoder: The training form; its weights are copied, dead parts and modulation are not.
        head: The decoder's head, if it has one; copied, too.
        patch_size: p.
        image: Whether the network predicts the image, not the velocity.
    """

    def __init__(
        self, decoder: Transformer, *, head: Head | None, patch_size: int, image: bool
    ) -> None:
        super().__init__()
        self.head = None if head is None else copy.deepcopy(head).requires_grad_(False)
        self.patch_size, self.image = patch_size, image
        depth = len(decoder.double_blocks)
        self.depth, self.width = depth, decoder.img_in.out_features
        self.img_in, self.txt_in = _frozen(decoder.img_in), _frozen(decoder.txt_in)
        self.blocks = nn.ModuleList(
            InferenceBlock(block, img_alive=True, txt_alive=i < depth - 1)
            for i, block in enumerate(_blocks(decoder))
        )
        self.out = _frozen(decoder.final_layer_img.linear)

    def forward(
        self, patches: Tensor, condition: Tensor, modulation: Tensor, table: Tensor
    ) -> Tensor:
        """Compute what the transformer says of patches.

        Args:
            patches: [B, N, 3p^2].
            condition: [B, K, D + 1]: the quantized code and a mask channel.
            modulation: [B, M] of :class:`Modulator`, or [1, M] for all rows.
            table: The rotary table of L positions.

        Returns:
            [B, N, 3p^2], and more numbers a patch for a head.
        """
        split = self.depth * 12 * self.width
        blocks = modulation[:, :split].unflatten(1, (self.depth, 2, 6, 1, -1)).movedim(0, 3)
        final = modulation[:, split : split + 2 * self.width]
        final = final.unflatten(1, (2, 1, -1)).movedim(0, 1)
        img, txt = self.img_in(patches), self.txt_in(condition)
        for i, block in enumerate(self.blocks):
            img, txt = block(img, txt, table, blocks[i])
        out: Tensor = self.out(layer_norm(modulated(img, final, 0)))
        return out

    def velocity(self, x: Tensor, condition: Tensor, modulation: Tensor, table: Tensor) -> Tensor:
        """Compute the velocity at a state.

        Args:
            x: The state, [B, 3, H, W].
            condition: As of :meth:`forward`, in the weights' dtype.
            modulation: As of :meth:`forward`, in the weights' dtype.
            table: As of :meth:`forward`.

        Returns:
            Float32 [B, 3, H, W].
        """
        noisy = x.to(condition.dtype)
        patches = self(patchify(noisy, self.patch_size), condition, modulation, table)
        said = to_pixels(patches, noisy, self.head, self.patch_size).float()
        if not self.image:
            return said
        per_time = modulation[:, -2:].float().sum(1)[:, None, None, None]
        return (x.float() - said) * per_time


class Modulator(nn.Module):
    """What turns times into the modulation of a whole decoder.

    It runs once a time grid, so it computes in float32 whatever dtype its weights are kept in. A
    third of a decoder's weights are its own, so it keeps them in the host's memory, and sends one
    layer after the other to the device of the times.

    Args:
        decoder: The training form; its modulation and time weights are copied.
        image: Whether the network predicts the image: rows then end with
            :func:`flowmo.model.head.rate`.
    """

    def __init__(self, decoder: Transformer, *, image: bool = False) -> None:
        super().__init__()
        self.image = image
        self.time_layers = nn.ModuleList(
            _frozen(layer) for layer in (decoder.time_in.in_layer, decoder.time_in.out_layer)
        )
        self.layers = nn.ModuleList(
            _frozen(layer)
            for block in _blocks(decoder)
            for layer in (block.img_mod.lin, block.txt_mod.lin)
        )
        final = decoder.final_layer_img.adaLN_modulation[1]
        assert isinstance(final, nn.Linear)
        self.final = _frozen(final)

    def place(self, device: torch.device) -> None:
        """Keep the weights where they reach a device soon: page-locked for a GPU."""
        if device.type == "cuda":
            for layer in (*self.time_layers, *self.layers, self.final):
                for parameter in layer.parameters():
                    parameter.data = parameter.data.pin_memory()

    def forward(self, t: Tensor) -> Tensor:
        """Compute the modulation at R times.

        Args:
            t: [R] times in [0, 1].

        Returns:
            Float32 [R, M]: depth x (img, txt) x (attention, MLP) x 3, then that of the final layer.
            The three are shift, scale, gate; scales are kept as 1 + scale, which is what the
            network multiplies by. A rate is two numbers at the end, to be added: one would be
            coarse in bfloat16.
        """
        vec = time_embedding(t)
        for i, layer in enumerate(self.time_layers):
            vec = _linear32(layer, F.silu(vec) if i else vec)
        vec = F.silu(vec)
        unit = torch.tensor([0.0, 1.0, 0.0] * 2, device=t.device)[:, None]
        parts = [_linear32(layer, vec).unflatten(1, (6, -1)) + unit for layer in self.layers]
        parts.append(_linear32(self.final, vec).unflatten(1, (2, -1)) + unit[:2])
        if self.image:
            parts.append(in_two_parts(rate(t.float()), torch.bfloat16))
        return torch.cat([part.flatten(1) for part in parts], dim=1)


def _linear32(layer: nn.Module, x: Tensor) -> Tensor:
    assert isinstance(layer, nn.Linear)
    weight, bias = (value.to(x.device, non_blocking=True) for value in (layer.weight, layer.bias))
    return F.linear(x, weight.float(), bias.float())


def _blocks(transformer: Transformer) -> list[DoubleStreamBlock]:
    return [b for b in transformer.double_blocks if isinstance(b, DoubleStreamBlock)]


def place(module: nn.Module, device: torch.device, dtype: torch.dtype) -> None:
    """Move and cast a module; norm scales stay float32, because the norm is computed in it."""
    scales = {name: buffer for name, buffer in module.named_buffers() if name.endswith("_scale")}
    module.to(device, dtype).eval()
    for name, buffer in scales.items():
        owner, _, leaf = name.rpartition(".")
        setattr(module.get_submodule(owner), leaf, buffer.to(device))
