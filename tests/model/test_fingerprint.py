import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from flowmo.model.config import FlowMoConfig, SamplerConfig, TransformerConfig
from flowmo.model.errors import CheckpointError
from flowmo.model.fingerprint import compute_fingerprint, is_fingerprint
from flowmo.model.flowmo import FlowMo
from tests.model.checkpoints import CONFIG, made_model, made_state

# Containers name models by it, so it must not change from release to release.
GOLDEN = "f2374df91b5da6a32f27b19e3280d645"


def test_it_never_changes() -> None:
    assert compute_fingerprint(CONFIG, made_state()) == GOLDEN


def test_it_is_the_documented_digest() -> None:
    # docs/container.md, written out a second time; CONFIG has default fields, which stay out.
    half = {"heads": 2, "depth": 1}
    identity = {
        "image_size": 16,
        "patch_size": 8,
        "encoder": {**half, "width": 16, "rope_dims": [0, 4, 4]},
        "decoder": {**half, "width": 24, "rope_dims": [0, 6, 6]},
        "code_length": 2,
        "token_bits": 6,
        "group_bits": 3,
    }
    data = json.dumps(identity, sort_keys=True, separators=(",", ":")).encode() + b"\0"
    for name, tensor in sorted(made_state().items()):
        shape = "[" + ",".join(map(str, tensor.shape)) + "]"
        bits = tensor.numpy().view(np.uint32).astype(np.uint64)
        rounded = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16
        data += name.encode() + b"\0" + shape.encode() + b"\0" + rounded.astype("<u2").tobytes()
    assert hashlib.sha256(data).hexdigest()[:32] == GOLDEN


def test_rounding_to_bfloat16_keeps_it() -> None:
    rounded = {name: tensor.bfloat16() for name, tensor in made_state().items()}
    assert any((rounded[name] != tensor).any() for name, tensor in made_state().items())
    assert compute_fingerprint(CONFIG, rounded) == GOLDEN


@pytest.mark.parametrize(
    "config",
    [replace(CONFIG, name="another"), replace(CONFIG, sampler=SamplerConfig(guidance=2.0))],
)
def test_name_and_sampler_are_no_part_of_it(config: FlowMoConfig) -> None:
    assert compute_fingerprint(config, made_state()) == GOLDEN


@pytest.mark.parametrize(
    "config",
    [
        replace(CONFIG, group_bits=2),
        replace(CONFIG, image_size=32),
        replace(CONFIG, encoder=TransformerConfig(width=16, depth=1, heads=4)),
        replace(CONFIG, encoder=TransformerConfig(width=16, depth=1, heads=2, rope_dims=(4, 2, 2))),
    ],
)
def test_what_tokens_mean_is_part_of_it(config: FlowMoConfig) -> None:
    # None of these changes a weight's shape.
    assert compute_fingerprint(config, made_state()) != GOLDEN


def test_every_weight_is_part_of_it() -> None:
    state = made_state()
    for tensor in state.values():
        tensor.view(-1)[-1] += 1
        assert compute_fingerprint(CONFIG, state) != GOLDEN
        tensor.view(-1)[-1] -= 1
    assert compute_fingerprint(CONFIG, state) == GOLDEN


def test_which_name_a_weight_has_is_part_of_it() -> None:
    state = made_state()
    one, other = "encoder.img_in.bias", "encoder.txt_in.bias"
    state[one], state[other] = state[other], state[one]
    assert compute_fingerprint(CONFIG, state) != GOLDEN


def test_there_is_none_without_weights() -> None:
    with torch.device("meta"):
        empty = FlowMo(CONFIG)
    with pytest.raises(CheckpointError, match="meta device and has no values"):
        empty.fingerprint()


@pytest.mark.parametrize(
    ("text", "answer"),
    [("0" * 32, True), ("A" * 32, False), ("0" * 31, False), ("0" * 32 + "\n", False), (7, False)],
)
def test_how_it_is_written(text: object, answer: bool) -> None:
    assert is_fingerprint(text) is answer


# A loaded model knows its fingerprint, as long as it is the loaded one.


@pytest.fixture
def loaded(tmp_path: Path) -> FlowMo:
    made_model().save_pretrained(tmp_path)
    return FlowMo.from_pretrained(tmp_path)


def test_a_loaded_model_does_not_hash_its_weights(
    loaded: FlowMo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr("flowmo.model.hub.compute_fingerprint")
    assert loaded.fingerprint() == GOLDEN


def test_a_built_model_hashes_them_once(monkeypatch: pytest.MonkeyPatch) -> None:
    built = made_model()
    assert built.fingerprint() == GOLDEN
    monkeypatch.delattr("flowmo.model.hub.compute_fingerprint")
    assert built.fingerprint() == GOLDEN


def train(network: FlowMo) -> None:
    network.train()
    images = torch.linspace(-1, 1, 3 * 16 * 16).reshape(1, 3, 16, 16)
    network.encode(images).square().mean().backward()
    torch.optim.SGD(network.parameters(), lr=10.0).step()


def swap_in_an_average(network: FlowMo) -> None:
    for parameter in network.parameters():
        parameter.data = parameter.data + 1


def load_others(network: FlowMo) -> None:
    network.load_state_dict(made_state(offset=7))


def lose_bits(network: FlowMo) -> None:
    network.to(torch.float8_e4m3fn).float()


@pytest.mark.parametrize("change", [train, swap_in_an_average, load_others, lose_bits])
def test_it_changes_with_the_weights(loaded: FlowMo, change: Callable[[FlowMo], None]) -> None:
    assert loaded.fingerprint() == GOLDEN
    change(loaded)
    changed = loaded.fingerprint()
    assert changed != GOLDEN
    assert changed == compute_fingerprint(CONFIG, loaded.state_dict())


def test_casts_keep_it(loaded: FlowMo) -> None:
    assert loaded.bfloat16().fingerprint() == GOLDEN
    assert loaded.float().fingerprint() == GOLDEN


def test_weights_of_inference_mode_are_hashed_each_time(tmp_path: Path) -> None:
    made_model().save_pretrained(tmp_path)
    with torch.inference_mode():
        loaded = FlowMo.from_pretrained(tmp_path)
        assert loaded.fingerprint() == GOLDEN
        next(loaded.parameters()).add_(1)
        assert loaded.fingerprint() != GOLDEN
