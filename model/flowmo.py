"""FlowMo: the network, its checkpoints and its sampler behind one name."""

from collections.abc import Sequence

import torch
from torch import Tensor

from flowmo.model.config import SamplerConfig
from flowmo.model.hub import FlowMoHubMixin
from flowmo.model.network import FlowMoNetwork, with_mask
from flowmo.model.sampler import Observer, euler, guided, noise, time_grid


class FlowMo(FlowMoNetwork, FlowMoHubMixin):
    """A FlowMo tokenizer in its training form.

    ``FlowMo.from_pretrained(path or hub repository)`` and ``save_pretrained(folder)`` read and
    write checkpoints. To serve, build :class:`flowmo.model.inference.InferenceModel` from it.
    """

    def decode(
        self,
        quantized: Tensor,
        *,
        start: Tensor | None = None,
        seeds: Sequence[int] | None = None,
        sampler: SamplerConfig | None = None,
        observer: Observer | None = None,
    ) -> Tensor:
        """Images of a quantized code by the flow's sampler; gradients flow if enabled.

        Args:
            quantized: [B, K, D].
            start: noise [B, 3, H, W]; it decides the image size. Or give ``seeds``.
            seeds: one an image, when ``start`` is not given (default 0, 1, 2 ...): images then
                have the config's size.
            sampler: grid and guidance; the config's own by default.
            observer: sees each step.

        Returns:
            [B, 3, H, W], clipped to [-1, 1].
        """
        sampler = sampler or self.config.sampler
        if start is None:
            size = self.config.image_size
            chosen = range(len(quantized)) if seeds is None else seeds
            start = noise(chosen, (3, size, size)).to(quantized)
        condition = with_mask(quantized)
        field = guided(self.velocity, condition, torch.zeros_like(condition), sampler)
        return euler(field, start, time_grid(sampler), observer=observer).clamp(-1, 1)

    @torch.no_grad()
    def reconstruct(self, images: Tensor, *, sampler: SamplerConfig | None = None) -> Tensor:
        """Encode, quantize and decode with seeds 0, 1, 2 ...; [B, 3, H, W] to the same."""
        quantized = self.quantize(self.encode(images))
        start = noise(range(len(images)), tuple(images.shape[1:])).to(images)
        return self.decode(quantized, start=start, sampler=sampler)
