"""``flowmo convert`` on made-up files."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from typer.testing import CliRunner, Result

from flowmo import FlowMo
from flowmo.cli.app import app
from tests.model.checkpoints import CONFIG, made_model, made_state


def convert(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["convert", *(str(argument) for argument in arguments)])


def reported(result: Result) -> str:
    """The one line that says why nothing was converted."""
    assert result.exit_code == 1, result.output
    # What rich showed while the file was read is gone from a terminal.
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert result.stderr.rstrip().endswith(line)
    return line


@pytest.fixture
def pth(tmp_path: Path) -> Path:
    path = tmp_path / "flowmo_pico.pth"
    state = {f"module.{name}": tensor for name, tensor in made_state().items()}
    torch.save({"model_ema_state_dict": state, "total_steps": 1_100_000}, path)
    return path


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "pico.json"
    path.write_text(json.dumps(CONFIG.to_dict()))
    return path


def test_it_writes_a_checkpoint_and_says_what(pth: Path, config: Path, tmp_path: Path) -> None:
    result = convert(pth, "--config", config, tmp_path / "out")
    assert result.exit_code == 0, result.output
    fingerprint = made_model().fingerprint()
    assert f"fingerprint {fingerprint}" in result.stdout
    assert "pico, 0.06 M parameters (ema, 1,100,000 steps), bfloat16" in result.stdout
    assert "began with 'module.'" in result.stderr
    network = FlowMo.from_pretrained(tmp_path / "out")
    assert network.config == CONFIG
    assert next(network.parameters()).dtype == torch.bfloat16
    # A checkpoint's own config.json says what another file holds, too.
    again = convert(
        pth, tmp_path / "two", "--config", tmp_path / "out" / "config.json", "--dtype", "float32"
    )
    assert again.exit_code == 0, again.output
    assert fingerprint in again.stdout
    assert next(FlowMo.from_pretrained(tmp_path / "two").parameters()).dtype == torch.float32


def test_the_wrong_preset_is_an_error(pth: Path, tmp_path: Path) -> None:
    result = convert(pth, "--preset", "tiny", tmp_path / "out")
    assert "does not hold the" in reported(result)
    assert not (tmp_path / "out").exists()


def test_an_unknown_preset_is_an_error(pth: Path, tmp_path: Path) -> None:
    result = convert(pth, "--preset", "low", tmp_path / "out")
    assert "'lo'" in reported(result)


def test_a_checkpoint_is_replaced_on_request_only(pth: Path, config: Path, tmp_path: Path) -> None:
    arguments = (pth, tmp_path / "out", "--config", config)
    assert convert(*arguments).exit_code == 0
    refused = convert(*arguments)
    assert refused.exit_code == 2
    assert "--overwrite" in refused.output
    assert convert(*arguments, "--overwrite").exit_code == 0


@pytest.mark.parametrize("options", [(), ("--preset", "lo", "--config", "x.json")])
def test_what_the_file_holds_must_be_said_once(
    pth: Path, tmp_path: Path, options: tuple[str, ...]
) -> None:
    result = convert(pth, tmp_path / "out", *options)
    assert result.exit_code == 2
    assert "--preset" in result.output


def test_the_target_cannot_be_a_file(pth: Path) -> None:
    result = convert(pth, pth, "--preset", "lo")
    assert result.exit_code == 2
    assert "is a file" in result.output


@pytest.mark.parametrize("text", ["{", "[1]", "{}", '{"format_version": 1}'])
def test_a_wrong_config_is_named(pth: Path, config: Path, tmp_path: Path, text: str) -> None:
    config.write_text(text)
    result = convert(pth, tmp_path / "out", "--config", config)
    assert "pico.json" in reported(result)


def photo(path: Path, whole: bytes) -> None:
    Image.new("RGB", (8, 8)).save(path, "JPEG")


def safetensors(path: Path, whole: bytes) -> None:
    save_file({"a": torch.zeros(2)}, path)


def truncated(path: Path, whole: bytes) -> None:
    path.write_bytes(whole[: len(whole) // 2])


def other_pickle(path: Path, whole: bytes) -> None:
    torch.save([1, 2], path)


def nothing(path: Path, whole: bytes) -> None:
    pass


@pytest.mark.parametrize(
    ("write", "said"),
    [
        (photo, "is a JPEG picture, not a published .pth file"),
        (safetensors, "is a safetensors file, not a published .pth file"),
        (truncated, "cannot be read as tensors alone: it is damaged"),
        (other_pickle, "it holds list"),
        (nothing, "does not exist"),
    ],
)
def test_what_is_no_published_file_is_named_in_one_line(
    pth: Path, tmp_path: Path, write: Callable[[Path, bytes], None], said: str
) -> None:
    given = tmp_path / "given"
    write(given, pth.read_bytes())
    line = reported(convert(given, "--preset", "lo", tmp_path / "out"))
    assert f"{given}" in line
    assert said in line
    assert "weights_only" not in line
    assert not (tmp_path / "out").exists()
