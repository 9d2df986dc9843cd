"""Checkpoints, loaded for inference where and how a user asks."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from flowmo.model import loading
from flowmo.model.errors import CheckpointError, ConfigError
from flowmo.model.loading import check_has_tokens, choose_dtype, load_inference_model
from tests.model.checkpoints import CONFIG, save_random


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_random(tmp_path_factory.mktemp("checkpoint"), CONFIG, seed=0)


def test_the_device_chooses_the_dtype() -> None:
    assert choose_dtype("auto", torch.device("cpu")) == torch.float32
    assert choose_dtype("auto", torch.device("cuda")) == torch.bfloat16


def test_a_dtype_has_a_name_and_is_a_value(checkpoint: Path) -> None:
    for dtype in ("bfloat16", torch.bfloat16):
        model = load_inference_model(checkpoint, device="cpu", dtype=dtype)
        assert (model.device, model.dtype) == (torch.device("cpu"), torch.bfloat16)
    assert load_inference_model(checkpoint, device=torch.device("cpu")).dtype == torch.float32


def test_threads_are_set_and_otherwise_left_alone(checkpoint: Path) -> None:
    before = torch.get_num_threads()
    try:
        load_inference_model(checkpoint, device="cpu")
        assert torch.get_num_threads() == before
        load_inference_model(checkpoint, device="cpu", threads=before + 1)
        assert torch.get_num_threads() == before + 1
    finally:
        torch.set_num_threads(before)


def test_threads_are_no_more_than_a_containers_cores(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "usable_cores", lambda: 2)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        load_inference_model(checkpoint, device="cpu")
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("device", ["abacus", "cuda:99", "meta:x"])
def test_an_unusable_device_is_refused(checkpoint: Path, device: str) -> None:
    with pytest.raises(ConfigError, match=f"device '{device}' cannot be used"):
        load_inference_model(checkpoint, device=device)


@pytest.mark.parametrize("dtype", ["int8", torch.int8])
def test_an_unknown_dtype_is_refused(checkpoint: Path, dtype: str | torch.dtype) -> None:
    with pytest.raises(ConfigError, match=r"auto or one of .*float32.*int8"):
        load_inference_model(checkpoint, device="cpu", dtype=dtype)


def test_a_missing_checkpoint_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="nothing-here"):
        load_inference_model(tmp_path / "nothing-here")


def test_a_continuous_model_is_loaded_and_has_no_tokens(tmp_path: Path) -> None:
    save_random(tmp_path, replace(CONFIG, quantizer="gaussian"), seed=0)
    model = load_inference_model(tmp_path, device="cpu")
    with pytest.raises(CheckpointError, match="continuous model"):
        check_has_tokens(model, tmp_path)
