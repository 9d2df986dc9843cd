import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from flowmo.model.checkpoint import (
    check_shapes,
    expected_shapes,
    inspect_checkpoint,
    load_checkpoint,
    load_weights,
    save_checkpoint,
)
from flowmo.model.config import FlowMoConfig, preset
from flowmo.model.errors import CheckpointError
from flowmo.model.flowmo import FlowMo
from tests.model.checkpoints import CONFIG, made_model, made_state

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A float32 checkpoint in one file."""
    save_checkpoint(made_state(), CONFIG, tmp_path / "model", dtype=torch.float32)
    return tmp_path / "model"


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    """A float32 checkpoint in several files."""
    where = tmp_path / "sharded"
    save_checkpoint(made_state(), CONFIG, where, dtype=torch.float32, max_shard_size="20KB")
    return where


def assert_holds(folder: Path, expected: dict[str, Tensor]) -> None:
    config, state = load_checkpoint(folder)
    assert config == CONFIG
    assert state.keys() == expected.keys()
    for name, tensor in expected.items():
        assert state[name].dtype == tensor.dtype
        assert torch.equal(state[name], tensor)


def change_record(folder: Path, **changes: Any) -> None:
    """Other values in config.json; None takes a field away."""
    path = folder / "config.json"
    record = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({k: v for k, v in record.items() if v is not None}))


def change_tensors(path: Path, changes: dict[str, Tensor | None]) -> None:
    """Other tensors in a safetensors file; None takes one away."""
    tensors = load_file(path) | changes
    path.unlink()
    save_file({k: v for k, v in tensors.items() if v is not None}, path)


# What is written


def test_float32_comes_back_exactly(folder: Path) -> None:
    assert_holds(folder, made_state())


def test_bfloat16_comes_back_rounded(tmp_path: Path) -> None:
    save_checkpoint(made_state(), CONFIG, tmp_path, dtype=torch.bfloat16)
    assert_holds(tmp_path, {name: tensor.bfloat16() for name, tensor in made_state().items()})


def test_config_json_has_this_form(folder: Path) -> None:
    record = json.loads((folder / "config.json").read_text())
    assert record == {
        "format_version": 1,
        "model_type": "flowmo",
        "fingerprint": made_model().fingerprint(),
        "dtype": "float32",
        "config": CONFIG.to_dict(),
    }


def test_whoever_may_read_the_folder_may_read_the_weights(folder: Path, sharded: Path) -> None:
    ordinary = folder / "ordinary"
    ordinary.touch()
    for path in (*folder.iterdir(), *sharded.iterdir()):
        assert path.stat().st_mode == ordinary.stat().st_mode, path


def test_large_models_are_sharded_as_the_hub_does(sharded: Path) -> None:
    files = sorted(path.name for path in sharded.glob("*.safetensors"))
    assert len(files) > 2
    assert files[0] == f"model-00001-of-{len(files):05}.safetensors"
    weight_map = json.loads((sharded / INDEX).read_text())["weight_map"]
    assert weight_map.keys() == made_state().keys()
    assert sorted(set(weight_map.values())) == files
    assert_holds(sharded, made_state())


@pytest.mark.parametrize("size", ["5GB", "20KB", "30KB"])
def test_saving_again_leaves_nothing_of_what_was_there(sharded: Path, size: str) -> None:
    (sharded / "notes.txt").write_text("mine")
    state = made_state(offset=3)
    save_checkpoint(state, CONFIG, sharded, dtype=torch.float32, max_shard_size=size)
    assert_holds(sharded, state)
    names = {path.name for path in sharded.iterdir()}
    weights = {path.name for path in inspect_checkpoint(sharded).files}
    assert names - weights - {INDEX} == {"config.json", "notes.txt"}


def test_saving_where_it_was_loaded_from(folder: Path) -> None:
    # The weights are mapped from the very file that is replaced.
    network = FlowMo.from_pretrained(folder)
    network.save_pretrained(folder, max_shard_size="20KB")
    network.save_pretrained(folder)
    assert_holds(folder, made_state())
    assert torch.equal(
        network.state_dict()["encoder.img_in.bias"], made_state()["encoder.img_in.bias"]
    )


def test_a_save_that_fails_leaves_the_old_checkpoint(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def disk_full(*args: Any, **kwargs: Any) -> None:
        raise OSError("no space left")

    monkeypatch.setattr("flowmo.model.checkpoint.save_torch_state_dict", disk_full)
    with pytest.raises(OSError, match="no space left"):
        save_checkpoint(made_state(offset=3), CONFIG, folder, dtype=torch.float32)
    assert_holds(folder, made_state())
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", WEIGHTS]


def test_other_dtypes_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"got torch.float16; pass one of them as dtype"):
        made_model().half().save_pretrained(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_state_of_another_model_is_not_written(tmp_path: Path) -> None:
    state = made_state()
    del state["encoder.img_in.bias"]
    with pytest.raises(CheckpointError, match="1 missing: encoder.img_in.bias"):
        save_checkpoint(state, CONFIG, tmp_path / "out", dtype=torch.float32)
    assert not (tmp_path / "out").exists()


# What is read


def test_inspecting_tells_without_reading_weights(sharded: Path) -> None:
    info = inspect_checkpoint(sharded)
    assert info.config == CONFIG
    assert info.dtype == "float32"
    assert info.fingerprint == made_model().fingerprint()
    assert info.shapes == expected_shapes(CONFIG)
    assert info.size == sum(path.stat().st_size for path in sharded.glob("*.safetensors"))
    assert info.folder == sharded


def test_weights_can_be_loaded_in_another_dtype(folder: Path) -> None:
    state = load_weights(inspect_checkpoint(folder), dtype=torch.bfloat16)
    assert {tensor.dtype for tensor in state.values()} == {torch.bfloat16}


def test_a_fingerprint_may_be_absent(folder: Path) -> None:
    change_record(folder, fingerprint=None)
    assert inspect_checkpoint(folder).fingerprint is None
    assert FlowMo.from_pretrained(folder).fingerprint() == made_model().fingerprint()


def test_a_fingerprint_is_believed_where_the_weights_say_it_too(
    folder: Path, sharded: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = made_model().fingerprint()
    # The hub's library says nothing in files of a part of the weights: they are read.
    assert FlowMo.from_pretrained(sharded).fingerprint() == expected
    monkeypatch.setattr("flowmo.model.hub.compute_fingerprint", lambda *_: "not believed")
    assert FlowMo.from_pretrained(folder).fingerprint() == expected


def test_a_stale_fingerprint_is_told(folder: Path, tmp_path: Path) -> None:
    stale = "has the fingerprint 0{32}, but of its weights they were saved as .* were exchanged"
    change_record(folder, fingerprint="0" * 32)
    with pytest.raises(CheckpointError, match=stale):
        FlowMo.from_pretrained(folder)
    # Of another tool, which says nothing of a fingerprint.
    save_file(made_state(), folder / WEIGHTS)
    with pytest.raises(CheckpointError, match="fingerprint 0.* was computed: weights or config"):
        FlowMo.from_pretrained(folder)
    change_record(folder, fingerprint=made_model().fingerprint())
    assert FlowMo.from_pretrained(folder).fingerprint() == made_model().fingerprint()
    # A config that was changed is another model's, too.
    save_checkpoint(made_state(), CONFIG, tmp_path / "other", dtype=torch.float32)
    change_record(tmp_path / "other", config=CONFIG.to_dict() | {"prediction": "image"})
    with pytest.raises(CheckpointError, match="weights or config were exchanged"):
        FlowMo.from_pretrained(tmp_path / "other")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format_version": 2}, "has format version 2, this release reads 1; update"),
        ({"format_version": None}, "format version None"),
        ({"model_type": "bert"}, "no FlowMo checkpoint: its model_type is 'bert', not 'flowmo'"),
        ({"dtype": None}, r"lacks the fields \['dtype'\]"),
        ({"extra": 1}, r"unknown fields \['extra'\]"),
        ({"dtype": "float16"}, "dtype 'float16'"),
        ({"dtype": ["bfloat16"]}, "dtype"),
        ({"fingerprint": "ABC"}, "'ABC', which is not 32"),
        ({"config": {}}, "invalid config: FlowMoConfig lacks"),
        ({"config": CONFIG.to_dict() | {"code_length": -1}}, "code_length must be"),
        ({"config": CONFIG.to_dict() | {"code_lenght": 2}}, r"no field \['code_lenght'\]"),
        ({"config": CONFIG.to_dict() | {"image_size": "16"}}, "image_size must be"),
        ({"config": CONFIG.to_dict() | {"encoder": 3}}, "must be a mapping"),
        (
            {"config": CONFIG.to_dict() | {"sampler": CONFIG.sampler.to_dict() | {"rho": "x"}}},
            "invalid config",
        ),
        ({"config": [1]}, "invalid config"),
    ],
)
def test_a_wrong_config_json_is_told(folder: Path, changes: dict[str, Any], message: str) -> None:
    change_record(folder, **changes)
    with pytest.raises(CheckpointError, match=message):
        inspect_checkpoint(folder)


@pytest.mark.parametrize("text", ["{", "[]", "null", "\xff", "[" * 100_000])
def test_a_config_json_that_is_none_is_told(folder: Path, text: str) -> None:
    (folder / "config.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(CheckpointError, match=r"config\.json"):
        inspect_checkpoint(folder)


def test_missing_files_are_told(folder: Path, sharded: Path) -> None:
    shard = inspect_checkpoint(sharded).files[1]
    shard.unlink()
    with pytest.raises(CheckpointError, match=rf"lacks {shard.name}, with \d+ tensors"):
        inspect_checkpoint(sharded)
    (folder / WEIGHTS).unlink()
    with pytest.raises(CheckpointError, match="neither .* nor .*: the weights are missing"):
        inspect_checkpoint(folder)
    (folder / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"no config\.json: .* interrupted"):
        inspect_checkpoint(folder)
    with pytest.raises(CheckpointError, match="does not exist; a checkpoint is a folder"):
        inspect_checkpoint(folder / "nothing")


def test_two_sets_of_weights_are_one_too_many(sharded: Path) -> None:
    save_file(made_state(), sharded / WEIGHTS)
    with pytest.raises(CheckpointError, match="holds both .* delete the one that is stale"):
        inspect_checkpoint(sharded)


@pytest.mark.parametrize("damage", [b"", b"x" * 100])
def test_damaged_weights_are_told(folder: Path, damage: bytes) -> None:
    (folder / WEIGHTS).write_bytes(damage)
    with pytest.raises(CheckpointError, match="no readable safetensors file"):
        inspect_checkpoint(folder)


def test_truncated_weights_are_told(folder: Path) -> None:
    path = folder / WEIGHTS
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(CheckpointError, match="no readable safetensors file"):
        inspect_checkpoint(folder)


@pytest.mark.parametrize("file", ["../model.safetensors", "/etc/passwd", "..", "", 3])
def test_an_index_cannot_point_outside_its_folder(sharded: Path, file: object) -> None:
    index = json.loads((sharded / INDEX).read_text())
    index["weight_map"]["encoder.img_in.bias"] = file
    (sharded / INDEX).write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=r"no file name in its folder|lacks "):
        inspect_checkpoint(sharded)


@pytest.mark.parametrize("index", [{}, {"weight_map": [1]}, {"weight_map": {"a": {}}}, 3])
def test_an_index_that_is_none_is_told(sharded: Path, index: object) -> None:
    (sharded / INDEX).write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match="no index of safetensors files"):
        inspect_checkpoint(sharded)


def test_an_index_must_agree_with_its_files(sharded: Path) -> None:
    index = json.loads((sharded / INDEX).read_text())
    files = sorted(set(index["weight_map"].values()))
    name = next(name for name, file in index["weight_map"].items() if file == files[0])
    index["weight_map"][name] = files[1]
    (sharded / INDEX).write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=f"that {INDEX} places there: {name}"):
        inspect_checkpoint(sharded)


def test_missing_surplus_and_misshapen_tensors_are_listed_together(folder: Path) -> None:
    changes = {
        "encoder.img_in.bias": None,
        "encoder.img_in.bais": torch.zeros(16),
        "decoder.img_in.bias": torch.zeros(25),
    }
    change_tensors(folder / WEIGHTS, changes)
    with pytest.raises(CheckpointError) as caught:
        FlowMo.from_pretrained(folder)
    message = str(caught.value)
    assert "1 missing: encoder.img_in.bias" in message
    assert "1 surplus: encoder.img_in.bais" in message
    assert "1 of another shape: decoder.img_in.bias [25] instead of [24]" in message


def test_long_lists_are_counted_instead() -> None:
    with pytest.raises(CheckpointError) as caught:
        check_shapes(preset("lo"), {}, "nothing")
    message = str(caught.value)
    count = len(expected_shapes(preset("lo")))
    assert f"{count} missing" in message
    assert f"and {count - 8} more" in message
    assert len(message) < 800


def test_tensors_of_another_dtype_than_said_are_told(folder: Path) -> None:
    change_tensors(folder / WEIGHTS, {"encoder.img_in.bias": torch.zeros(16).half()})
    with pytest.raises(CheckpointError, match="1 tensors of another dtype .*img_in.bias F16"):
        inspect_checkpoint(folder)
    change_record(folder, dtype="bfloat16")
    with pytest.raises(CheckpointError, match="tensors of another dtype than the bfloat16"):
        inspect_checkpoint(folder)


def test_a_file_that_vanishes_after_inspection_is_told(folder: Path) -> None:
    info = inspect_checkpoint(folder)
    (folder / WEIGHTS).unlink()
    with pytest.raises(CheckpointError, match="no readable safetensors file"):
        load_weights(info)


def test_shapes_are_known_without_memory() -> None:
    sizes = expected_shapes(preset("lo"))
    assert sizes["decoder.img_in.weight"] == (1152, 48)
    assert len(sizes) == len(nn.Module.state_dict(_meta(preset("lo"))))


def _meta(config: FlowMoConfig) -> FlowMo:
    with torch.device("meta"):
        return FlowMo(config)


def test_the_same_weights_are_the_same_bytes(tmp_path: Path) -> None:
    def saved(number: int) -> bytes:
        save_checkpoint(made_state(), CONFIG, tmp_path / str(number), dtype=torch.float32)
        return (tmp_path / str(number) / WEIGHTS).read_bytes()

    assert len({saved(number) for number in range(12)}) == 1
    assert load_file(tmp_path / "0" / WEIGHTS).keys() == made_state().keys()
