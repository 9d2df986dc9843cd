"""The second stage through the real trainer, on ids whose statistics are known."""

import io
import itertools
import json
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import Tensor

from flowmo.model import registry
from flowmo.model.errors import CheckpointError, ConfigError
from flowmo.model.loading import load_inference_model
from flowmo.model.prior.checkpoint import Prior
from flowmo.model.prior.config import prior_preset
from flowmo.training.config import (
    AnyTrainConfig,
    DataConfig,
    OptimizerConfig,
    PriorTrainConfig,
    ValidationConfig,
)
from flowmo.training.data.tokens.dataset import TokenDataset
from flowmo.training.errors import DataError
from flowmo.training.loop.trainer import TrainResult, train
from flowmo.training.overrides import override
from flowmo.training.recipes import recipe
from flowmo.training.tasks.prior import PriorTask
from flowmo.training.tasks.prior_validation import MASK_RATES, validation_masks
from flowmo.training.tasks.registry import start_from
from tests.model.checkpoints import CONFIG, save_random
from tests.training.processes import Processes, assert_same, tensors_of
from tests.training.tokens import TOKENIZER, prior_run, write_tokens

LENGTH, VALUES = 2, 4

FIRST = torch.tensor([[0.7, 0.1, 0.1, 0.1], [0.05, 0.05, 0.4, 0.5]])  # by class
NEXT = torch.full((VALUES, VALUES), 0.05) + 0.8 * torch.eye(VALUES).roll(1, 1)
STATES = torch.tensor(list(itertools.product(range(VALUES), repeat=LENGTH)))


def joint() -> Tensor:
    """p(ids | class) of a Markov chain, [2, V^N]."""
    p = FIRST[:, STATES[:, 0]]
    for before, after in itertools.pairwise(range(LENGTH)):
        p = p * NEXT[STATES[:, before], STATES[:, after]]
    return p


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 2, 4000)
    p = joint().double().numpy()
    states = [generator.choice(len(STATES), p=p[label] / p[label].sum()) for label in labels]
    folder = tmp_path_factory.mktemp("tokens") / "train"
    return write_tokens(folder, STATES.numpy()[states], labels)


def run(one: AnyTrainConfig, *, resume: bool = False) -> TrainResult:
    return train(one, resume=resume, console=Console(file=io.StringIO()))


def true_cross_entropy(ids: Tensor, labels: Tensor) -> Iterator[float]:
    """What nobody can do better than, on the validation's own masks: -log p(id | known, class)."""
    p = joint()[labels]  # [B, V^N]
    for rate in MASK_RATES:
        masked = validation_masks(len(ids), ids.shape[1], rate)
        fits = ((ids[:, None] == STATES) | masked[:, None]).all(-1)  # [B, V^N]
        known = p * fits
        right = torch.einsum("bs,bsn->bn", known, (ids[:, None] == STATES).float())
        yield float(-(right / known.sum(1, keepdim=True)).log()[masked].mean())


