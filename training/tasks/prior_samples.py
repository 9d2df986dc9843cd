"""The sample grids of a prior's run."""

import torch

from flowmo.model.loading import check_has_tokens, load_inference_model
from flowmo.model.prior.checkpoint import Prior
from flowmo.model.prior.config import PriorConfig
from flowmo.training.prior_pictures import draw_pictures
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

    def draw(self, model: Prior) -> Samples:
        """Pictures by the prior's own sampler, decoded with the tokenizer's."""
        levels = draw_pictures(model, self._decoder, self._classes, seeds=range(len(self._classes)))
        row = torch.cat(list(levels), dim=2)  # side by side
        return Samples(
            pixels=row.permute(1, 2, 0).contiguous().numpy(),
            name="generated",
            status=f"drew {len(levels)} pictures",
        )
