"""A model asked directly, for what a server of it should answer."""

from collections.abc import Sequence

from flowmo.imaging.reading import Pixels
from flowmo.imaging.tensors import to_images, to_pixels
from flowmo.model.config import SamplerConfig
from flowmo.model.inference import InferenceModel
from flowmo.model.tokens import Tokens


def tokens_of(model: InferenceModel, pixels: Pixels) -> list[Tokens]:
    """Pictures, uint8 [B, S, S, 3], to their tokens."""
    return model.tokenize(to_images(pixels, model.device))


def pictures_of(
    model: InferenceModel, tokens: Sequence[Tokens], *, seeds: Sequence[int], sampler: SamplerConfig
) -> Pixels:
    """Tokens to pictures, uint8 [B, S, S, 3]."""
    return to_pixels(model.detokenize(tokens, seeds=seeds, sampler=sampler))
