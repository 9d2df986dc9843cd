"""A FlowMo model ready to tokenize and detokenize: the serving form behind tensors and tokens.

The modules are :mod:`flowmo.model.inference_network`'s. What is added here: images are checked, the
modulation of a time grid is computed once and then looked up, rotary tables are kept for each image
shape, a guided step is one batch, and weights live in one dtype, so nothing is cast on each call.

Shape legend: B rows, K latent tokens, D bits a token, S side of an image, M numbers of modulation a
row.
"""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Self

import numpy as np
import torch
from torch import Tensor

from flowmo.model.config import FlowMoConfig, SamplerConfig
from flowmo.model.decoding import decode_modulated
from flowmo.model.errors import ConfigError, TokenError
from flowmo.model.flowmo import FlowMo
from flowmo.model.halves import HALVES, DecodesWhole, Half, HoldsMemory, Steps, bytes_of
from flowmo.model.image_tensors import check_images
from flowmo.model.inference_network import InferenceDecoder, InferenceEncoder, Modulator, place
from flowmo.model.network import decoder_shape, encoder_shape, patch_grid, with_mask
from flowmo.model.patches import patchify
from flowmo.model.quantizer import GaussianPosterior, codes_to_ids, ids_to_signs, signs
from flowmo.model.sampler import Observer, noise, time_grid
from flowmo.model.tokens import Tokens
from flowmo.model.transformer import joint_rotary

__all__ = ["HALVES", "MAX_MODULATION_ROWS", "Half", "InferenceModel", "Steps"]

# Times whose modulation is kept; a row of Lo is 0.45 MB in bf16.
MAX_MODULATION_ROWS = 256


