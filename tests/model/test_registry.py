"""A checkpoint's model_type decides its class; what is unknown or of another class is refused."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from torch import nn

from flowmo.model import registry
from flowmo.model.errors import CheckpointError
from flowmo.model.flowmo import FlowMo
from flowmo.model.hub import shipped_checkpoints


class Other(nn.Linear):
    """A model of another class, whose checkpoint is its config file alone."""

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | str = "cpu",
    ) -> "Other":
        width = json.loads((Path(pretrained_model_name_or_path) / "config.json").read_text())
        return cls(width["width"], 1, dtype=dtype, device=device)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text('{"model_type": "other", "width": 3}')
    return tmp_path


@pytest.fixture
def other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_CLASSES", dict(registry._CLASSES))
    registry.register("other", Other)


def test_the_shipped_checkpoint_names_its_type() -> None:
    folder = shipped_checkpoints()["tiny"]
    assert registry.model_type(folder) == "flowmo"
    model = registry.load("tiny", expected=FlowMo)
    assert model.fingerprint() == json.loads((folder / "config.json").read_text())["fingerprint"]


def test_a_registered_type_is_loaded_by_its_class(folder: Path, other: None) -> None:
    model = registry.load(str(folder), expected=nn.Module, dtype=torch.float64)
    assert isinstance(model, Other)
    assert (model.in_features, model.weight.dtype) == (3, torch.float64)
    assert {"flowmo", "other"} <= set(registry.known())
    registry.register("other", Other)  # the same again is no mistake


def test_an_unknown_type_lists_the_known_ones(folder: Path) -> None:
    with pytest.raises(CheckpointError, match=r"model type 'other'.*it knows flowmo"):
        registry.load(str(folder), expected=nn.Module)


def test_another_class_than_expected_is_refused(folder: Path, other: None) -> None:
    with pytest.raises(CheckpointError, match="'other', where one of type flowmo is needed"):
        registry.load(str(folder), expected=FlowMo)


def test_a_taken_name_is_refused() -> None:
    with pytest.raises(CheckpointError, match="'flowmo' is that of FlowMo; give Other another"):
        registry.register("flowmo", Other)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}", "it has no model_type; there are flowmo"),
        ("[]", "it has no model_type"),
        ('{"model_type": ["flowmo"]}', "model type"),
        ("{", "cannot be read as JSON"),
        (None, "has no config.json"),
    ],
)
def test_a_checkpoint_without_a_type_is_explained(
    tmp_path: Path, text: str | None, message: str
) -> None:
    if text is not None:
        (tmp_path / "config.json").write_text(text)
    with pytest.raises(CheckpointError, match=message):
        registry.load(str(tmp_path), expected=FlowMo)


def test_a_flowmo_checkpoint_needs_its_type(tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(shipped_checkpoints()["tiny"], folder)
    record = json.loads((folder / "config.json").read_text())
    del record["model_type"]
    (folder / "config.json").write_text(json.dumps(record))
    with pytest.raises(CheckpointError, match="its model_type is missing, not 'flowmo'"):
        FlowMo.from_pretrained(folder)
