"""FlowMo: the network, its checkpoints and its sampler behind one name."""

from collections.abc import Sequence

import torch
from torch import Tensor

from flowmo.model.config import SamplerConfig
from flowmo.model.errors import ConfigError
from flowmo.model.hub import FlowMoHubMixin
from flowmo.model.image_tensors import check_images
from flowmo.model.network import FlowMoNetwork, with_mask
from flowmo.model.sampler import Observer, euler, guided, noise, time_grid


class FlowMo(FlowMoNetwork, FlowMoHubMixin):
    """A FlowMo tokenizer in its training form.

    ``FlowMo.from_pretrained(name)`` and ``save_pretrained(folder)`` read and write checkpoints. To
    serve, build :class:`flowmo.model.inference.InferenceModel` from it; for pictures rather than
    tensors, ``flowmo.load(name)`` is the shorter way.
    """

    def __repr__(self) -> str:
        """One line; ``print(model.decoder)`` shows the layers."""
        weight = next(self.parameters())
        count = sum(parameter.numel() for parameter in self.parameters())
        return (
            f"FlowMo({self.config.name!r}, {count / 1e6:.1f} M parameters, "
            f"{str(weight.dtype).removeprefix('torch.')} on {weight.device})"
        )

    def decode(
        self,
        quantized: Tensor,
        *,
        start: Tensor | None = None,
        seeds: Sequence[int] | None = None,
        sampler: SamplerConfig | None = None,
        observer: Observer | None = None,
    ) -> Tensor:
        """Sample the images of a quantized code; gradients flow if they are enabled.

        Args:
            quantized: [B, K, D], signs or the posterior's mean.
            start: Unit normal noise [B, 3, H, W]; it decides the image size. Or give ``seeds``.
            seeds: One seed for each image when ``start`` is not given (0, 1, 2 ... by default);
                images then have the config's size.
            sampler: Time grid and guidance; the config's own by default.
            observer: A function that sees each step.

        Returns:
            [B, 3, H, W], clipped to [-1, 1].

        Raises:
            ConfigError: A seed is no whole number from 0 to 2^63 - 1.
        """
        sampler = sampler or self.config.sampler
        if start is None:
            size = self.config.image_size
            chosen = range(len(quantized)) if seeds is None else seeds
            start = noise(chosen, (3, size, size)).to(quantized)
        condition = with_mask(quantized)
        dtype = self.decoder.img_in.weight.dtype

        def velocity(x: Tensor, t: Tensor | float, rows: Tensor) -> Tensor:
            if x.dtype == dtype:
                return self.velocity(x, t, rows)
            return self.velocity(x.to(dtype), t, rows.to(dtype)).to(x.dtype)

        field = guided(velocity, condition, torch.zeros_like(condition), sampler)
        return euler(field, start, time_grid(sampler), observer=observer).clamp(-1, 1)

    @torch.no_grad()
    def reconstruct(
        self,
        images: Tensor,
        *,
        seeds: Sequence[int] | None = None,
        sampler: SamplerConfig | None = None,
    ) -> Tensor:
        """Encode, quantize and decode images.

        Args:
            images: Float [B, 3, S, S] in [-1, 1], S the config's image size, of any floating dtype:
                the network computes in that of its weights, the sampler's state has the images'.
            seeds: One seed for each image; 0, 1, 2 ... by default.
            sampler: Time grid and guidance; the config's own by default.

        Returns:
            [B, 3, S, S] in [-1, 1], in the images' dtype.

        Raises:
            ConfigError: The images have another shape or type, or values outside [-1, 1], or there
                are not as many seeds as images.
        """
        check_images(images, (self.config.image_size, self.config.image_size))
        chosen = range(len(images)) if seeds is None else seeds
        if len(chosen) != len(images):
            raise ConfigError(f"{len(images)} images need as many seeds, got {len(chosen)}")
        dtype = self.decoder.img_in.weight.dtype
        quantized = self.quantize(self.encode(images.to(dtype)))
        start = noise(chosen, tuple(images.shape[1:])).to(images)
        return self.decode(quantized, start=start, sampler=sampler)
