"""Tokenizers that are published as a pair of TorchScript files, as Cosmos' are."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from flowmo.training.evaluation.errors import EvaluationError
from flowmo.training.evaluation.tokenizers.common import (
    Reconstruction,
    TensorAdapter,
    arguments,
)

_FORM = "torchscript:ENCODER,DECODER,BITS (bits an index, left out for continuous latents)"


def from_torchscript(text: str, device: str) -> TensorAdapter:
    """``torchscript:ENCODER,DECODER,BITS``.

    The encoder takes images in [-1, 1] and returns indices (or a continuous latent), alone or as
    the first of several; the decoder takes that. Both run in the encoder's own dtype. Cosmos DI-8x8
    has 16 bits an index (FSQ of 8 x 8 x 8 x 5 x 5 x 5 levels).

    Raises:
        EvaluationError: A file cannot be read, or bits are missing or not wanted.
    """
    encoder_path, decoder_path, *rest = arguments(text, _FORM.partition(" ")[0], least=2)
    if rest and not rest[0].isdecimal():
        raise EvaluationError(f"write {_FORM}, got {text!r}")
    bits = int(rest[0]) if rest else None
    encoder, decoder = (_load(path, device) for path in (encoder_path, decoder_path))
    dtype = next((p.dtype for p in encoder.parameters() if p.is_floating_point()), torch.float32)

    def reconstruct(images: Tensor, numbers: Sequence[int]) -> Reconstruction:
        del numbers
        encoded = encoder(images)
        latent: Tensor = encoded if isinstance(encoded, Tensor) else encoded[0]
        if latent.is_floating_point() != (bits is None):
            what = "a continuous latent" if latent.is_floating_point() else "indices"
            raise EvaluationError(
                f"{encoder_path} gives {what}: write {_FORM}, got bits={bits} an index"
            )
        decoded = decoder(latent)
        came: Tensor = decoded if isinstance(decoded, Tensor) else decoded[0]
        of_one = None if bits is None else latent[0].numel() * bits
        return Reconstruction(images=came, bits=of_one)

    return TensorAdapter(reconstruct, device=device, dtype=dtype)


def _load(path: str, device: str) -> Any:
    try:
        return torch.jit.load(path, map_location=device).eval()
    except (RuntimeError, ValueError, OSError) as error:
        raise EvaluationError(
            f"{path} cannot be read as TorchScript: {str(error).partition(chr(10))[0]}"
        ) from error