def test_it_learns_a_known_distribution(tokens: Path, tmp_path: Path) -> None:
    """Within 5 % of the true entropy, 10 % at each of the few masks of one rate."""
    one = prior_run(
        tokens,
        tmp_path / "run",
        steps=300,
        batch_size=64,
        log_interval=100,
        optimizer=OptimizerConfig(learning_rate=5e-3, schedule="linear"),
        validation=ValidationConfig(interval=300, count=400, metric="cross_entropy"),
    )
    result = run(one)
    task = PriorTask(PriorTask.complete(one), torch.device("cpu"))
    dataset = TokenDataset.open([str(tokens)])
    data = task.open_data(lambda _: None)
    assert len(data) == 3600  # a tenth is held out
    held = np.linspace(0, 3999, 400).round().astype(int).tolist()
    rows = dataset.rows(held)
    truth = list(true_cross_entropy(*rows))
    lines = [json.loads(x) for x in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    (found,) = [line for line in lines if "validation_cross_entropy" in line]
    for rate, value in zip(MASK_RATES, truth, strict=True):
        assert found[f"validation_cross_entropy_at_{round(100 * rate)}"] == pytest.approx(
            value, rel=0.1
        )
    assert found["validation_cross_entropy"] == pytest.approx(np.mean(truth), rel=0.05)
    assert truth[0] < 0.8 * truth[-1]  # what is known tells much of what is not
    # The best weights are a checkpoint that names tokenizer and classes.
    assert result.best is not None
    prior = registry.load(result.best, expected=Prior)
    assert (prior.config.tokenizer, prior.config.length) == (TOKENIZER, LENGTH)
    assert prior.config.class_names == ("a", "b")
    # What it draws has the class's own statistics: total variation of 500 samples of 4 values.
    for number in (0, 1):
        drawn = registry.load(result.best, expected=Prior, dtype=torch.float32).generate(
            [number] * 500,
            seeds=range(500),
            sampler=replace(
                prior.config.sampler, guidance=1.0, annealing=(1.0, 1.0), randomness=1e6
            ),
        )
        share = torch.bincount(drawn[:, 0], minlength=VALUES) / 500
        assert 0.5 * (share - FIRST[number]).abs().sum() < 0.1


def test_resuming_is_exact_and_parts_of_a_batch_add_up(tokens: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {
        "validation": ValidationConfig(interval=2, count=16, metric="accuracy"),
        "optimizer": OptimizerConfig(learning_rate=3e-3, weight_decay=0.1),
    }
    whole = prior_run(tokens, tmp_path / "whole", **options)
    run(whole)
    parts = prior_run(tokens, tmp_path / "parts", **options)
    run(replace(parts, steps=3))
    run(parts, resume=True)
    one, other = tensors_of(whole), tensors_of(parts)
    assert [name for name in one if not torch.equal(one[name], other[name])] == []
    split = prior_run(tokens, tmp_path / "split", accumulation=4, **options)
    run(split)
    for name, tensor in tensors_of(split).items():
        if name.startswith("model."):
            assert torch.allclose(tensor, one[name], atol=1e-5), name


def test_killed_in_any_file_operation_it_goes_on_identically(tokens: Path, tmp_path: Path) -> None:
    one = prior_run(
        tokens,
        tmp_path / "killed",
        steps=12,
        checkpoint_interval=2,
        keep_best=True,
        validation=ValidationConfig(interval=3, count=16, metric="cross_entropy"),
    )
    straight = replace(one, output=str(tmp_path / "straight"))
    for fatal in (20, 45):  # of some 70 operations from the start, and of fewer from where it was
        killed = Processes([one], tmp_path / f"killed-{fatal}", size=1, fatal=fatal)
        assert killed.wait() == [-signal.SIGKILL]
    ended = Processes([one, straight], tmp_path / "ended", size=1)
    assert ended.finish() == ["finished 12", "finished 12"]
    assert_same(one, straight)


def test_it_is_judged_on_tokens_with_some_of_its_classes_or_none(
    tokens: Path, tmp_path: Path
) -> None:
    """Held-out tokens are numbered by themselves: their class 0 is the prior's class 1."""
    ids = STATES.numpy()[[0, 5, 5]]
    of_b = write_tokens(tmp_path / "b", ids, np.array([0, 0, -1]), classes=1, class_names=["b"])
    model = TokenDataset.open([str(tokens)]).prior_config(prior_preset("prior-tiny"))
    assert TokenDataset.open([str(of_b)]).judging(model).labels.tolist() == [1, 1, -1]
    none = write_tokens(tmp_path / "none", ids, np.full(3, -1), classes=0, class_names=[])
    one = prior_run(
        tokens,
        tmp_path / "run",
        steps=2,
        validation=ValidationConfig(interval=2, count=3, metric="accuracy", paths=(str(of_b),)),
    )
    run(one)
    assert TokenDataset.open([str(none)]).judging(model).labels.tolist() == [-1] * 3
    strange = write_tokens(tmp_path / "c", ids, np.zeros(3), classes=1, class_names=["c"])
    with pytest.raises(ConfigError, match="has classes that the prior .* does not: c; give it"):
        TokenDataset.open([str(strange)]).judging(model)


def test_a_run_is_bound_to_its_tokens(tokens: Path, tmp_path: Path) -> None:
    first = run(prior_run(tokens, tmp_path / "run"))
    ids, labels = np.zeros((20, LENGTH)), np.full(20, -1)
    other = write_tokens(tmp_path / "other", ids, labels, tokenizer="cd" * 16)
    with pytest.raises(CheckpointError, match="of another model; different are model.tokenizer"):
        run(replace(prior_run(other, tmp_path / "run"), steps=8), resume=True)
    begun = start_from(prior_run(other, tmp_path / "next"), str(first.export))
    with pytest.raises(ConfigError, match="made for the tokens of abab.* are of the tokenizer cdc"):
        run(begun)
    begun = start_from(prior_run(tokens, tmp_path / "next"), str(first.export))
    exported = registry.load(first.export, expected=Prior, dtype=torch.float32)
    built = PriorTask(PriorTask.complete(begun), torch.device("cpu")).build_model()
    assert built.fingerprint() == exported.fingerprint()
    unlabelled = write_tokens(tmp_path / "none", ids, labels, classes=0, class_names=[])
    result = run(prior_run(unlabelled, tmp_path / "unlabelled", steps=1))
    assert registry.load(result.export, expected=Prior).config.classes == 0


def test_what_does_not_fit_is_refused(tokens: Path, tmp_path: Path) -> None:
    one = prior_run(tokens, tmp_path / "run")
    with pytest.raises(DataError, match="write them with `flowmo tokenize-dataset"):
        run(replace(one, data=DataConfig()))
    with pytest.raises(DataError, match="holds no tokens: there is no dataset.json; write some"):
        run(replace(one, data=DataConfig(paths=(str(tmp_path),))))
    with pytest.raises(ConfigError, match="ignores data.crop = 'centre'"):
        replace(one, data=DataConfig(paths=(str(tokens),), crop="centre"))
    with pytest.raises(ConfigError, match="ignores prior.label_smoothing = 0.2"):
        replace(recipe("tiny-pretrain"), prior=PriorTrainConfig(label_smoothing=0.2))
    with pytest.raises(ConfigError, match="mask_schedule must be one of .*, got 'linear'"):
        override(one, {"prior.mask_schedule": "linear"})


def test_the_recipe_is_the_papers() -> None:
    one = recipe("prior")
    assert one.model == prior_preset("prior")
    assert one.steps * 128 / 1_281_167 == pytest.approx(300, abs=1e-3)
    assert (one.batch_size, one.optimizer.learning_rate, one.precision) == (128, 1e-4, "bf16")
    assert (one.ema_decay, one.condition_dropout) == (0.9999, 0.1)
    sampler = one.model.sampler
    assert (sampler.steps, sampler.guidance) == (64, 1.5)


def test_samples_are_decoded_by_the_tokenizer_and_by_no_other(tmp_path: Path) -> None:
    folder = save_random(tmp_path / "tokenizer", CONFIG, seed=0)
    fingerprint = load_inference_model(folder, device="cpu").fingerprint
    sizes = {"code_length": 2, "token_bits": 6, "group_bits": 3, "classes": 0, "class_names": []}
    ids, labels = np.random.default_rng(0).integers(0, 8, (20, 4)), np.full(20, -1)
    data = write_tokens(tmp_path / "own", ids, labels, tokenizer=fingerprint, **sizes)
    options = {
        "prior": PriorTrainConfig(tokenizer=str(folder)),
        "sample_interval": 2,
        "sample_count": 3,
        "steps": 2,
    }
    run(prior_run(data, tmp_path / "run", **options))
    (picture,) = (tmp_path / "run" / "samples").glob("*.png")
    from PIL import Image

    with Image.open(picture) as opened:
        assert opened.size == (3 * CONFIG.image_size, CONFIG.image_size)
    wrong = write_tokens(tmp_path / "wrong", ids, labels, **sizes)
    with pytest.raises(ConfigError, match=f"these are of the tokenizer {fingerprint}"):
        run(prior_run(wrong, tmp_path / "refused", **options))
