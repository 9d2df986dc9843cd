"""Seconds to encode and to decode one picture (supplement C.6)."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from flowmo.model.config import preset
from flowmo.model.flowmo import FlowMo
from flowmo.model.inference import InferenceModel
from flowmo.model.sampler import count_forwards, noise
from flowmo.training.evaluation import EvaluationError, load_model
from flowmo.training.evaluation.choose import to_inference
from flowmo.training.experiments.setup import plot, write_result

_PRESET = "preset:"


def wall_clock(
    checkpoints: Sequence[str],
    *,
    out: Path,
    device: str = "cpu",
    precision: str = "auto",
    repeats: int = 9,
) -> dict[str, Any]:
    """Time both halves at batch 1, with each checkpoint's own sampler.

    One untimed run goes before; the figure is the median of the others. Data is on the device and
    the modulation of the sampler's times is known, as in a service that runs.

    Args:
        checkpoints: folders, hub repositories, or ``preset:NAME`` with random weights, which take
            the same time.
        out: path without suffix.
        device: where to compute.
        precision: The precision of the weights (training.evaluation.load_model).
        repeats: timed runs.

    Returns:
        What OUT.json says.

    Raises:
        EvaluationError: fewer than one repetition, or nothing to time.
    """
    if repeats < 1 or not checkpoints:
        raise EvaluationError(f"wall-clock needs a checkpoint and a repetition, got {repeats=}")
    rows = []
    for checkpoint in checkpoints:
        model = _load(checkpoint, device, precision)
        config = model.config
        size = (3, config.image_size, config.image_size)
        images = noise([0], size).clamp(-1, 1).to(device)
        start = noise([1], size).to(device)
        quantized = model.quantize(model.encode(images))
        rows.append(
            {
                "checkpoint": checkpoint,
                "model": config.name,
                "image_size": config.image_size,
                "dtype": str(model.dtype).removeprefix("torch."),
                "steps": config.sampler.steps,
                "forwards": count_forwards(config.sampler),
                "encode": _timed(lambda: model.quantize(model.encode(images)), device, repeats),  # noqa: B023
                "decode": _timed(lambda: model.decode(quantized, start=start), device, repeats),  # noqa: B023
            }
        )
    content = {"unit": "seconds a picture, batch 1", "repeats": repeats, "rows": rows}
    result = write_result(out, "wall-clock", "C.6", content)
    _draw(rows, out)
    return result


def _load(checkpoint: str, device: str, precision: str) -> InferenceModel:
    if checkpoint.startswith(_PRESET):
        model = FlowMo(preset(checkpoint.removeprefix(_PRESET)))
        return to_inference(model, device=device, precision=precision)
    return load_model(checkpoint, device=device, precision=precision)


def _timed(act: Callable[[], object], device: str, repeats: int) -> dict[str, float]:
    seconds = []
    for _ in range(repeats + 1):
        _finish(device)
        begin = time.perf_counter()
        act()
        _finish(device)
        seconds.append(time.perf_counter() - begin)
    timed = seconds[1:]
    return {
        "seconds": statistics.median(timed),
        "fastest": min(timed),
        "slowest": max(timed),
    }


def _finish(device: str) -> None:
    """Wait for a GPU, whose work is only queued when a call returns."""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


def _draw(rows: Sequence[Mapping[str, Any]], out: Path) -> None:
    with plot(out, x="seconds a picture", y="") as axis:
        for half, marker in (("encode", "s"), ("decode", "o")):
            seconds = [row[half]["seconds"] for row in rows]
            axis.plot(seconds, range(len(rows)), marker, label=half)
            for place, value in enumerate(seconds):
                axis.annotate(
                    f"{value:.3g}", (value, place), (0, 7), textcoords="offset points", fontsize=8
                )
        axis.set_yticks(range(len(rows)), [f"{r['model']}, {r['steps']} steps" for r in rows])
        axis.set_ylim(len(rows) - 0.5, -0.5)
        axis.set_xscale("log")
        axis.margins(x=0.15)
        axis.legend(fontsize=8)
