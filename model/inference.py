"""The form of the network that serves: equal numbers, less work (SPEC).

What differs from the training form, none of it visible in float32 beyond 1e-5:

- dead parts are gone: the encoder's modulation, time embedding, img head and the img stream after
  its last attention; the decoder's txt head and the txt stream after its last attention;
- modulation is one tensor for the whole network, computed for a time grid once and then looked up;
- rotary tables are kept for each image shape; the score scale is folded into the query norm;
- a guided step is one batch; weights live in one dtype, so nothing is cast on each call.

Shape legend: B rows, N patches, K latent tokens, L = K + N, d width, H heads, C head dimension,
M numbers of modulation a row.
"""

import copy
from collections import OrderedDict
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowmo.model.attention import attention
from flowmo.model.config import FlowMoConfig, SamplerConfig
from flowmo.model.convolutions import encoder_patches, in_two_parts, per_time, prediction
from flowmo.model.errors import ConfigError, TokenError
from flowmo.model.flowmo import FlowMo
from flowmo.model.network import decoder_shape, encoder_shape, patch_grid, with_mask
from flowmo.model.patches import patchify
from flowmo.model.quantizer import GaussianPosterior, codes_to_ids, ids_to_signs, signs
from flowmo.model.rotary import apply_rotary
from flowmo.model.sampler import Observer, euler, guided, noise, time_grid
from flowmo.model.tokens import Tokens
from flowmo.model.transformer import (
    RMS_NORM_EPS,
    DoubleStreamBlock,
    SelfAttention,
    Transformer,
    joint_rotary,
    layer_norm,
    time_embedding,
)

# Times whose modulation is kept; a row of Lo is 0.45 MB in bf16.
MAX_MODULATION_ROWS = 256


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


