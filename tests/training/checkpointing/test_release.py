"""A release is a checkpoint that loads, with a card that says what it is."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import HfApi, ModelCard
from PIL import Image
from typer.testing import CliRunner

from flowmo.cli import app
from flowmo.model import registry
from flowmo.model.errors import CheckpointError, ConfigError
from flowmo.model.flowmo import FlowMo
from flowmo.model.loading import load_inference_model
from flowmo.model.prior.checkpoint import Prior
from flowmo.training.checkpointing.release import push, release
from flowmo.training.config import (
    AnyTrainConfig,
    PriorTrainConfig,
    TrainConfig,
    ValidationConfig,
)
from tests.model.checkpoints import CONFIG, save_random
from tests.training.students import pupil_config, quiet
from tests.training.tokens import prior_run, write_tokens


@pytest.fixture(scope="module")
def run(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    config = pupil_config(pictures, tmp_path_factory.mktemp("run"))
    config = replace(
        config, steps=4, batch_size=2, validation=replace(config.validation, interval=2, count=3)
    )
    quiet(config)
    return config


def test_a_release_loads_and_its_card_says_what_it_is(run: TrainConfig, tmp_path: Path) -> None:
    out = tmp_path / "pupil"
    arguments = [run.output, str(out), "--license", "cc0-1.0", "--data-note", "ten waves"]
    result = CliRunner().invoke(app, ["release", *arguments])
    assert result.exit_code == 0, result.output
    model = FlowMo.from_pretrained(out)
    best = FlowMo.from_pretrained(Path(run.output) / "best")
    assert model.fingerprint() == best.fingerprint()
    card = ModelCard.load(out / "README.md")
    assert card.data.license == "cc0-1.0"
    assert card.data.library_name == "flowmo-serve"
    for words in (
        "16 tokens of 18 bits (36 bytes, 0.281 bits a pixel)",
        "4 steps of batch 2 (8 samples",
        "on\n10 images (ten waves)",
        "average, best validation",
        f"`{model.fingerprint()}`",
    ):
        assert words in card.text
    metrics = json.loads((out / "metrics.json").read_text())["held_out"]
    assert f"| held out in training | PSNR (dB) | {metrics['psnr']:.4g} |" in card.text
    assert TrainConfig.from_dict(json.loads((out / "training.json").read_text())) == run
    with Image.open(out / "pictures.png") as picture:
        assert picture.size == (6 * 32, 2 * 32)


def test_the_figures_are_those_of_the_validation(run: TrainConfig, tmp_path: Path) -> None:
    lines = (Path(run.output) / "log.jsonl").read_text().splitlines()
    logged = [v["validation_psnr"] for v in map(json.loads, lines) if "validation_psnr" in v]
    written = release(Path(run.output), tmp_path / "out")
    # The log has the float32 average, the release its bfloat16 form.
    assert written.metrics["psnr"] == pytest.approx(max(logged), abs=0.1)


def test_a_release_is_replaced_and_nothing_else_is(run: TrainConfig, tmp_path: Path) -> None:
    release(Path(run.output), tmp_path / "out", title="First")
    release(Path(run.output), tmp_path / "out", title="Second")
    assert "# Second" in (tmp_path / "out/README.md").read_text()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/letter.txt").write_text("keep me")
    with pytest.raises(ConfigError, match="is no release"):
        release(Path(run.output), tmp_path / "mine")
    assert (tmp_path / "mine/letter.txt").read_text() == "keep me"


def test_an_evaluations_figures_join_the_card(run: TrainConfig, tmp_path: Path) -> None:
    best, report = str(Path(run.output) / "best"), tmp_path / "evaluation/report.json"
    common = ["--out", str(report.parent), "--inception", "none", "--vgg", "none"]
    options = ["--lpips", "none", "--against", "mean-colour"]
    result = CliRunner().invoke(app, ["evaluate", best, *common, *options])
    assert result.exit_code == 0, result.output
    release(Path(run.output), tmp_path / "out", evaluation=report)
    card = (tmp_path / "out/README.md").read_text()
    methods = json.loads(report.read_text())["methods"]
    for method in ("flowmo", "mean-colour"):
        assert f"| 6 pictures, {method} | PSNR (dB) | {methods[method]['psnr']:.4g} |" in card
    report.write_text(report.read_text().replace('"fingerprint": "', '"fingerprint": "0'))
    with pytest.raises(ConfigError, match="not of these weights"):
        release(Path(run.output), tmp_path / "other", evaluation=report)
    assert not (tmp_path / "other").exists()


def test_what_cannot_be_released_is_told(run: TrainConfig, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="holds no finished run"):
        release(tmp_path, tmp_path / "out")
    result = CliRunner().invoke(
        app, ["release", run.output, str(tmp_path / "o"), "--weights", "worst"]
    )
    assert result.exit_code == 2
    assert "best, export or auto" in result.stderr


def test_a_release_is_pushed_in_one_commit(
    run: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hub's interface stands in for the hub: what reaches it, and what a refusal becomes."""
    calls: list[tuple[str, dict[str, object]]] = []

    class Commit:
        commit_url = "https://hub/commit/1"

    def create(self: HfApi, repository: str, **options: object) -> None:
        calls.append((repository, options))

    def upload(self: HfApi, **options: object) -> Commit:
        calls.append((str(options.pop("repo_id")), options))
        return Commit()

    monkeypatch.setattr(HfApi, "create_repo", create)
    monkeypatch.setattr(HfApi, "upload_folder", upload)
    written = release(Path(run.output), tmp_path / "out", source="us/pupil")
    assert push(written.folder, "us/pupil", private=True) == Commit.commit_url
    assert calls[0] == ("us/pupil", {"private": True, "exist_ok": True})
    assert calls[1][0] == "us/pupil"
    assert calls[1][1]["folder_path"] == written.folder
    assert 'from_pretrained("us/pupil")' in (written.folder / "README.md").read_text()

    def refused(self: HfApi, repository: str, **options: object) -> None:
        raise OSError("no route")

    monkeypatch.setattr(HfApi, "create_repo", refused)
    with pytest.raises(CheckpointError, match="us/pupil cannot be written to: no route"):
        push(written.folder, "us/pupil")


