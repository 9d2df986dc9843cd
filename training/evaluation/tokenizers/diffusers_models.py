"""Autoencoders of the library diffusers: KL, DC-AE, VQ and Cosmos among them."""

import importlib
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from flowmo.training.evaluation.errors import EvaluationError
from flowmo.training.evaluation.tokenizers.common import (
    Reconstruction,
    TensorAdapter,
    arguments,
    bits_of_indices,
)

_FORM = "diffusers:REPO,SUBFOLDER"


def from_diffusers(text: str, device: str) -> TensorAdapter:
    """``diffusers:REPO`` or ``diffusers:REPO,SUBFOLDER``, on the hub or a folder.

    A Gaussian posterior's mode is decoded. Of a vector-quantized model the bits are those of its
    indices, one for each place of the latent; a continuous latent has none.

    Raises:
        EvaluationError: diffusers is not installed, or the model cannot be had.
    """
    repository, *rest = arguments(text, _FORM, least=1)
    try:
        diffusers: Any = importlib.import_module("diffusers")
    except ImportError as error:
        raise EvaluationError(
            f"{_FORM} needs the library: pip install diffusers ({error})"
        ) from error
    try:
        model = diffusers.AutoModel.from_pretrained(repository, subfolder=rest[0] if rest else None)
    except (OSError, ValueError, RuntimeError) as error:
        raise EvaluationError(f"diffusers cannot load {text}: {str(error)[:300]}") from error
    model = model.to(device).eval()
    config: Any = model.config
    # Autoencoders of video see a picture as a film of one frame.
    is_video = "temporal_compression_ratio" in config
    codebook = config.get("num_vq_embeddings")

    def reconstruct(images: Tensor, numbers: Sequence[int]) -> Reconstruction:
        del numbers
        encoded = model.encode(images[:, :, None] if is_video else images)
        latent = _latent(encoded)
        came = model.decode(latent).sample
        bits = None
        if codebook is not None:
            # One index a place: the channel is what the index stands for.
            bits = bits_of_indices(latent[:, 0], len(images), codebook)
        return Reconstruction(images=came[:, :, 0] if is_video else came, bits=bits)

    return TensorAdapter(reconstruct, device=device)


def _latent(encoded: Any) -> Tensor:
    if hasattr(encoded, "latent_dist"):
        mode: Tensor = encoded.latent_dist.mode()
        return mode
    for name in ("latent", "latents"):
        if hasattr(encoded, name):
            found: Tensor = getattr(encoded, name)
            return found
    raise EvaluationError(
        f"no latent in what the model's encode gives, a {type(encoded).__name__}: it is none of "
        f"diffusers' autoencoders of pictures"
    )