class _Block(nn.Module):
    """A block; the modulation argument is [2 streams][6][B, 1, d] or None for the identity."""

    def __init__(self, block: DoubleStreamBlock, *, img_alive: bool, txt_alive: bool) -> None:
        super().__init__()
        scale = block.attention_scale
        self.img = _Stream(block.img_attn, block.img_mlp, scale, alive=img_alive)
        self.txt = _Stream(block.txt_attn, block.txt_mlp, scale, alive=txt_alive)

    def forward(
        self, img: Tensor, txt: Tensor, table: Tensor, modulation: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        length = txt.shape[1]
        mods = (None, None) if modulation is None else (modulation[0], modulation[1])
        q_txt, k_txt, v_txt = self.txt.project(_modulated(txt, mods[1], 0), table[:, :length])
        q_img, k_img, v_img = self.img.project(_modulated(img, mods[0], 0), table[:, length:])
        queries = [q for q in (q_txt, q_img) if q is not None]
        q = torch.cat(queries, dim=2) if len(queries) == 2 else queries[0]
        k, v = torch.cat([k_txt, k_img], dim=2), torch.cat([v_txt, v_img], dim=2)
        out = attention(q, k, v, 1.0).transpose(1, 2).flatten(2)
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
    """Patches to code.

    Args:
        encoder: the training form; its weights are copied, its dead parts are not.
    """

    start: Tensor

    def __init__(self, encoder: Transformer) -> None:
        super().__init__()
        depth = len(encoder.double_blocks)
        self.img_in = _frozen(encoder.img_in)
        # The txt input is zeros, so all that is left of its projection is the bias.
        self.register_buffer("start", encoder.txt_in.bias.detach().clone())
        self.blocks = nn.ModuleList(
            _Block(block, img_alive=i < depth - 1, txt_alive=True)
            for i, block in enumerate(_blocks(encoder))
        )
        self.out = _frozen(encoder.final_layer_txt.linear)

    def forward(self, patches: Tensor, table: Tensor, code_length: int) -> Tensor:
        """[B, N, 3p^2] and the rotary table of L to the code [B, K, D]."""
        img = self.img_in(patches)
        txt = self.start.expand(img.shape[0], code_length, -1)
        for block in self.blocks:
            img, txt = block(img, txt, table, None)
        out: Tensor = self.out(layer_norm(txt))
        return out


class InferenceDecoder(nn.Module):
    """Noisy patches, condition and modulation to velocity patches.

    Args:
        decoder: the training form; its weights are copied, dead parts and modulation are not.
    """

    def __init__(self, decoder: Transformer) -> None:
        super().__init__()
        depth = len(decoder.double_blocks)
        self.depth, self.width = depth, decoder.img_in.out_features
        self.img_in, self.txt_in = _frozen(decoder.img_in), _frozen(decoder.txt_in)
        self.blocks = nn.ModuleList(
            _Block(block, img_alive=True, txt_alive=i < depth - 1)
            for i, block in enumerate(_blocks(decoder))
        )
        self.out = _frozen(decoder.final_layer_img.linear)

    def forward(
        self, patches: Tensor, condition: Tensor, modulation: Tensor, table: Tensor
    ) -> Tensor:
        """[B, N, 3p^2], [B, K, D + 1], [B, M] and the rotary table of L to [B, N, 3p^2]."""
        split = self.depth * 12 * self.width
        blocks = modulation[:, :split].unflatten(1, (self.depth, 2, 6, 1, -1)).movedim(0, 3)
        final = modulation[:, split : split + 2 * self.width]
        final = final.unflatten(1, (2, 1, -1)).movedim(0, 1)
        img, txt = self.img_in(patches), self.txt_in(condition)
        for i, block in enumerate(self.blocks):
            img, txt = block(img, txt, table, blocks[i])
        out: Tensor = self.out(layer_norm(_modulated(img, final, 0)))
        return out


class Modulator(nn.Module):
    """Times to the modulation of a whole decoder.

    It runs once a time grid, so it computes in float32 whatever dtype its weights are kept in.

    Args:
        decoder: the training form; its modulation and time weights are copied.
        rate: whether rows end with 1 / t, for a network that predicts the image.
    """

    def __init__(self, decoder: Transformer, *, rate: bool) -> None:
        super().__init__()
        self.rate = rate
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

    def forward(self, t: Tensor) -> Tensor:
        """[R] times to float32 [R, M]: depth x (img, txt) x (attention, MLP) x 3, final, rate.

        The three are shift, scale, gate; scales are kept as 1 + scale, which is what the network
        multiplies by. The rate 1 / t is two numbers to be added, since one would be coarse in bfloat16.
        """
        vec = time_embedding(t)
        for i, layer in enumerate(self.time_layers):
            vec = _linear32(layer, F.silu(vec) if i else vec)
        vec = F.silu(vec)
        unit = torch.tensor([0.0, 1.0, 0.0] * 2, device=t.device)[:, None]
        parts = [_linear32(layer, vec).unflatten(1, (6, -1)) + unit for layer in self.layers]
        parts.append(_linear32(self.final, vec).unflatten(1, (2, -1)) + unit[:2])
        if self.rate:
            parts.append(in_two_parts(per_time(t.float()), torch.bfloat16))
        return torch.cat([part.flatten(1) for part in parts], dim=1)


def _linear32(layer: nn.Module, x: Tensor) -> Tensor:
    assert isinstance(layer, nn.Linear)
    return F.linear(x, layer.weight.float(), layer.bias.float())


def _blocks(transformer: Transformer) -> list[DoubleStreamBlock]:
    return [b for b in transformer.double_blocks if isinstance(b, DoubleStreamBlock)]


class Steps(Protocol):
    """The two halves of a network, computed by something else than its PyTorch modules."""

    def encode(self, images: Tensor) -> Tensor:
        """Float [B, 3, S, S] in [-1, 1] to the code, float32 [B, K, D]."""
        ...

    def velocity(self, x: Tensor, condition: Tensor, modulation: Tensor) -> Tensor:
        """Float [B, 3, S, S], [B, K, D + 1] and [B, M] to the velocity, float32 [B, 3, S, S]."""
        ...


class InferenceModel:
    """A FlowMo model ready to tokenize and detokenize.

    Args:
        model: the training form; it is copied from, and may be freed afterwards.
        dtype: of weights and activations. The sampler's state stays float32.
        device: where to run.
        times: when given, only these times can be decoded at: their modulation is tabulated, and
            its weights (a third of a decoder) are not kept.

    Raises:
        ConfigError: ``times`` outside [0, 1].
    """

    def __init__(
        self,
        model: FlowMo,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        times: Sequence[float] | None = None,
    ) -> None:
        self.config: FlowMoConfig = model.config
        self.fingerprint: str = model.fingerprint()
        self.dtype, self.device = dtype, torch.device(device)
        self.encoder = InferenceEncoder(model.encoder)
        self.decoder = InferenceDecoder(model.decoder)
        self.stem, self.head = copy.deepcopy(model.stem), copy.deepcopy(model.head)
        for part in (self.encoder, self.decoder, self.stem, self.head):
            if part is not None:
                _place(part.requires_grad_(False), self.device, dtype)
        self._steps: Steps | None = None
        self._rotary: dict[tuple[bool, int, int], Tensor] = {}
        self._rows: OrderedDict[float, Tensor] = OrderedDict()
        self._modulator: Modulator | None = Modulator(
            model.decoder, rate=model.config.prediction == "image"
        ).to(self.device, dtype)
        if times is not None:
            self._rows.update(self._compute_modulation(times))
            self._modulator = None

    def compute_with(self, steps: Steps | None) -> None:
        """Have something else compute both halves from now on; None for the modules of this one."""
        self._steps = steps

    def _compute_modulation(self, times: Sequence[float]) -> dict[float, Tensor]:
        if not all(0.0 <= t <= 1.0 for t in times):
            raise ConfigError(f"decoding times lie in [0, 1], got {tuple(times)!r}")
        if self._modulator is None:
            known = sorted(self._rows, reverse=True)
            raise ConfigError(
                f"this model was built for the times {known} only, asked for {tuple(times)!r}; "
                f"build InferenceModel without times to decode on any grid"
            )
        with torch.inference_mode():
            t = torch.tensor(times, dtype=torch.float32, device=self.device)
            table = self._modulator(t).to(self.dtype)
            # Each row by itself, so that forgetting one frees it.
            return {time: row.clone() for time, row in zip(times, table, strict=True)}

    def modulation(self, times: Sequence[float]) -> Tensor:
        """Modulation at each of ``times``, [len(times), M]; that of the times used last is kept.

        Raises:
            ConfigError: a time outside [0, 1], or not one of those the model was built for.
        """
        missing = sorted({t for t in times if t not in self._rows}, reverse=True)
        computed = self._compute_modulation(missing) if missing else {}
        rows = torch.stack([computed[t] if t in computed else self._rows[t] for t in times])
        if self._modulator is not None:
            self._rows.update(computed)
            for t in set(times) & self._rows.keys():
                self._rows.move_to_end(t)
            while len(self._rows) > MAX_MODULATION_ROWS:
                self._rows.popitem(last=False)
        return rows

    def rotary(self, *, encoder: bool, grid: tuple[int, int]) -> Tensor:
        """The rotary table for images of ``grid`` patches, kept for every shape seen."""
        key = (encoder, *grid)
        if key not in self._rotary:
            shape = encoder_shape(self.config) if encoder else decoder_shape(self.config)
            table = joint_rotary(shape, self.config.code_length, grid)
            self._rotary[key] = table.to(self.device)
        return self._rotary[key]

    @torch.inference_mode()
    def encode(self, images: Tensor) -> Tensor:
        """Code of images, float32 [B, K, D] (2D for Gaussian); see FlowMoNetwork.encode."""
        grid = patch_grid(images, self.config.patch_size)
        if self._steps is not None:
            return self._steps.encode(images.to(self.device))
        images = images.to(self.device, self.dtype)
        patches = encoder_patches(images, self.stem, self.config.patch_size)
        table = self.rotary(encoder=True, grid=grid)
        code: Tensor = self.encoder(patches, table, self.config.code_length)
        return code.float()

    @torch.inference_mode()
    def quantize(self, code: Tensor) -> Tensor:
        """Signs of the code, or the posterior's mean: [B, K, D]."""
        return GaussianPosterior(code).mean if self._is_continuous else signs(code)

    @torch.inference_mode()
    def velocity(self, x: Tensor, t: float | Sequence[float], condition: Tensor) -> Tensor:
        """Velocity of rows that may be at different times.

        Args:
            x: [B, 3, H, W].
            t: one time, or one a row.
            condition: [B, K, D + 1].

        Returns:
            float32 [B, 3, H, W].
        """
        times = (t,) if isinstance(t, float | int) else tuple(t)
        return self.velocity_modulated(x, self.modulation(times), condition)

    @torch.inference_mode()
    def velocity_modulated(self, x: Tensor, modulation: Tensor, condition: Tensor) -> Tensor:
        """As :meth:`velocity`, the modulation [B, M] or [1, M] looked up by the caller."""
        grid = patch_grid(x, self.config.patch_size)
        condition = condition.to(self.device, self.dtype)
        if self._steps is not None:
            rows = modulation.expand(x.shape[0], -1)
            return self._steps.velocity(x.to(self.device), condition, rows)
        x = x.to(self.device)
        noisy = x.to(self.dtype)
        patches = patchify(noisy, self.config.patch_size)
        table = self.rotary(encoder=False, grid=grid)
        out = self.decoder(patches, condition, modulation, table)
        return velocity_of(self.config, out, x.float(), noisy, self.head, modulation)

    @torch.inference_mode()
    def decode(
        self,
        quantized: Tensor,
        *,
        start: Tensor,
        sampler: SamplerConfig | None = None,
        observer: Observer | None = None,
    ) -> Tensor:
        """Images of a quantized code from given noise.

        Args:
            quantized: [B, K, D].
            start: noise [B, 3, H, W].
            sampler: grid and guidance; the config's own by default.
            observer: sees each step.

        Returns:
            float32 [B, 3, H, W], clipped to [-1, 1].
        """
        sampler = sampler or self.config.sampler
        times = time_grid(sampler)
        # One look-up serves the whole run; the last time, 0, is never evaluated.
        table = dict(zip(times, self.modulation(times[:-1]).split(1), strict=False))
        condition = with_mask(quantized.to(self.device, self.dtype))

        def velocity(x: Tensor, t: float, rows: Tensor) -> Tensor:
            return self.velocity_modulated(x, table[t], rows)

        field = guided(velocity, condition, torch.zeros_like(condition), sampler)
        return euler(field, start.to(self.device), times, observer=observer).clamp(-1, 1)

    def tokenize(self, images: Tensor) -> list[Tokens]:
        """Tokens of images.

        Args:
            images: float [B, 3, H, W] in [-1, 1].

        Raises:
            ConfigError: images of a wrong shape.
            TokenError: the model is continuous and has no tokens.
        """
        if self._is_continuous:
            raise TokenError(
                f"model {self.config.name!r} has a continuous (Gaussian) latent and no tokens; "
                f"use a model with quantizer='lfq', or encode() for its latent"
            )
        ids = codes_to_ids(self.encode(images), self.config.group_bits)
        rows = ids.to("cpu", torch.int32).numpy()
        return [Tokens(ids=row, group_bits=self.config.group_bits) for row in rows]

    def check_tokens(self, tokens: Sequence[Tokens]) -> None:
        """Whether this model can decode them.

        Raises:
            TokenError: tokens of another shape.
        """
        config = self.config
        expected = (config.code_length, config.ids_per_token, config.group_bits)
        for item in tokens:
            if (came := (*item.ids.shape, item.group_bits)) != expected:
                raise TokenError(
                    f"tokens of {came[0]} x {came[1]} ids of {came[2]} bits came, model "
                    f"{config.name!r} takes {expected[0]} x {expected[1]} ids of {expected[2]} "
                    f"bits; were they made by another model?"
                )

    def detokenize(
        self,
        tokens: Sequence[Tokens],
        *,
        seeds: Sequence[int],
        sampler: SamplerConfig | None = None,
        observer: Observer | None = None,
    ) -> Tensor:
        """Images of tokens, each from the noise of its own seed.

        Args:
            tokens: of this model: K tokens of D bits in ids of G bits.
            seeds: one an image.
            sampler: grid and guidance; the config's own by default.
            observer: sees each step.

        Returns:
            float32 [B, 3, S, S] in [-1, 1], S the config's image size.

        Raises:
            TokenError: tokens of another shape, or not as many seeds as tokens.
        """
        config = self.config
        self.check_tokens(tokens)
        if len(seeds) != len(tokens):
            raise TokenError(f"{len(tokens)} token sets need as many seeds, got {len(seeds)}")
        size = config.image_size
        if not tokens:
            return torch.empty(0, 3, size, size)
        ids = torch.from_numpy(np.stack([item.ids for item in tokens]))
        quantized = ids_to_signs(ids, config.group_bits)
        start = noise(seeds, (3, size, size))
        return self.decode(quantized, start=start, sampler=sampler, observer=observer)

    @property
    def _is_continuous(self) -> bool:
        return self.config.quantizer == "gaussian"


def velocity_of(
    config: FlowMoConfig,
    out: Tensor,
    x: Tensor,
    noisy: Tensor,
    head: nn.Module | None,
    modulation: Tensor,
) -> Tensor:
    """A decoder's output as a velocity.

    Args:
        config: of the model.
        out: [B, N, dim], of the decoder's transformer.
        x: its input, float32 [B, 3, H, W].
        noisy: the same in the model's dtype.
        head: convolutions to pixels, if there are any.
        modulation: [B, M] or [1, M], that the output was computed with.

    Returns:
        float32 [B, 3, H, W].
    """
    said = prediction(out, noisy, head, config.patch_size).float()
    if config.prediction == "velocity":
        return said
    rate = modulation[:, -2:].float().sum(1)
    return (x - said) * rate[:, None, None, None]


def _place(module: nn.Module, device: torch.device, dtype: torch.dtype) -> None:
    """Move; norm scales stay float32, because the norm is computed in it."""
    scales = {name: buffer for name, buffer in module.named_buffers() if name.endswith("_scale")}
    module.to(device, dtype).eval()
    for name, buffer in scales.items():
        owner, _, leaf = name.rpartition(".")
        setattr(module.get_submodule(owner), leaf, buffer.to(device))
