"""What fp8 costs in accuracy, on the CPU: the products' own numbers, not their speed.

    python -m benchmarks.fp8_accuracy --out benchmarks/results/speed

The networks of the parity files (random weights) and the demo model in bfloat16, computed plainly,
with the switch ``fp8-rowwise``, and by torchao as ``compiled-fp8`` has it where that package is
installed. Errors of a velocity and of the code are relative (L2) to the same weights in float32, at
the inputs of the check before serving, whose limit stands beside them. Decodes are of the same code
from the same noise: PSNR between the picture and that of bfloat16, and to the original.
"""

import argparse
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from statistics import fmean
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from benchmarks.environment import environment
from benchmarks.parity_files import read_parity_file
from flowmo.deploy import golden
from flowmo.deploy.compiled import CompiledSteps, is_inner_linear
from flowmo.imaging.tensors import psnr_of_images, to_images
from flowmo.model.config import SamplerConfig
from flowmo.model.flowmo import FlowMo
from flowmo.model.inference import InferenceModel
from flowmo.model.kernels.choice import NO_KERNELS, Kernels
from flowmo.model.sampler import noise
from flowmo.training.data.pictures import held_out_pictures
from flowmo.training.json_report import write_json

_ROOT = Path(__file__).resolve().parents[1]
# The published one, whatever a checkpoint's own is.
_SAMPLER = SamplerConfig()
_ROWS = 8


def steps_of(model: InferenceModel, scheme: str) -> CompiledSteps:
    """Both halves by a scheme; torchao replaces the model's own weights."""
    if scheme == "torchao":
        from torchao.quantization import (
            Float8DynamicActivationFloat8WeightConfig,
            PerRow,
            quantize_,
        )

        config = Float8DynamicActivationFloat8WeightConfig(
            granularity=PerRow(), set_inductor_config=False
        )
        # It asks for a GPU; a CPU's operators of the same names give the same numbers.
        with patch("torchao.quantization.quant_api._check_hardware_support"):
            for half in model.halves:
                quantize_(model.network(half), config, filter_fn=is_inner_linear)
    kernels = Kernels(fp8_rowwise=True) if scheme == "fp8-rowwise" else NO_KERNELS
    return CompiledSteps(model, (_ROWS,), compiled=False, kernels=kernels)


def compared(
    make: Callable[[], InferenceModel], images: Tensor, start: Tensor
) -> dict[str, dict[str, Any]]:
    """Each scheme's errors.

    Args:
        make: Makes a model in bfloat16, of weights of its own.
        images: [B, 3, H, W] in [-1, 1].
        start: Unit normal noise of the same shape.
    """
    plain = make()
    code = plain.encode(images)
    quantized = plain.quantize(code)
    expected = plain.decode(quantized, start=start, sampler=_SAMPLER)
    records = {}
    for scheme in ("bf16", "fp8-rowwise", *(["torchao"] if find_spec("torchao") else [])):
        model = make()
        steps = steps_of(model, scheme)
        errors = golden.relative_errors(steps, plain, rows=_ROWS)
        model.compute_with(steps)
        picture = model.decode(quantized, start=start, sampler=_SAMPLER)
        flips = (model.encode(images) > 0) != (code > 0)
        between = (picture - expected).square().mean((1, 2, 3))
        records[scheme] = {
            "velocity_error": errors["decoder"].compiled,
            "code_error": errors["encoder"].compiled,
            "limit_of_velocity_error": golden.FP8_FACTOR * errors["decoder"].plain + golden.SLACK,
            "limit_of_code_error": golden.FP8_FACTOR * errors["encoder"].plain + golden.SLACK,
            "bits_that_differ": flips.float().mean().item(),
            "psnr_to_bf16": (
                None if scheme == "bf16" else (10 * (4 / between).log10()).mean().item()
            ),
            "psnr_to_original": fmean(psnr_of_images(images, picture)),
        }
        print(scheme, records[scheme], flush=True)
    return records


def subjects(
    checkpoint: str,
) -> dict[str, tuple[Callable[[], InferenceModel], Tensor, Tensor]]:
    """What makes each network, its images and noise, by its name."""
    found: dict[str, tuple[Callable[[], InferenceModel], Tensor, Tensor]] = {}
    for path in sorted((_ROOT / "tests" / "data" / "parity").glob("*.safetensors")):
        file = read_parity_file(path)
        found[path.stem] = (
            lambda file=file: InferenceModel(file.build(), dtype=torch.bfloat16),  # type: ignore[misc]
            file.tensors["image"],
            file.tensors["noise"],
        )
    config = FlowMo.from_pretrained(checkpoint).config
    side = config.image_size
    images = to_images(held_out_pictures((), side, limit=0))
    found[config.name] = (
        lambda: InferenceModel(FlowMo.from_pretrained(checkpoint), dtype=torch.bfloat16),
        images,
        noise(range(len(images)), (3, side, side)),
    )
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Compare, print, write a report a network."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fp8_accuracy")
    parser.add_argument("--out", type=Path, required=True, help="folder of the reports")
    parser.add_argument("--checkpoint", default=str(_ROOT / "checkpoints" / "tiny"))
    parser.add_argument("--only", help="the name of one network")
    parser.add_argument("--pictures", type=int, default=6, help="at most so many a network")
    options = parser.parse_args(arguments)
    for name, (make, images, start) in subjects(options.checkpoint).items():
        if options.only in (None, name):
            print(name)
            first = slice(options.pictures)
            record = compared(make, images[first], start[first])
            path = options.out / f"fp8_accuracy_{name}.json"
            write_json(path, {"schemes": record, "environment": environment()})


if __name__ == "__main__":
    main()
