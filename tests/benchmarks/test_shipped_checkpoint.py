"""The checkpoint that comes with the repository is the one whose figures are committed."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.reconstruction import averages, measure, reconstruct
from flowmo.model.checkpoint import inspect_checkpoint, load_checkpoint
from flowmo.model.fingerprint import compute_fingerprint
from flowmo.model.flowmo import FlowMo
from flowmo.model.inference import InferenceModel
from flowmo.training.config import TrainConfig
from flowmo.training.data.held_out import held_out_squares
from flowmo.training.evaluation.methods import mean_colour
from flowmo.training.recipes import recipe

ROOT = Path(__file__).resolve().parents[2]
CHECKPOINT = ROOT / "checkpoints" / "tiny"
RESULTS = ROOT / "benchmarks" / "results" / "tiny"


def test_it_is_whole_small_and_of_the_recipe() -> None:
    info = inspect_checkpoint(CHECKPOINT)
    config, state = load_checkpoint(CHECKPOINT)
    assert info.fingerprint == compute_fingerprint(config, state)
    assert info.dtype == "bfloat16"
    assert info.size <= 32 * 2**20
    assert sum(tensor.numel() for tensor in state.values()) <= 16_000_000
    assert config == recipe("tiny-sharp").model


def test_its_run_is_the_committed_one() -> None:
    run = TrainConfig.from_dict(json.loads((RESULTS / "config.json").read_text(encoding="utf-8")))
    lines = (RESULTS / "log.jsonl").read_text(encoding="utf-8").splitlines()
    steps = [json.loads(line)["step"] for line in lines]
    assert steps == sorted(steps)
    shipped = recipe("tiny-sharp").model
    assert replace(run.model, sampler=shipped.sampler) == shipped
    assert json.loads(lines[-1])["sample_psnr"] > 18


def test_it_reconstructs_as_well_as_the_report_says() -> None:
    report = json.loads((RESULTS / "reconstruction.json").read_text(encoding="utf-8"))
    model = InferenceModel(FlowMo.from_pretrained(CHECKPOINT))
    assert report["fingerprint"] == model.fingerprint
    assert report["sampler"] == model.config.sampler.to_dict()
    side = model.config.image_size
    originals = held_out_squares(side)
    came = reconstruct(model, list(originals.values()))
    qualities = {
        name: {
            "flowmo": measure(original, ours, model.config.payload_bytes),
            "mean_colour": measure(original, mean_colour(original), None),
        }
        for (name, original), ours in zip(originals.items(), came, strict=True)
    }
    means = averages(qualities)
    # Another processor may flip a sign that is close to zero.
    assert means["flowmo"]["psnr"] == pytest.approx(report["averages"]["flowmo"]["psnr"], abs=0.1)
    assert means["flowmo"]["ssim"] == pytest.approx(report["averages"]["flowmo"]["ssim"], abs=0.01)
    # Each photograph comes back as itself, not as another one or as a colour.
    for name, ours in zip(originals, came, strict=True):
        assert qualities[name]["flowmo"].psnr > qualities[name]["mean_colour"].psnr + 2
        errors = {
            other: np.mean((ours.astype(float) - original.astype(float)) ** 2)
            for other, original in originals.items()
        }
        assert min(errors, key=errors.__getitem__) == name
