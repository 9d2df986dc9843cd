"""The adapter of diffusers on the library itself: small random models of four classes.

    pip install diffusers
    python -m benchmarks.diffusers_adapter --out benchmarks/results/training/diffusers_adapter.json

The suite tests the adapter on modules of the same interface, since the library takes longer to
import than all of them to run.
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.environment import environment
from flowmo.imaging.tensors import to_images, to_pixels
from flowmo.training.evaluation.tokenizers import TOKENIZERS
from flowmo.training.json_report import write_json
from flowmo.training.libraries import library

_SIDE = 64


def models() -> dict[str, Any]:
    """Random models by class; each is too small to mean anything."""
    diffusers = library("diffusers")
    torch.manual_seed(0)
    small: dict[str, Any] = {
        "down_block_types": ("DownEncoderBlock2D", "DownEncoderBlock2D"),
        "up_block_types": ("UpDecoderBlock2D", "UpDecoderBlock2D"),
        "block_out_channels": (16, 16),
        "norm_num_groups": 8,
    }
    return {
        "AutoencoderKL": diffusers.AutoencoderKL(**small, latent_channels=4),
        "VQModel": diffusers.VQModel(
            **small, latent_channels=3, num_vq_embeddings=256, vq_embed_dim=3
        ),
        "AutoencoderDC": diffusers.AutoencoderDC(
            latent_channels=4,
            attention_head_dim=8,
            encoder_block_types="ResBlock",
            decoder_block_types="ResBlock",
            encoder_block_out_channels=(16, 16),
            decoder_block_out_channels=(16, 16),
            encoder_layers_per_block=(1, 1),
            decoder_layers_per_block=(1, 1),
            encoder_qkv_multiscales=((), ()),
            decoder_qkv_multiscales=((), ()),
        ),
        "AutoencoderKLCosmos": diffusers.AutoencoderKLCosmos(
            encoder_block_out_channels=(16, 16, 16),
            decode_block_out_channels=(16, 16, 16),
            attention_resolutions=(),
            resolution=_SIDE,
            num_layers=1,
            spatial_compression_ratio=8,
            temporal_compression_ratio=8,
        ),
    }


def direct(model: Any, pictures: np.ndarray) -> np.ndarray:
    """The library's own call: encode and decode in one, with the posterior's mode."""
    images = to_images(pictures)
    is_video = "temporal_compression_ratio" in model.config
    with torch.inference_mode():
        came = model(images[:, :, None] if is_video else images).sample
    return to_pixels(came[:, :, 0] if is_video else came)


def main() -> None:
    """Compare the adapter with the library."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    pictures = np.random.default_rng(0).integers(0, 256, (2, _SIDE, _SIDE, 3), np.uint8)
    rows = {}
    for name, model in models().items():
        with tempfile.TemporaryDirectory() as folder:
            model.eval().save_pretrained(folder)
            came, sizes = TOKENIZERS["diffusers"](folder, "cpu")(pictures, [0, 1])
        expected = direct(model, pictures)
        rows[name] = {
            "bytes": sizes[0],
            "bits_per_pixel": None if sizes[0] is None else 8 * sizes[0] / _SIDE**2,
            "most_levels_from_the_library": int(np.abs(came.astype(int) - expected).max()),
        }
        print(name, rows[name])
    version = library("diffusers").__version__
    write_json(arguments.out, {"diffusers": version, "models": rows, "environment": environment()})


if __name__ == "__main__":
    main()
