"""Pictures of what a prior draws, decoded by its tokenizer."""

from collections.abc import Sequence

import torch
from torch import Tensor

from flowmo.imaging.tensors import to_levels
from flowmo.model.inference import InferenceModel
from flowmo.model.prior.checkpoint import Prior
from flowmo.model.prior.sampler_config import PriorSamplerConfig
from flowmo.model.quantizer import ids_to_signs
from flowmo.model.sampler import noise


@torch.no_grad()
def draw_pictures(
    prior: Prior,
    decoder: InferenceModel,
    classes: Sequence[int],
    *,
    seeds: Sequence[int],
    sampler: PriorSamplerConfig | None = None,
    known: Tensor | None = None,
    keep: Tensor | None = None,
) -> Tensor:
    """Draw ids and decode them, a seed for both; :meth:`Prior.generate` says what is refused.

    Args:
        prior: What draws.
        decoder: Its tokenizer, with the decoder; checked by ``PriorConfig.check_tokenizer``.
        classes: The class of each picture.
        seeds: The seed of each picture.
        sampler: How to draw; the prior's own by default. Decoding is by the tokenizer's own.
        known: Ids [B, N] or [N] of which some are kept.
        keep: Bool of the same shape: which.

    Returns:
        uint8 [B, 3, S, S] on the CPU.
    """
    ids = prior.generate(classes, seeds=seeds, sampler=sampler, known=known, keep=keep)
    return decode_ids(decoder, ids, seeds)


@torch.no_grad()
def decode_ids(decoder: InferenceModel, ids_BN: Tensor, seeds: Sequence[int]) -> Tensor:
    """Pictures of ids, uint8 [B, 3, S, S] on the CPU.

    Args:
        decoder: The tokenizer, with the decoder.
        ids_BN: Ids in the order of a data set of tokens: id n is (k, h) with n = k D / G + h.
        seeds: The seed of each picture's noise.
    """
    config = decoder.config
    tokens = ids_BN.unflatten(1, (config.code_length, config.ids_per_token))
    signs = ids_to_signs(tokens, config.group_bits)
    side = config.image_size
    return to_levels(decoder.decode(signs, start=noise(seeds, (3, side, side)))).cpu()
