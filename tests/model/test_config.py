"""Configs check themselves, survive JSON, and the presets are the published shapes."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from torch import nn

from flowmo.model.config import (
    PRESETS,
    FlowMoConfig,
    SamplerConfig,
    TransformerConfig,
    preset,
)
from flowmo.model.errors import ConfigError
from flowmo.model.flowmo import FlowMo
from flowmo.model.network import FlowMoNetwork


def parameters_in_millions(name: str) -> float:
    with torch.device("meta"):
        network = FlowMoNetwork(preset(name))
    return sum(p.numel() for p in network.parameters()) / 1e6


@pytest.mark.parametrize(("name", "millions"), [("small", 517.12), ("lo", 945.37), ("hi", 945.52)])
def test_published_parameter_counts(name: str, millions: float) -> None:
    assert round(parameters_in_millions(name), 2) == millions


def test_tiny_fits_its_budget() -> None:
    assert parameters_in_millions("tiny") <= 16


@pytest.mark.parametrize(
    ("name", "payload", "ids"),
    [("small", 576, 512), ("lo", 576, 512), ("hi", 1792, 1024), ("tiny", 576, 512)],
)
def test_bytes_and_ids_of_an_image(name: str, payload: int, ids: int) -> None:
    config = preset(name)
    assert config.payload_bytes == payload
    assert config.code_length * config.ids_per_token == ids


@pytest.mark.parametrize("width", [2, 3, 4, 5, 6])
def test_rotary_dimensions_of_the_published_widths(width: int) -> None:
    # SPEC, step 3: 8 : 28 : 28, width / 4 times each, up to what an even number allows.
    config = TransformerConfig(width=192 * width, depth=1)
    assert config.head_dim == 16 * width
    assert sum(config.rope_dims) == config.head_dim
    if width % 2 == 0:
        assert config.rope_dims == (2 * width, 7 * width, 7 * width)


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_presets_survive_json(name: str) -> None:
    config = preset(name)
    assert FlowMoConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_a_gaussian_latent_has_any_number_of_dimensions() -> None:
    # The published configuration names 9 bits an id whatever the quantizer is.
    config = dataclasses.replace(preset("continuous-lo"), token_bits=20)
    assert (config.token_bits, config.group_bits, config.code_dim) == (20, 9, 40)
    assert FlowMoConfig.from_dict(config.to_dict()) == config
    with pytest.raises(ConfigError, match="group_bits 9 must divide token_bits 20"):
        dataclasses.replace(config, quantizer="lfq")


def test_a_gaussian_model_of_20_dimensions_is_saved_and_loaded(tmp_path: Path) -> None:
    half = TransformerConfig(width=16, depth=1, heads=2)
    config = dataclasses.replace(
        preset("continuous-lo"), image_size=16, encoder=half, decoder=half, token_bits=20
    )
    model = FlowMo(config)
    nn.init.normal_(model.encoder.final_layer_txt.linear.weight)
    model.save_pretrained(tmp_path)
    again = FlowMo.from_pretrained(tmp_path)
    assert again.config == config
    images = torch.zeros(1, 3, 16, 16)
    assert again.quantize(again.encode(images)).shape == (1, 256, 20)


def test_unknown_preset_names_those_there_are() -> None:
    with pytest.raises(ConfigError, match=r"'large'.*'hi'.*'lo'.*'tiny'"):
        preset("large")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_size": 100}, "divisible by patch_size"),
        ({"group_bits": 7}, "must divide token_bits"),
        ({"code_length": 0}, "at least 1"),
        ({"code_length": True}, "at least 1"),
        ({"quantizer": "vq"}, "one of"),
        ({"code_length": 60, "token_positions": "grid"}, "square"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        dataclasses.replace(preset("tiny"), **change)  # type: ignore[arg-type]


def test_width_must_be_divisible_by_heads() -> None:
    with pytest.raises(ConfigError, match="divisible by heads"):
        TransformerConfig(width=100, depth=1)


def test_misspelt_and_missing_keys_are_named() -> None:
    data = preset("lo").to_dict()
    with pytest.raises(ConfigError, match="code_lenght"):
        FlowMoConfig.from_dict({**data, "code_lenght": 3})
    del data["patch_size"]
    with pytest.raises(ConfigError, match="patch_size"):
        FlowMoConfig.from_dict(data)


@pytest.mark.parametrize(
    "values",
    [
        {"steps": 0},
        {"steps": 1001},
        {"rho": 0.0},
        {"guidance": -1.0},
        {"guidance_interval": (1.0, 0.5)},
        {"schedule": "cosine"},
        {"times": (1.0, 0.0)},
        {"schedule": "explicit"},
        {"schedule": "explicit", "times": (1.0, 0.5, 0.5, 0.0)},
        {"schedule": "explicit", "times": (0.9, 0.0)},
    ],
)
def test_bad_samplers_are_refused(values: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        SamplerConfig(**values)  # type: ignore[arg-type]


def test_explicit_grid_says_its_steps() -> None:
    assert SamplerConfig(schedule="explicit", times=(1.0, 0.4, 0.0)).steps == 2


def test_a_sampler_is_changed_in_what_is_given() -> None:
    own = SamplerConfig(steps=8, rho=0.5, guidance=1.5)
    assert own.changed() == own
    assert own.changed(steps=3, guidance=0.0) == dataclasses.replace(own, steps=3, guidance=0.0)
    assert own.changed(schedule="linear").schedule == "linear"
    with pytest.raises(ConfigError, match="steps must be 1 to 1000, got 2000"):
        own.changed(steps=2000)


def test_a_fixed_list_of_times_is_left_when_its_length_is() -> None:
    fixed = SamplerConfig(schedule="explicit", times=(1.0, 0.4, 0.0), guidance=1.5)
    assert fixed.changed(guidance=1.0).times == fixed.times
    assert fixed.changed(steps=5) == SamplerConfig(steps=5, guidance=1.5)
    assert fixed.changed(schedule="linear").times == ()
