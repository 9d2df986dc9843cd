"""Largest error of every tensor of a parity file, for both forms of the network.

    python -m benchmarks.parity FILE...

Exit status 0 when every tensor is within its tolerance, 1 when one is not (or is of a kind this
program does not know), 2 when a file cannot be read.
"""

import argparse
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor

from benchmarks.parity_files import ParityFile, read_parity_file
from flowmo.model.config import SamplerConfig
from flowmo.model.errors import FlowMoError
from flowmo.model.flowmo import FlowMo
from flowmo.model.inference import InferenceModel
from flowmo.model.network import with_mask
from flowmo.model.quantizer import GaussianPosterior, codes_to_ids, lfq_losses
from flowmo.model.sampler import SamplerStep

TOLERANCE = 1e-4
# Rounding errors add up over the steps of the default sampler.
LONG_SAMPLE_TOLERANCE = 1e-3
INPUTS = frozenset({"image", "noise", "timesteps"})

_SAMPLE = re.compile(r"sample_(?P<steps>\d+)_(?:pow(?P<rho>[\d.]+)|linear)_cfg(?P<weight>[\d.]+)")
_ITERATE = re.compile(r"sample_step(?P<step>\d+)")


@dataclass(frozen=True, slots=True)
class Comparison:
    """One tensor of one form of the network; ``error`` is None for a tensor of unknown kind."""

    form: str
    tensor: str
    error: float | None
    tolerance: float

    @property
    def passed(self) -> bool:
        """Whether the error is known and within the tolerance (a NaN is not)."""
        return self.error is not None and self.error <= self.tolerance


class _Training:
    """What a file's tensors are, computed by the training form."""

    def __init__(self, network: FlowMo) -> None:
        self.encode, self.quantize, self.decode = network.encode, network.quantize, network.decode
        self._velocity = network.velocity

    def velocity(self, x: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        return self._velocity(x, t, condition)


class _Inference:
    """The same by the inference form."""

    def __init__(self, network: FlowMo) -> None:
        model = InferenceModel(network, device=next(network.parameters()).device)
        self.quantize, self.decode = model.quantize, model.decode
        self._encode, self._velocity = model.encode, model.velocity

    def encode(self, images: Tensor) -> Tensor:
        # The reference values are of images that are no squares.
        return self._encode(images, size=(images.shape[2], images.shape[3]))

    def velocity(self, x: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        return self._velocity(x, t.tolist(), condition)


FORMS: dict[str, Callable[[FlowMo], _Training | _Inference]] = {
    "training": _Training,
    "inference": _Inference,
}


def sampler_of(name: str) -> SamplerConfig | None:
    """The sampler that a tensor's name spells, e.g. ``sample_25_pow0.25_cfg1.5``."""
    if (match := _SAMPLE.fullmatch(name)) is None:
        return None
    steps, weight, rho = int(match["steps"]), float(match["weight"]), match["rho"]
    if rho is None:
        return SamplerConfig(schedule="linear", steps=steps, guidance=weight)
    return SamplerConfig(steps=steps, rho=float(rho), guidance=weight)


def _quantizer_values(file: ParityFile, code: Tensor) -> dict[str, Tensor]:
    if file.config.quantizer == "gaussian":
        posterior = GaussianPosterior(code)
        return {
            "posterior_mean": posterior.mean,
            "posterior_logvar": posterior.log_variance,
            "loss_kl": posterior.kl(),
        }
    losses = lfq_losses(code, file.config.group_bits)
    entropy_weight, commitment_weight = file.loss_weights
    weighted = entropy_weight * losses.entropy + commitment_weight * losses.commitment
    return {
        "lfq_indices": codes_to_ids(code, file.config.group_bits).flatten(),
        "loss_entropy": losses.entropy,
        "per_sample_entropy": losses.per_sample_entropy,
        "codebook_entropy": losses.codebook_entropy,
        "loss_commit": losses.commitment,
        "loss_quantizer_weighted": weighted,
    }


@torch.no_grad()
def computed_values(file: ParityFile, form: _Training | _Inference) -> dict[str, Tensor]:
    """Every tensor of the file that this program knows, computed anew."""
    code = form.encode(file.tensors["image"])
    quantized = form.quantize(code)
    condition = with_mask(quantized)
    noise, times = file.tensors["noise"], file.tensors["timesteps"]
    values = {"encoder_output": code, "quantized": quantized, **_quantizer_values(file, code)}
    values["velocity_cond"] = form.velocity(noise, times, condition)
    values["velocity_null"] = form.velocity(noise, times, torch.zeros_like(condition))
    iterates: list[SamplerStep] = []
    if any(_ITERATE.fullmatch(name) for name in file.tensors):
        form.decode(quantized, start=noise, sampler=SamplerConfig(), observer=iterates.append)
    for name in file.tensors:
        if (sampler := sampler_of(name)) is not None:
            values[name] = form.decode(quantized, start=noise, sampler=sampler)
        elif (match := _ITERATE.fullmatch(name)) and 1 <= int(match["step"]) <= len(iterates):
            values[name] = iterates[int(match["step"]) - 1].x
    return values


def compare(file: ParityFile, device: torch.device | str = "cpu") -> Iterator[Comparison]:
    """Compare every tensor of a file with both forms of the network, computed on a device."""
    network = file.build().to(device)
    file = replace(file, tensors={name: value.to(device) for name, value in file.tensors.items()})
    for form, make in FORMS.items():
        values = computed_values(file, make(network))
        for name in sorted(set(file.tensors) - INPUTS):
            sampler = sampler_of(name)
            is_long = sampler is not None and sampler.steps >= SamplerConfig().steps
            tolerance = LONG_SAMPLE_TOLERANCE if is_long else TOLERANCE
            error = None if name not in values else largest_error(values[name], file.tensors[name])
            yield Comparison(form, name, error, tolerance)


def largest_error(value: Tensor, expected: Tensor) -> float:
    """Largest absolute difference; infinite where the shapes do not fit."""
    if value.numel() != expected.numel():
        return float("inf")
    difference = value.cpu().double().reshape(-1) - expected.cpu().double().reshape(-1)
    return float(difference.abs().max())


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a line a tensor; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.parity", description=__doc__)
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    options = parser.parse_args(arguments)
    torch.backends.cuda.matmul.allow_tf32 = False
    failed = 0
    for path in options.files:
        try:
            comparisons = list(compare(read_parity_file(path), options.device))
        except (OSError, SafetensorError, ValueError, KeyError, FlowMoError, RuntimeError) as error:
            print(f"{path}: {error}", file=sys.stderr)
            return 2
        print(path.name)
        for c in comparisons:
            size = "unknown" if c.error is None else f"{c.error:.2e}"
            verdict = "ok" if c.passed else f"FAILED (tolerance {c.tolerance:g})"
            print(f"  {c.form:10} {c.tensor:28} {size:>10}  {verdict}")
            failed += not c.passed
    print(f"{failed} tensor(s) failed" if failed else "all tensors within tolerance")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
