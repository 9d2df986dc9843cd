"""The published network's reference values, and that the comparison can fail."""

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from benchmarks.parity import FORMS, compare, main
from benchmarks.parity_files import read_parity_file

FOLDER = Path(__file__).parents[1] / "data" / "parity"
FILES = sorted(FOLDER.glob("*.safetensors"))


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_every_tensor_of_both_forms_is_within_its_tolerance(path: Path) -> None:
    file = read_parity_file(path)
    comparisons = list(compare(file))
    outputs = len(file.tensors) - 3  # image, noise and timesteps are inputs
    assert len(comparisons) == outputs * len(FORMS) >= 18
    assert [c for c in comparisons if not c.passed] == []


def test_the_three_published_configurations_are_there() -> None:
    assert [p.stem for p in FILES] == ["continuous_mini", "hi_mini", "lo_mini"]


def edited(tmp_path: Path, name: str, change: float) -> Path:
    """A copy of a file with one number of one tensor changed."""
    with safe_open(FILES[-1], framework="pt") as file:
        metadata = file.metadata()
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    tensor = tensors.get(name, torch.zeros(1)).clone()
    tensor.view(-1)[0] += change
    path = tmp_path / "edited.safetensors"
    save_file({**tensors, name: tensor}, path, metadata=metadata)
    return path


@pytest.mark.parametrize("name", ["encoder_output", "sample_8_linear_cfg1", "per_sample_entropy"])
def test_a_wrong_number_is_reported(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(edited(tmp_path, name, 0.01))]) == 1
    lines = [line for line in capsys.readouterr().out.splitlines() if "FAILED" in line]
    assert len(lines) == 2  # once for each form
    assert all(name in line for line in lines)


def test_a_tensor_nobody_knows_is_not_passed_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(edited(tmp_path, "mystery", 0.0))]) == 1
    assert "mystery" in capsys.readouterr().out


def test_a_file_of_another_kind_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "weights.safetensors"
    save_file({"w": torch.zeros(1)}, path)
    assert main([str(path)]) == 2
    assert "no parity file" in capsys.readouterr().err
