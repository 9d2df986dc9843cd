"""``flowmo inspect`` on files and checkpoints, whole and damaged."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import typer
from typer.testing import CliRunner, Result

from flowmo import (
    CheckpointError,
    Container,
    ContainerTruncatedError,
    NotAContainerError,
    SamplerConfig,
    Tokens,
    preset,
)
from flowmo.cli.inspect_ import inspect_command
from flowmo.model.prior.checkpoint import Prior
from flowmo.model.prior.config import PriorConfig
from tests.model.checkpoints import CONFIG, made_model, made_state

app = typer.Typer()
app.command()(inspect_command)


def inspect(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    made_model().save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    container = Container(
        tokens=Tokens.from_ids([[1, 2], [7, 0]], group_bits=3),
        fingerprint=made_model().fingerprint(),
        width=16,
        height=16,
    )
    path = tmp_path / "photo.flowmo"
    path.write_bytes(container.to_bytes())
    return path


def test_a_file_tells_its_header(file: Path) -> None:
    report = json.loads(inspect(file, "--json").stdout)
    assert report == {
        "kind": "container",
        "path": str(file),
        "version": 1,
        "fingerprint": made_model().fingerprint(),
        "width": 16,
        "height": 16,
        "fit": "native",
        "tiles": 1,
        "tile_size": 16,
        "overlap": 0,
        "code_length": 2,
        "token_bits": 6,
        "group_bits": 3,
        "payload_bits": 12,
        "payload_bytes": 2,
        "bits_per_pixel": 12 / 256,
        "bytes": 54,
    }


def test_a_file_is_described_to_people(file: Path) -> None:
    lines = inspect(file).stdout.splitlines()
    assert "tokens (K)        2" in lines
    assert "bits a pixel      0.0469" in lines
    assert "size              54 bytes" in lines


def test_whether_a_checkpoint_made_the_file(file: Path, checkpoint: Path, tmp_path: Path) -> None:
    result = inspect(file, "--checkpoint", checkpoint, "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout)["matches_checkpoint"] is True
    made_model(offset=1).save_pretrained(tmp_path / "other")
    result = inspect(file, "--checkpoint", tmp_path / "other")
    assert result.exit_code == 1
    assert "matches           NO" in result.stdout
    assert made_model(offset=1).fingerprint() in result.stderr


def test_a_checkpoint_without_fingerprint_is_asked_for_its_weights(
    file: Path, checkpoint: Path
) -> None:
    record = json.loads((checkpoint / "config.json").read_text())
    del record["fingerprint"]
    (checkpoint / "config.json").write_text(json.dumps(record))
    assert inspect(file, "--checkpoint", checkpoint).exit_code == 0
    result = inspect(checkpoint, "--json")
    assert result.exit_code == 0
    report = json.loads(result.stdout)
    assert report["fingerprint"] is None
    assert report["fingerprint_verified"] is None
    assert report["fingerprint_computed"] == made_model().fingerprint()


def test_damaged_files_are_errors(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])
    assert isinstance(inspect(file).exception, ContainerTruncatedError)
    file.write_bytes(b"PK\x03\x04 a zip file, as .pth files are")
    error = inspect(file).exception
    assert isinstance(error, NotAContainerError)
    assert "flowmo convert" in str(error)


def test_a_checkpoint_tells_what_it_is(checkpoint: Path) -> None:
    result = inspect(checkpoint, "--json")
    assert result.exit_code == 0
    report = json.loads(result.stdout)
    halves = {
        half: sum(t.numel() for name, t in made_state().items() if name.startswith(half))
        for half in ("encoder", "decoder")
    }
    assert report["parameters"] == {"total": sum(halves.values()), **halves}
    assert report["kind"] == "checkpoint"
    assert (report["name"], report["preset"]) == ("pico", None)
    assert (report["dtype"], report["files"]) == ("float32", 1)
    assert report["bytes"] == (checkpoint / "model.safetensors").stat().st_size
    assert report["fingerprint"] == report["fingerprint_computed"] == made_model().fingerprint()
    assert report["fingerprint_verified"] is True
    assert report["config"] == CONFIG.to_dict()


def test_a_checkpoint_is_described_to_people(checkpoint: Path) -> None:
    text = inspect(checkpoint).stdout
    assert "verified" in text
    assert "config: encoder" in text
    assert "width 16, depth 1, heads 2" in text


def test_changed_weights_are_found(checkpoint: Path) -> None:
    path = checkpoint / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 0x40
    path.write_bytes(data)
    result = inspect(checkpoint)
    assert result.exit_code == 1
    assert "get the checkpoint again" in result.stderr
    quick = inspect(checkpoint, "--no-verify", "--json")
    assert quick.exit_code == 0
    assert "fingerprint_verified" not in json.loads(quick.stdout)


def test_a_prior_tells_what_it_is_and_whose_tokens_it_knows(tmp_path: Path) -> None:
    config = PriorConfig(
        name="micro", width=16, depth=1, heads=2, mlp_width=16, code_length=4, token_bits=6,
        group_bits=3, tokenizer="ab" * 16,
    )  # fmt: skip
    prior = Prior(config)
    fingerprint = prior.save_pretrained(tmp_path)
    report = json.loads(inspect(tmp_path, "--json").stdout)
    assert (report["kind"], report["name"], report["tokenizer"]) == ("prior", "micro", "ab" * 16)
    assert report["parameters"] == {"total": sum(one.numel() for one in prior.parameters())}
    assert report["fingerprint"] == report["fingerprint_computed"] == fingerprint
    test_changed_weights_are_found(tmp_path)


def test_a_preset_is_recognised_whatever_it_is_called(tmp_path: Path) -> None:
    config = replace(preset("tiny"), name="mine", sampler=SamplerConfig(steps=5))
    state = made_state(config)
    made_model(config).save_pretrained(tmp_path, dtype=torch.bfloat16)
    report = json.loads(inspect(tmp_path, "--no-verify", "--json").stdout)
    assert (report["name"], report["preset"]) == ("mine", "tiny")
    assert report["parameters"]["total"] == sum(t.numel() for t in state.values())


def test_what_is_neither_is_an_error(tmp_path: Path, checkpoint: Path) -> None:
    assert isinstance(inspect(tmp_path / "nothing").exception, CheckpointError)
    result = inspect(checkpoint, "--checkpoint", checkpoint)
    assert result.exit_code == 2
    assert "is for a .flowmo file" in result.output
