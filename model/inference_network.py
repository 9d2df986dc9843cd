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

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend

from flowmo.model.attention import attention
from flowmo.model.head import Head, in_two_parts, rate, to_pixels
from flowmo.model.patches import patchify
from flowmo.model.rotary import apply_rotary
from flowmo.model.transformer import (
    RMS_NORM_EPS,
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

    def project(self, x: Tensor, table: Tensor) -> tuple[Tensor | None, Tensor, Tensor]:
        """[B, L, d] to rotated q (None if dead) and k, and v, each [B, H, L, C]."""
        parts = self.qkv(x).unflatten(-1, (3 if self.alive else 2, self.heads, -1))
        *queries, k, v = parts.permute(2, 0, 3, 1, 4).unbind(0)
        q = _norm_and_rotate(queries[0], self.q_scale, table) if queries else None
        return q, _norm_and_rotate(k, self.k_scale, table), v

    def mlp(self, x: Tensor) -> Tensor:
        out: Tensor = self.mlp_out(F.gelu(self.mlp_in(x), approximate="tanh"))
        return out


def _norm_and_rotate(x: Tensor, scale: Tensor, table: Tensor) -> Tensor:
    """RMS norm and rotation in float32, one cast back."""
    wide = x.float()
    normed = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + RMS_NORM_EPS) * scale
    return apply_rotary(normed, table).to(x.dtype)


class InferenceBlock(nn.Module):
    """A block; the modulation argument is [2 streams][6][B, 1, d] or None for the identity.

    Attributes:
        attention_backends: What computes attention on a GPU, see
            :func:`flowmo.model.attention.attention`.
    """

    def __init__(self, block: DoubleStreamBlock, *, img_alive: bool, txt_alive: bool) -> None:
        super().__init__()
        scale = block.attention_scale
        self.img = _Stream(block.img_attn, block.img_mlp, scale, alive=img_alive)
        self.txt = _Stream(block.txt_attn, block.txt_mlp, scale, alive=txt_alive)
        self.attention_backends: tuple[SDPBackend, ...] = ()

    def forward(
        self, img: Tensor, txt: Tensor, table: Tensor, modulation: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Update the streams [B, N, d] and [B, K, d]; see the class for the modulation."""
        length = txt.shape[1]
        mods = (None, None) if modulation is None else (modulation[0], modulation[1])
        q_txt, k_txt, v_txt = self.txt.project(_modulated(txt, mods[1], 0), table[:, :length])
        q_img, k_img, v_img = self.img.project(_modulated(img, mods[0], 0), table[:, length:])
        queries = [q for q in (q_txt, q_img) if q is not None]
        q = torch.cat(queries, dim=2) if len(queries) == 2 else queries[0]
        k, v = torch.cat([k_txt, k_img], dim=2), torch.cat([v_txt, v_img], dim=2)
        out = attention(q, k, v, 1.0, self.attention_backends).transpose(1, 2).flatten(2)
        if q_txt is not None:
            txt = self._finish(self.txt, txt, out[:, :length], mods[1])
        if q_img is not None:
            img = self._finish(self.img, img, out[:, out.shape[1] - img.shape[1] :], mods[0])
        return img, txt

    @staticmethod
    def _finish(stream: _Stream, x: Tensor, attended: Tensor, mod: Tensor | None) -> Tensor:
        x = _gated(x, stream.proj(attended), mod, 2)
        return _gated(x, stream.mlp(_modulated(x, mod, 3)), mod, 5)


def _modulated(x: Tensor, mod: Tensor | None, first: int) -> Tensor:
    """LN, then scale (kept as 1 + scale) and shift of the sub-layer whose chunks start at first."""
    normed = layer_norm(x)
    return normed if mod is None else torch.addcmul(mod[first], normed, mod[first + 1])


def _gated(x: Tensor, update: Tensor, mod: Tensor | None, gate: int) -> Tensor:
    return x + update if mod is None else torch.addcmul(x, mod[gate], update)


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
        out: Tensor = self.out(layer_norm(_modulated(img, final, 0)))
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
