"""What a prior generates, measured: shards, samplers and reports, on colours as features."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from flowmo.cli.app import app
from flowmo.imaging.tensors import as_levels
from flowmo.model import registry
from flowmo.model.errors import ConfigError
from flowmo.model.inference import InferenceModel
from flowmo.model.loading import load_inference_model
from flowmo.model.prior.checkpoint import Prior
from flowmo.model.prior.config import PriorConfig
from flowmo.model.prior.network import initialize
from flowmo.training.evaluation import (
    NO_NETWORKS,
    EvaluationError,
    Networks,
    PictureList,
    Plan,
    Ranks,
)
from flowmo.training.evaluation.adm import AdmStatistics, measure_generated, read_statistics
from flowmo.training.evaluation.distances import statistics
from flowmo.training.evaluation.extractors import SPATIAL
from flowmo.training.evaluation.generation import Generation, evaluate_generation, name_of
from flowmo.training.evaluation.protocol import INCEPTION
from flowmo.training.prior_pictures import draw_pictures
from tests.training.evaluation.conftest import ColourNetworks


@pytest.fixture(scope="module")
def prior_checkpoint(micro_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    decoder = load_inference_model(micro_checkpoint, device="cpu")
    prior = Prior(
        PriorConfig(
            name="micro", width=16, depth=1, heads=2, mlp_width=16, code_length=4, token_bits=6,
            group_bits=3, classes=2, class_names=("cat", "dog"), tokenizer=decoder.fingerprint,
        )
    )  # fmt: skip
    initialize(prior, seed=0)
    folder = tmp_path_factory.mktemp("prior") / "prior"
    prior.save_pretrained(folder, dtype=torch.float32)
    return folder


@pytest.fixture
def prior(prior_checkpoint: Path) -> Prior:
    return registry.load(prior_checkpoint, expected=Prior)


@pytest.fixture(scope="module")
def decoder(micro_checkpoint: Path) -> InferenceModel:
    return load_inference_model(micro_checkpoint, device="cpu")


@pytest.fixture(scope="module")
def reference(pictures: Path) -> AdmStatistics:
    images = PictureList([str(pictures)], 32)
    squares = np.stack([images.square(number) for number in range(len(images))])
    of = statistics(as_levels(squares).float().mean((2, 3)))
    return AdmStatistics(of={INCEPTION: of, SPATIAL: of}, pictures=squares)


def generation(prior: Prior, decoder: InferenceModel, **changes: Any) -> Generation:
    values: dict[str, Any] = {
        "prior": prior,
        "decoder": decoder,
        "samplers": [prior.config.sampler.changed(steps=2)],
        "networks": ColourNetworks(),
        "count": 10,
        "plan": Plan(batch=2, shard=4, shown=3),
    }
    return Generation(**(values | changes))


def test_figures_are_those_of_the_samples_however_they_are_cut(
    prior: Prior, decoder: InferenceModel, reference: AdmStatistics, tmp_path: Path
) -> None:
    one = generation(prior, decoder)
    assert one.classes(range(5)) == [0, 1, 0, 1, 0]
    (sampler,) = one.samplers
    drawn = draw_pictures(prior, decoder, one.classes(range(10)), seeds=range(10), sampler=sampler)
    expected = measure_generated([drawn], reference, one.networks)
    report = None
    for rank in (2, 1, 0):  # rank 0 waits for the others
        report = evaluate_generation(
            one, reference, tmp_path / "three", ranks=Ranks(rank=rank, world=3)
        )
    assert report is not None
    found = report["samplers"][name_of(sampler)]
    assert (found["pictures"], report["best"]) == (10, name_of(sampler))
    for name in ("gfid", "sfid", "inception_score", "precision", "recall"):
        assert found[name] == pytest.approx(getattr(expected, name), rel=1e-4), name
    # A stopped one goes on: what is there is not drawn again, and says the same.
    shards = sorted((tmp_path / "three" / "shards").iterdir())
    assert len(shards) == 3
    shards[1].unlink()
    before = shards[0].stat().st_mtime_ns
    again = evaluate_generation(one, reference, tmp_path / "three")
    assert again == report
    assert shards[0].stat().st_mtime_ns == before
    # Of other samples it is refused.
    with pytest.raises(EvaluationError, match="samples was 10 and is now 12"):
        evaluate_generation(replace(one, count=12), reference, tmp_path / "three")


def test_further_temperatures_join_a_folder_and_make_a_curve(
    prior: Prior, decoder: InferenceModel, reference: AdmStatistics, tmp_path: Path
) -> None:
    base = prior.config.sampler.changed(steps=2)
    one = generation(prior, decoder, samplers=[base])
    evaluate_generation(one, reference, tmp_path)
    assert not (tmp_path / "sweep.png").exists()
    lines: list[str] = []
    several = replace(one, samplers=[base, base.changed(temperature=0.0)])
    report = evaluate_generation(
        several, reference, tmp_path, source="photos", on_progress=lines.append
    )
    assert report is not None
    assert all(line.startswith("temperature 0, ") for line in lines)
    assert len(lines) == 3
    assert (tmp_path / "sweep.png").read_bytes().startswith(b"\x89PNG")
    gfids = {name: values["gfid"] for name, values in report["samplers"].items()}
    assert report["best"] == min(gfids, key=lambda name: gfids[name])
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert page.count("data:image/webp") == 2 * 3
    for text in ("photos", *gfids, "cat", "rest on 10 samples", prior.fingerprint()):
        assert text in page
    stored = json.loads((tmp_path / "report.json").read_text())
    assert stored["samplers"].keys() == gfids.keys()


def test_what_cannot_be_measured_is_refused_before_anything_is_drawn(
    prior: Prior, decoder: InferenceModel, reference: AdmStatistics, tmp_path: Path
) -> None:
    without = generation(prior, decoder, networks=Networks(NO_NETWORKS))
    with pytest.raises(EvaluationError, match="rest on InceptionV3: it was left out"):
        evaluate_generation(without, reference, tmp_path)
    none = AdmStatistics(of={}, pictures=reference.pictures)
    with pytest.raises(EvaluationError, match="has no mu and sigma"):
        evaluate_generation(generation(prior, decoder), none, tmp_path)
    assert not list(tmp_path.iterdir())
    with pytest.raises(EvaluationError, match="at least two samples, got 1"):
        generation(prior, decoder, count=1)
    with pytest.raises(EvaluationError, match="that differ in temperature"):
        generation(prior, decoder, samplers=[prior.config.sampler] * 2)
    prior.config = replace(prior.config, tokenizer="ab" * 16)
    with pytest.raises(ConfigError, match="is made for the tokens of abab"):
        generation(prior, decoder)


def test_the_command_measures_against_images_and_keeps_their_statistics(
    prior_checkpoint: Path,
    micro_checkpoint: Path,
    pictures: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        "flowmo.training.evaluation.Networks", lambda *_args, **_options: ColourNetworks()
    )
    options = [f"--tokenizer={micro_checkpoint}", "--samples=6", "--steps=1,2"]
    options += ["--temperature=0.5", "--batch=2", "--shard=2", "--set-default"]
    command = ["evaluate-generation", str(prior_checkpoint), *options]
    first = [f"--reference={pictures}", f"--out={tmp_path / 'first'}"]
    found = CliRunner().invoke(app, [*command, *first])
    assert found.exit_code == 0, found.output
    kept = tmp_path / "first" / "reference.npz"
    of_images = read_statistics(kept).pictures
    assert of_images is not None
    assert of_images.shape == (10, 32, 32, 3)
    report = json.loads((tmp_path / "first" / "report.json").read_text())
    assert f"{prior_checkpoint} now draws with {report['best']}" in found.stdout
    own = registry.load(prior_checkpoint, expected=Prior).config.sampler
    assert report["samplers"][report["best"]]["sampler"] == own.to_dict()
    # The file is as good as the images that it was made of.
    second = [f"--reference={kept}", f"--out={tmp_path / 'second'}"]
    assert CliRunner().invoke(app, [*command, *second]).exit_code == 0
    again = json.loads((tmp_path / "second" / "report.json").read_text())
    assert again["samplers"] == report["samplers"]