@pytest.fixture(scope="module")
def prior_config(tmp_path_factory: pytest.TempPathFactory) -> AnyTrainConfig:
    folder = tmp_path_factory.mktemp("prior")
    tokenizer = save_random(folder / "tokenizer", CONFIG, seed=0)
    fingerprint = load_inference_model(tokenizer, device="cpu").fingerprint
    ids, labels = np.random.default_rng(0).integers(0, 8, (40, 4)), np.arange(40) % 2
    sizes = {"code_length": 2, "token_bits": 6, "group_bits": 3, "tokenizer": fingerprint}
    config = prior_run(
        write_tokens(folder / "tokens", ids, labels, **sizes),
        folder / "run",
        steps=2,
        prior=PriorTrainConfig(tokenizer=str(tokenizer)),
        validation=ValidationConfig(interval=2, count=4, metric="cross_entropy"),
        sample_count=3,
    )
    quiet(config)
    return config


def test_a_priors_release_loads_and_its_card_says_what_it_is(
    prior_config: AnyTrainConfig, tmp_path: Path
) -> None:
    run, report = Path(prior_config.output), tmp_path / "report.json"
    best = registry.load(run / "best", expected=Prior)
    figures = {"pictures": 64, "gfid": 12.5, "sfid": 7.25, "inception_score": 3.5}
    samplers = {"temperature 1": figures | {"precision": None, "recall": None}}
    report.write_text(json.dumps({"prior": best.fingerprint(), "samplers": samplers}))
    out = tmp_path / "prior"
    arguments = [str(run), str(out), "--license", "cc0-1.0", "--evaluation", str(report)]
    result = CliRunner().invoke(app, ["release", *arguments])
    assert result.exit_code == 0, result.output
    released = registry.load(out, expected=Prior)
    assert released.fingerprint() == best.fingerprint()
    card = ModelCard.load(out / "README.md")
    logged = json.loads((run / "log.jsonl").read_text().splitlines()[-1])
    # The log has the float32 average, the release its bfloat16 form.
    found = json.loads((out / "metrics.json").read_text())["held_out"]["cross_entropy_at_50"]
    assert found == pytest.approx(logged["validation_cross_entropy_at_50"], rel=0.05)
    bits = found / math.log(2)
    for words in (
        "4 ids of 3 bits of an image, of 2 classes (a, b)",
        f"`{released.config.tokenizer}`",
        f"`{released.fingerprint()}`",
        "class_number('a')",
        f"| held-out ids, 50 % masked | cross-entropy (bits an id) | {bits:.3f} |",
        "| 64 generated pictures, temperature 1 | gFID | 12.5 |",
        "pictures.png",
    ):
        assert words in card.text
    with Image.open(out / "pictures.png") as picture:
        assert picture.size == (3 * CONFIG.image_size, CONFIG.image_size)
    # Another prior's figures do not join it.
    report.write_text(json.dumps({"prior": "ab" * 16, "samplers": samplers}))
    with pytest.raises(ConfigError, match="not of these weights: it has .*abab.*evaluate-generat"):
        release(run, tmp_path / "other", evaluation=report)


def test_a_prior_is_released_without_what_is_gone(
    prior_config: AnyTrainConfig, tmp_path: Path
) -> None:
    gone = Path(prior_config.data.paths[0])
    moved = gone.rename(tmp_path / "moved")
    try:
        written = release(Path(prior_config.output), tmp_path / "out")
    finally:
        moved.rename(gone)
    assert written.metrics == {}
    assert "held-out tokens are not there" in written.missing["cross_entropy"]
    assert (tmp_path / "out" / "pictures.png").exists()
