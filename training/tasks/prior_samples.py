"""Pictures of what a prior draws, decoded by its tokenizer."""

import torch

from flowmo.imaging.tensors import to_levels
from flowmo.model.loading import check_has_tokens, load_inference_model
from flowmo.model.prior.checkpoint import Prior
from flowmo.model.prior.config import PriorConfig
from flowmo.model.quantizer import ids_to_signs
from flowmo.model.sampler import noise
from flowmo.training.tasks.task import Samples


class SampleGrid:
    """Draws the same seeds at every call: a row of pictures, classes in turn.

    Args:
        tokenizer: The checkpoint that decodes.
        config: The prior's.
        count: The number of pictures.
        device: Where to compute.

    Raises:
        CheckpointError: There is no such tokenizer, or it has no tokens.
        ConfigError: It is another one than the prior's.
    """

    def __init__(
        self, tokenizer: str, config: PriorConfig, *, count: int, device: torch.device
    ) -> None:
        self._decoder = load_inference_model(
            tokenizer, device=device, dtype=torch.float32, halves=("decoder",)
        )
        check_has_tokens(self._decoder, tokenizer)
        config.check_tokenizer(self._decoder.fingerprint)
        self._classes = [i % max(config.classes, 1) for i in range(count)]

    @torch.no_grad()
    def draw(self, model: Prior) -> Samples:
        """Pictures by the prior's own sampler, decoded with the tokenizer's."""
        config, seeds = model.config, range(len(self._classes))
        ids = model.generate(self._classes, seeds=seeds)
        tokens = ids.unflatten(1, (config.code_length, config.ids_per_token))
        signs = ids_to_signs(tokens, config.group_bits)
        side = self._decoder.config.image_size
        images = self._decoder.decode(signs, start=noise(seeds, (3, side, side)))
        row = torch.cat(list(to_levels(images)), dim=2)  # side by side
        return Samples(
            pixels=row.permute(1, 2, 0).contiguous().cpu().numpy(),
            name="generated",
            status=f"drew {len(images)} pictures",
        )
