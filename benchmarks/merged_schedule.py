"""How far the schedule ``merged`` in 20 steps is from the default 25, on the CPU.

    python -m benchmarks.merged_schedule --out benchmarks/results/speed/merged_schedule.json

Both decode the same tokens from the same noise, in float32: by the networks of the parity files
(random weights at small shapes of the published architecture, whose velocities change faster than
any trained network's) and by the demo model, of the six photographs that it was not trained on.
Distances are between the two pictures, in 8-bit levels; PSNR is to the original.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from benchmarks.environment import environment
from benchmarks.parity_files import read_parity_file
from flowmo.imaging.tensors import psnr_of_images, to_images, to_levels
from flowmo.model.config import SamplerConfig
from flowmo.model.flowmo import FlowMo
from flowmo.model.inference import InferenceModel
from flowmo.model.sampler import SamplerStep, count_forwards, noise, time_grid
from flowmo.training.data.pictures import held_out_pictures
from flowmo.training.json_report import write_json

_ROOT = Path(__file__).resolve().parents[1]
DEFAULT = SamplerConfig()
MERGED = SamplerConfig(schedule="merged", steps=20)


def compared(model: InferenceModel, images: Tensor, start: Tensor) -> dict[str, Any]:
    """Decode the images' own codes by both schedules.

    Args:
        model: The model, in float32.
        images: [B, 3, H, W] in [-1, 1].
        start: Unit normal noise of the same shape.
    """
    quantized = model.quantize(model.encode(images, size=(images.shape[2], images.shape[3])))
    estimates: list[Tensor] = []

    def keep(step: SamplerStep) -> None:
        if step.step == MERGED.steps:
            estimates.append(step.estimate.clamp(-1, 1))

    # Both have their first steps in common, and the merged last one ends at the estimate.
    whole = model.decode(quantized, start=start, sampler=DEFAULT, observer=keep)
    (merged,) = estimates
    levels = (whole - merged).abs() * 127.5
    changed = (to_levels(whole).int() - to_levels(merged).int()).abs()
    return {
        "pictures": len(images),
        "mean_levels": levels.mean().item(),
        "largest_levels": levels.max().item(),
        "values_that_change": (changed > 0).float().mean().item(),
        "largest_change": changed.max().item(),
        "psnr_default": fmean(psnr_of_images(images, whole)),
        "psnr_merged": fmean(psnr_of_images(images, merged)),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Compare, print, write the report."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.merged_schedule")
    parser.add_argument("--out", type=Path, required=True, help="the report, JSON")
    parser.add_argument("--checkpoint", default=str(_ROOT / "checkpoints" / "tiny"))
    options = parser.parse_args(arguments)
    assert time_grid(MERGED)[:-1] == time_grid(DEFAULT)[: MERGED.steps]
    records: dict[str, dict[str, Any]] = {}
    for path in sorted((_ROOT / "tests" / "data" / "parity").glob("*.safetensors")):
        file = read_parity_file(path)
        records[path.stem] = compared(
            InferenceModel(file.build()), file.tensors["image"], file.tensors["noise"]
        )
        print(path.stem, records[path.stem], flush=True)
    model = InferenceModel(FlowMo.from_pretrained(options.checkpoint))
    side = model.config.image_size
    images = to_images(held_out_pictures((), side, limit=0))
    start = noise(range(len(images)), (3, side, side))
    records[model.config.name] = compared(model, images, start)
    print(model.config.name, records[model.config.name])
    report = {
        "forwards": {"default": count_forwards(DEFAULT), "merged": count_forwards(MERGED)},
        "networks": records,
        "torch_threads": torch.get_num_threads(),
        "environment": environment(),
    }
    write_json(options.out, report)


if __name__ == "__main__":
    main()