class InferenceModel:
    """A FlowMo model ready to tokenize and detokenize.

    Args:
        model: The training form; it is copied from, and may be freed afterwards.
        dtype: The dtype of weights and activations. The sampler's state stays float32.
        device: The device that computes.
        times: When given, only these times can be decoded at: their modulation is tabulated, and
            its weights (a third of a decoder) are not kept.
        halves: What is kept of the model; a process that only encodes needs no decoder.

    Attributes:
        halves: The halves that this model can compute.

    Raises:
        ConfigError: ``times`` lie outside [0, 1].
    """

    def __init__(
        self,
        model: FlowMo,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        times: Sequence[float] | None = None,
        halves: Sequence[Half] = HALVES,
    ) -> None:
        self.halves = tuple(halves)
        self.config: FlowMoConfig = model.config
        self.fingerprint: str = model.fingerprint()
        self.dtype, self.device = dtype, torch.device(device)
        image = model.config.prediction == "image"
        self._encoder = self._decoder = None
        if "encoder" in halves:
            self._encoder = InferenceEncoder(model.encoder)
        if "decoder" in halves:
            self._decoder = InferenceDecoder(
                model.decoder, head=model.head, patch_size=model.config.patch_size, image=image
            )
        self._place_networks()
        self._steps: Steps | None = None
        self._rotary: dict[tuple[bool, int, int], Tensor] = {}
        self._rows: OrderedDict[float, Tensor] = OrderedDict()
        self._modulator: Modulator | None = None
        if "decoder" in halves:
            self._modulator = Modulator(model.decoder, image=image).to("cpu", dtype)
            self._modulator.place(self.device)
        if times is not None and self._modulator is not None:
            self._rows.update(self._compute_modulation(times))
            self._modulator = None

    def __repr__(self) -> str:
        return (
            f"InferenceModel({self.config.name!r}, {self.fingerprint[:8]}, "
            f"{str(self.dtype).removeprefix('torch.')} on {self.device})"
        )

    @property
    def encoder(self) -> InferenceEncoder:
        """The network that turns patches into the code.

        Raises:
            ConfigError: This model was built without it.
        """
        if self._encoder is None:
            raise self._without("encoder")
        return self._encoder

    @property
    def decoder(self) -> InferenceDecoder:
        """The network that computes velocities.

        Raises:
            ConfigError: This model was built without it.
        """
        if self._decoder is None:
            raise self._without("decoder")
        return self._decoder

    def network(self, half: Half) -> InferenceEncoder | InferenceDecoder:
        """The network of a half.

        Raises:
            ConfigError: This model was built without it.
        """
        return self.encoder if half == "encoder" else self.decoder

    def _without(self, half: Half) -> ConfigError:
        if half in self.halves:
            return ConfigError(
                f"the PyTorch weights of this model's {half} were freed when "
                f"{type(self._steps).__name__} took over; load the model again for them"
            )
        return ConfigError(
            f"this model was built without its {half}, for {' and '.join(self.halves)} only; build "
            f"InferenceModel with halves=(..., {half!r})"
        )

    def _place_networks(self) -> None:
        for network in (self._encoder, self._decoder):
            if network is not None:
                place(network, self.device, self.dtype)

    def compute_with(self, steps: Steps | None, *, free_networks: bool = False) -> None:
        """Have something else compute both halves from now on; None for the modules of this one.

        Args:
            steps: What computes.
            free_networks: Whether this model's own modules are given up, for good: for steps that
                do not use them.
        """
        self._steps = steps
        if free_networks:
            self._encoder = self._decoder = None

    def memory_by_owner(self) -> dict[str, int]:
        """The bytes that this model holds, by what holds them, for people.

        They lie on its device, but the modulator's, which lie in the host's memory. It may be
        asked while another thread computes.
        """
        owners = {
            "encoder": bytes_of(self._encoder),
            "decoder": bytes_of(self._decoder),
            "modulator (host)": bytes_of(self._modulator),
            "modulation tables": sum(row.nbytes for row in list(self._rows.values())),
            "rotary tables": sum(table.nbytes for table in list(self._rotary.values())),
        }
        steps: object = self._steps
        if isinstance(steps, HoldsMemory):
            owners |= steps.memory_by_owner()
        return {owner: size for owner, size in owners.items() if size}

    def to(self, device: torch.device | str) -> Self:
        """Move this model to another device, in place.

        Args:
            device: The device that computes from now on.

        Returns:
            This model.

        Raises:
            ConfigError: What computes was compiled for the present device.
        """
        if self._steps is not None:
            raise ConfigError(
                f"this model is computed by a form that was compiled for {self.device}; load it "
                f"again for {device}"
            )
        self.device = torch.device(device)
        self._place_networks()
        if self._modulator is not None:
            self._modulator.place(self.device)
        for key, table in self._rotary.items():
            self._rotary[key] = table.to(self.device)
        for time, row in self._rows.items():
            self._rows[time] = row.to(self.device)
        return self

    def _compute_modulation(self, times: Sequence[float]) -> dict[float, Tensor]:
        if not all(0.0 <= t <= 1.0 for t in times):
            raise ConfigError(f"decoding times lie in [0, 1], got {tuple(times)!r}")
        if "decoder" not in self.halves:
            raise self._without("decoder")
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
        """The modulation at each of ``times``, [len(times), M].

        That of the times used last is kept.

        Raises:
            ConfigError: A time lies outside [0, 1], or is not one of those the model was built for.
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
            self._rotary[key] = joint_rotary(shape, self.config.code_length, grid, self.device)
        return self._rotary[key]

    @torch.inference_mode()
    def encode(self, images: Tensor, *, size: tuple[int, int] | None = None) -> Tensor:
        """The code of images; see :meth:`FlowMoNetwork.encode`.

        Args:
            images: Float [B, 3, S, S] in [-1, 1], S the config's image size.
            size: The height and width of the images, for those of another size: the network takes
                any multiples of its patch size, but is trained for one.

        Returns:
            Float32 [B, K, D] ([B, K, 2D] for a Gaussian posterior), not quantized.

        Raises:
            ConfigError: The images have another shape or type, or values outside [-1, 1].
        """
        square = (self.config.image_size, self.config.image_size)
        check_images(images, square if size is None else size)
        grid = patch_grid(images, self.config.patch_size)
        if self._steps is not None:
            return self._steps.encode(images.to(self.device))
        patches = patchify(images.to(self.device, self.dtype), self.config.patch_size)
        table = self.rotary(encoder=True, grid=grid)
        code: Tensor = self.encoder(patches, table, self.config.code_length)
        return code.float()

    @torch.inference_mode()
    def quantize(self, code: Tensor) -> Tensor:
        """The signs of a code, or its posterior's mean: [B, K, D]."""
        return GaussianPosterior(code).mean if self._is_continuous else signs(code)

    @torch.inference_mode()
    def velocity(self, x: Tensor, t: float | Sequence[float], condition: Tensor) -> Tensor:
        """The velocity of rows that may be at different times.

        Args:
            x: States [B, 3, H, W].
            t: One time in [0, 1], or one for each row.
            condition: [B, K, D + 1]: the quantized code and a mask channel.

        Returns:
            Float32 [B, 3, H, W].

        Raises:
            ConfigError: A time lies outside [0, 1], or is not one of those the model was built for.
        """
        times = (t,) if isinstance(t, float | int) else tuple(t)
        return self.velocity_modulated(x, self.modulation(times), condition)

    @torch.inference_mode()
    def velocity_modulated(self, x: Tensor, modulation: Tensor, condition: Tensor) -> Tensor:
        """The velocity, as :meth:`velocity` gives it, with the modulation already looked up.

        Args:
            x: States [B, 3, H, W].
            modulation: [B, M], or [1, M] for all rows, of :meth:`modulation`.
            condition: [B, K, D + 1]: the quantized code and a mask channel.

        Returns:
            Float32 [B, 3, H, W].
        """
        grid = patch_grid(x, self.config.patch_size)
        condition = condition.to(self.device, self.dtype)
        if self._steps is not None:
            rows = modulation.expand(x.shape[0], -1)
            return self._steps.velocity(x.to(self.device), condition, rows)
        table = self.rotary(encoder=False, grid=grid)
        return self.decoder.velocity(x.to(self.device), condition, modulation, table)

    @torch.inference_mode()
    def decode(
        self,
        quantized: Tensor,
        *,
        start: Tensor,
        sampler: SamplerConfig | None = None,
        observer: Observer | None = None,
    ) -> Tensor:
        """The images of a quantized code, from given noise.

        Args:
            quantized: [B, K, D], signs or the posterior's mean.
            start: Unit normal noise [B, 3, H, W].
            sampler: Time grid and guidance; the config's own by default.
            observer: A function that sees each step.

        Returns:
            Float32 [B, 3, H, W], clipped to [-1, 1].
        """
        sampler = sampler or self.config.sampler
        condition = with_mask(quantized.to(self.device, self.dtype))
        start = start.to(self.device)
        steps: object = self._steps
        # An observer sees steps, of which a whole decode has none.
        if (
            observer is None
            and isinstance(steps, DecodesWhole)
            and steps.takes_whole(start.shape[0], sampler)
        ):
            return steps.decode(start, condition, sampler)
        # One look-up serves the whole run; the last time, 0, is never evaluated.
        modulation = self.modulation(time_grid(sampler)[:-1])
        return decode_modulated(
            self.velocity_modulated, start, condition, modulation, sampler, observer=observer
        )

    def tokenize(self, images: Tensor) -> list[Tokens]:
        """The tokens of images.

        Args:
            images: Float [B, 3, S, S] in [-1, 1], S the config's image size.

        Returns:
            One token set for each image.

        Raises:
            ConfigError: The images have another shape or type, or values outside [-1, 1].
            TokenError: The model is continuous and has no tokens.
        """
        if self._is_continuous:
            raise TokenError(
                f"model {self.config.name!r} has a continuous (Gaussian) latent and no tokens; "
                f"use a model with quantizer='lfq', or encode() for its latent"
            )
        return self.tokens_of(self.encode(images))

    def tokens_of(self, code: Tensor) -> list[Tokens]:
        """Quantize a code of :meth:`encode`, [B, K, D], to one token set for each image."""
        ids = codes_to_ids(code, self.config.group_bits)
        rows = ids.to("cpu", torch.int32).numpy()
        return [Tokens(ids=row, group_bits=self.config.group_bits) for row in rows]

    def check_tokens(self, tokens: Sequence[Tokens]) -> None:
        """Check that this model can decode token sets.

        Args:
            tokens: The token sets.

        Raises:
            TokenError: A token set has another shape.
        """
        config = self.config
        expected = (config.code_length, config.ids_per_token, config.group_bits)
        for item in tokens:
            if item.tile_count != 1:
                raise TokenError(
                    f"tokens of {item.tile_count} tiles came where those of one are decoded; "
                    f"detokenize_picture decodes a picture of several"
                )
            if (came := (*item.ids.shape[-2:], item.group_bits)) != expected:
                raise TokenError(
                    f"tokens of {came[0]} x {came[1]} ids of {came[2]} bits came, model "
                    f"{config.name!r} takes {expected[0]} x {expected[1]} ids of {expected[2]} "
                    f"bits; were they made by another model?"
                )

    def detokenize(
        self,
        tokens: Sequence[Tokens],
        *,
        seeds: Sequence[int] | None = None,
        sampler: SamplerConfig | None = None,
        observer: Observer | None = None,
    ) -> Tensor:
        """The images of tokens, each from the noise of its own seed.

        Args:
            tokens: Token sets of this model: K tokens of D bits in ids of G bits.
            seeds: One seed for each image; 0, 1, 2 ... by default.
            sampler: Time grid and guidance; the config's own by default.
            observer: A function that sees each step.

        Returns:
            Float32 [B, 3, S, S] in [-1, 1], S the config's image size.

        Raises:
            ConfigError: A seed is no whole number from 0 to 2^63 - 1.
            TokenError: A token set has another shape, or there are not as many seeds as token sets.
        """
        config = self.config
        self.check_tokens(tokens)
        seeds = range(len(tokens)) if seeds is None else seeds
        if len(seeds) != len(tokens):
            raise TokenError(f"{len(tokens)} token sets need as many seeds, got {len(seeds)}")
        size = config.image_size
        if not tokens:
            return torch.empty(0, 3, size, size)
        rows = [item.ids.reshape(config.code_length, config.ids_per_token) for item in tokens]
        ids = torch.from_numpy(np.stack(rows))
        quantized = ids_to_signs(ids, config.group_bits)
        start = noise(seeds, (3, size, size))
        return self.decode(quantized, start=start, sampler=sampler, observer=observer)

    @property
    def _is_continuous(self) -> bool:
        return self.config.quantizer == "gaussian"
