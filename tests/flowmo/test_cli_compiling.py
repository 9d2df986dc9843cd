"""flowmo export, build-engine and cost, as a person calls them."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from flowmo.cli.app import app
from flowmo.deploy.runners import graph_folder
from flowmo.deploy.tensorrt.keys import read_manifest
from flowmo.deploy.tensorrt.steps import check_bindings
from flowmo.model.flowmo import FlowMo
from flowmo.model.inference import InferenceModel
from flowmo.model.prior.checkpoint import Prior
from flowmo.model.prior.network import initialize
from tests.service.fixtures import CONFIG, prior_config, save_model

RUN = CliRunner()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("checkpoint"), seed=3)


def test_from_a_checkpoint_to_engines(checkpoint: Path, tmp_path: Path) -> None:
    exported = RUN.invoke(app, ["export", str(checkpoint), str(tmp_path / "onnx")])
    assert exported.exit_code == 0, exported.output
    assert {path.name for path in (tmp_path / "onnx").iterdir()} == {
        "encoder.onnx",
        "decoder_step.onnx",
    }
    command = ["build-engine", str(tmp_path / "onnx"), "--out", str(tmp_path / "engines")]
    command += ["--max-batch", "2", "--architecture", "sm86", "--library", "tensorrt_rtx"]
    built = RUN.invoke(app, command)
    assert built.exit_code == 0, built.output
    lines = built.stdout.splitlines()
    assert [line.partition("attention fused: ")[2] for line in lines] == ["all", "all"]
    assert all("built in" in line for line in lines)
    assert len(list((tmp_path / "engines").glob("*-sm86-*.engine"))) == 2
    again = RUN.invoke(app, command)
    assert again.stdout.count("was there already") == 2


def test_a_checkpoints_engines_are_where_a_service_looks(checkpoint: Path, tmp_path: Path) -> None:
    command = ["build-engine", str(checkpoint), "--out", str(tmp_path), "--max-batch", "1"]
    command += ["--architecture", "sm86", "--library", "tensorrt_rtx"]
    built = RUN.invoke(app, command)
    assert built.exit_code == 0, built.output
    model = InferenceModel(FlowMo.from_pretrained(checkpoint), dtype=torch.bfloat16)
    graphs = graph_folder(tmp_path, model)
    assert {path.name for path in graphs.iterdir()} == {"encoder.onnx", "decoder_step.onnx"}
    assert len(list(tmp_path.glob("*-sm86-*.engine"))) == 2
    assert "exporting" not in RUN.invoke(app, command).stderr


def test_a_priors_engine_is_built_where_no_gpu_is(tmp_path: Path) -> None:
    # Heads of 16 values, of which attention is one kernel as in larger ones.
    config = replace(prior_config("0" * 32), width=32, depth=2)
    prior = Prior(config)
    initialize(prior, seed=0)
    prior.save_pretrained(tmp_path / "prior")
    command = ["build-engine", str(tmp_path / "prior"), "--out", str(tmp_path), "--max-batch", "2"]
    built = RUN.invoke(app, [*command, "--architecture", "sm86", "--library", "tensorrt_rtx"])
    assert built.exit_code == 0, built.output
    assert "attention fused: all" in built.stdout
    (engine,) = tmp_path.glob("prior-*-sm86-*.engine")
    manifest = read_manifest(engine)
    assert manifest.size > 2 * sum(weight.numel() for weight in prior.parameters())
    assert manifest.report["attention_expected"] == 2 * config.depth
    check_bindings("prior", manifest.bindings)
    assert manifest.bindings["ids"] == {"kind": "input", "dtype": "int64", "shape": [config.length]}
    assert manifest.bindings["logits"]["dtype"] == "float"


def test_float32_is_compared_with_pytorch(checkpoint: Path, tmp_path: Path) -> None:
    result = RUN.invoke(app, ["export", str(checkpoint), str(tmp_path), "--dtype", "float32"])
    assert result.exit_code == 0, result.output
    assert result.stdout.count("largest difference from PyTorch") == 2


def test_errors_are_one_line(checkpoint: Path, tmp_path: Path) -> None:
    for command, text in (
        (["build-engine", str(tmp_path)], "write it with flowmo export"),
        (["build-engine", str(tmp_path), "--profile", "fast"], "profile must be one of"),
        (["cost", "--preset", "huge"], "huge"),
        (["cost", "--preset", "lo", "--gpu", "tpu"], "gpu must be one of h100"),
        (["export", str(tmp_path / "none"), str(tmp_path)], "none"),
    ):
        result = RUN.invoke(app, command)
        assert result.exit_code == 1, (command, result.output)
        (line,) = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
        assert text in line
    assert RUN.invoke(app, ["cost"]).exit_code == 2


def test_cost_of_a_preset_and_of_a_checkpoint(checkpoint: Path) -> None:
    table = RUN.invoke(app, ["cost", "--preset", "lo", "--batch", "16"])
    assert table.exit_code == 0, table.output
    assert "31 forwards of the decoder, 111.7 TFLOP" in table.stdout
    report = json.loads(RUN.invoke(app, ["cost", "-c", str(checkpoint), "--json"]).stdout)
    assert report["model"] == CONFIG.name
    assert report["forwards_a_picture"] >= CONFIG.sampler.steps
    assert report["fits"] is True
    prior = RUN.invoke(app, ["cost", "--preset", "prior"])
    assert "128 forwards of the prior" in prior.stdout
    report = json.loads(RUN.invoke(app, ["cost", "-c", "prior-tiny", "--json"]).stdout)
    assert (report["model"], report["steps"], report["forwards_a_picture"]) == (
        "prior-tiny",
        64,
        128,
    )
