"""The prior that comes with the repository is the one whose figures are committed."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.prior_quality import unigram_bits
from flowmo.imaging.tensors import to_images
from flowmo.model import registry
from flowmo.model.loading import load_inference_model
from flowmo.model.prior.checkpoint import Prior, inspect_prior
from flowmo.model.quantizer import codes_to_ids
from flowmo.training.config import AnyTrainConfig, TrainConfig
from flowmo.training.data.held_out import held_out_squares
from flowmo.training.data.tokens.dataset import TokenRows
from flowmo.training.tasks.prior_validation import MASK_RATES, PriorValidator

ROOT = Path(__file__).resolve().parents[2]
CHECKPOINT = ROOT / "checkpoints" / "prior-tiny"
RESULTS = ROOT / "benchmarks" / "results" / "prior-tiny"


@pytest.fixture(scope="module")
def report() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((RESULTS / "prior.json").read_text(encoding="utf-8"))
    return found


def test_it_is_whole_small_and_knows_the_shipped_tokenizer(report: dict[str, Any]) -> None:
    info = inspect_prior(CHECKPOINT)
    prior = registry.load("prior-tiny", expected=Prior)
    assert info.fingerprint == prior.fingerprint() == report["prior"]["fingerprint"]
    assert info.dtype == "bfloat16"
    assert info.size <= 20 * 2**20
    tokenizer = json.loads((ROOT / "checkpoints/tiny/config.json").read_text())["fingerprint"]
    prior.config.check_tokenizer(tokenizer)
    run: AnyTrainConfig = TrainConfig.from_dict(
        json.loads((RESULTS / "config.json").read_text(encoding="utf-8"))
    )
    assert run.model == prior.config


def test_it_predicts_photographs_that_it_never_saw(report: dict[str, Any]) -> None:
    """On tokens of the held-out photographs, better than any model without context is on its own.

    The committed figures are of other held-out pictures, of the same tokenizer.
    """
    tokenizer = load_inference_model("tiny", device="cpu", halves=("encoder",))
    prior = registry.load("prior-tiny", expected=Prior, dtype=torch.float32)
    images = to_images(list(held_out_squares(tokenizer.config.image_size).values()))
    ids = codes_to_ids(tokenizer.encode(images), tokenizer.config.group_bits).flatten(1)
    rows = TokenRows(ids, torch.full((len(ids),), -1))
    found = PriorValidator(rows, device=torch.device("cpu")).measure(prior)
    bits = {rate: found[f"cross_entropy_at_{round(100 * rate)}"] / 0.6931 for rate in MASK_RATES}
    assert bits[0.1] < bits[0.5] < bits[0.9] < bits[1.0] < 9.0
    without = report["without_context"]["place"]["held_out"]
    assert bits[0.5] < without - 1.0
    assert report["bits"] < without


def test_a_model_without_context_is_counted() -> None:
    ids = torch.tensor([[0, 3], [0, 1], [0, 3], [0, 1]]).numpy()
    same = torch.tensor([0, 0]).numpy()
    apart = torch.tensor([0, 1]).numpy()
    # Half an occurrence is added to each of four ids: 4.5, 2.5, 0.5, 2.5 of 10; apart 4.5 of 6.
    together = unigram_bits(ids, ids, same, 4)
    p = torch.tensor([0.45, 0.25, 0.05, 0.25], dtype=torch.float64)
    assert together["entropy"] == pytest.approx(float(-(p * p.log2()).sum()))
    assert together["held_out"] == pytest.approx(float(-(0.5 * p[0].log2() + 0.5 * p[1].log2())))
    alone = unigram_bits(ids, ids, apart, 4)
    first, second = -torch.tensor(4.5 / 6).log2(), -torch.tensor(2.5 / 6).log2()
    assert alone["held_out"] == pytest.approx(float(first + second) / 2)
