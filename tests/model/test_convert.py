import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flowmo.model.checkpoint import inspect_checkpoint, load_checkpoint
from flowmo.model.config import PRESETS
from flowmo.model.errors import CheckpointError
from flowmo.model.flowmo import FlowMo
from flowmo.model.published import convert_published, read_published
from tests.model.checkpoints import CONFIG, made_model, made_state


def write(path: Path, **changes: Any) -> Path:
    """A file as the published ones are; None takes a key away."""
    content = {
        "model_ema_state_dict": made_state(),
        "model_state_dict": made_state(offset=5),
        "total_steps": 1234,
    } | changes
    torch.save({key: value for key, value in content.items() if value is not None}, path)
    return path


@pytest.fixture
def pth(tmp_path: Path) -> Path:
    return write(tmp_path / "flowmo_pico.pth")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_the_averaged_weights_become_a_checkpoint(
    pth: Path, tmp_path: Path, dtype: torch.dtype
) -> None:
    done = convert_published(pth, CONFIG, tmp_path / "out", dtype=dtype)
    config, state = load_checkpoint(tmp_path / "out")
    assert config == CONFIG
    for name, tensor in made_state().items():
        assert torch.equal(state[name], tensor.to(dtype))
    assert done.fingerprint == made_model().fingerprint()
    assert done.fingerprint == FlowMo.from_pretrained(tmp_path / "out").fingerprint()
    assert done.parameters == sum(tensor.numel() for tensor in state.values())
    assert (done.published.weights, done.published.total_steps) == ("ema", 1234)
    assert done.published.prefix == ""


def test_weights_of_the_last_step_on_request(pth: Path) -> None:
    raw = read_published(pth, CONFIG, weights="raw")
    assert torch.equal(
        raw.state["encoder.img_in.bias"], made_state(offset=5)["encoder.img_in.bias"]
    )


def test_large_checkpoints_are_sharded(pth: Path, tmp_path: Path) -> None:
    convert_published(pth, CONFIG, tmp_path / "out", max_shard_size="20KB")
    assert len(inspect_checkpoint(tmp_path / "out").files) > 1


def test_files_of_old_torch_versions_are_read(tmp_path: Path) -> None:
    torch.save(
        {"model_ema_state_dict": made_state()},
        tmp_path / "old.pth",
        _use_new_zipfile_serialization=False,
    )
    published = read_published(tmp_path / "old.pth", CONFIG)
    assert published.total_steps is None
    assert published.state.keys() == made_state().keys()


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
def test_what_a_wrapper_put_before_every_name_is_taken_off(pth: Path, prefix: str) -> None:
    wrapped = {prefix + name: tensor for name, tensor in made_state().items()}
    published = read_published(write(pth, model_ema_state_dict=wrapped), CONFIG)
    assert published.prefix == prefix
    assert published.state.keys() == made_state().keys()


def test_a_prefix_of_some_names_is_no_wrapper(pth: Path) -> None:
    state = made_state()
    state["module.encoder.img_in.bias"] = state.pop("encoder.img_in.bias")
    with pytest.raises(
        CheckpointError,
        match=r"1 missing: encoder\.img_in\.bias; 1 surplus: module\.encoder\.img_in\.bias",
    ):
        read_published(write(pth, model_ema_state_dict=state), CONFIG)


def test_missing_surplus_and_misshapen_are_listed(pth: Path) -> None:
    state = made_state()
    del state["encoder.txt_in.weight"]
    state |= {f"loss.layer{i}": torch.zeros(1) for i in range(20)}
    state["decoder.img_in.weight"] = state["decoder.img_in.weight"].T
    with pytest.raises(CheckpointError) as caught:
        read_published(write(pth, model_ema_state_dict=state), CONFIG)
    message = str(caught.value)
    assert "1 missing: encoder.txt_in.weight" in message
    assert "20 surplus: loss.layer0, loss.layer1" in message
    assert "and 12 more" in message
    assert "decoder.img_in.weight [192, 24] instead of [24, 192]" in message


def test_the_right_preset_is_named(pth: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PRESETS, "pico", CONFIG)
    other = replace(CONFIG, name="other", token_bits=12)
    with pytest.raises(CheckpointError, match="tensors of preset 'pico', not of 'other'"):
        read_published(pth, other)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"model_state_dict": {}}, r"no model_ema_state_dict: .* keys \['model_state_dict'\]"),
        ([1, 2], "it holds list"),
        ({"model_ema_state_dict": 3}, "no model_ema_state_dict"),
        (made_state(), "no model_ema_state_dict: it holds a dict with the keys"),
        ({"model_ema_state_dict": {}}, "missing"),
        ({"model_ema_state_dict": {"encoder.x": "text"}}, "1 entries .* 'encoder.x'"),
        ({"model_ema_state_dict": {"encoder.x": torch.zeros(1).int()}}, "floating-point"),
    ],
)
def test_another_content_is_told(tmp_path: Path, content: object, message: str) -> None:
    torch.save(content, tmp_path / "some.pth")
    with pytest.raises(CheckpointError, match=message):
        read_published(tmp_path / "some.pth", CONFIG)


def test_numbers_that_are_none_are_told(pth: Path) -> None:
    state = made_state()
    state["decoder.img_in.bias"][3] = float("nan")
    with pytest.raises(CheckpointError, match="1 tensors hold infinite or undefined .*img_in.bias"):
        read_published(write(pth, model_ema_state_dict=state), CONFIG)


class Hostile:
    """Would create a file when unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_pickle_is_never_run(tmp_path: Path, zipped: bool) -> None:
    trace = tmp_path / "it-ran"
    torch.save(
        {"model_ema_state_dict": made_state(), "extra": Hostile(trace)},
        tmp_path / "hostile.pth",
        _use_new_zipfile_serialization=zipped,
    )
    with pytest.raises(CheckpointError, match="other objects than tensors .*could run code"):
        read_published(tmp_path / "hostile.pth", CONFIG)
    assert not trace.exists()


def test_files_that_are_none_are_told(pth: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="does not exist; pass a published .pth file"):
        read_published(tmp_path / "nothing.pth", CONFIG)
    with pytest.raises(CheckpointError, match="is a folder"):
        read_published(tmp_path, CONFIG)
    pth.write_bytes(pth.read_bytes()[:-1000])
    with pytest.raises(CheckpointError, match="cannot be read as tensors alone"):
        read_published(pth, CONFIG)


@pytest.mark.parametrize(
    ("start", "words"),
    [
        (b"\xff\xd8\xff\xe0", "is a JPEG picture, not a published .pth file"),
        (b"\x89PNG\r\n\x1a\n", "is a PNG picture"),
        (b"\x89FLM\r\n\x1a\n", "is a .flowmo file of tokens"),
        (b"version https://git-lfs.github.com/spec/v1\n", "is a Git LFS pointer"),
        (b"<!doctype html>", "is a web page"),
        (b"anything else", "cannot be read as tensors alone"),
    ],
)
def test_files_of_other_kinds_are_named_without_advice_to_unpickle(
    tmp_path: Path, start: bytes, words: str
) -> None:
    path = tmp_path / "photo.pth"
    path.write_bytes(start + bytes(100))
    with pytest.raises(CheckpointError, match=words) as caught:
        read_published(path, CONFIG)
    assert "weights_only" not in str(caught.value)
    assert "\n" not in str(caught.value)


@given(st.binary(max_size=60) | st.binary(max_size=60).map(lambda data: pickle.dumps(1) + data))
def test_any_bytes_are_refused_politely(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.pth"
    path.write_bytes(data)
    with pytest.raises(CheckpointError):
        read_published(path, CONFIG)


def test_wrong_choices_are_refused_before_reading(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="got torch.float16"):
        convert_published(tmp_path / "nothing.pth", CONFIG, tmp_path, dtype=torch.float16)
    with pytest.raises(CheckpointError, match="weights must be one of .*got 'best'"):
        read_published(tmp_path / "nothing.pth", CONFIG, weights="best")  # type: ignore[arg-type]
