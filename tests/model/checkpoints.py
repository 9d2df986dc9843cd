"""A very small model for the tests of checkpoints, whose weights any machine makes alike."""

from collections.abc import Iterator
from math import prod
from pathlib import Path

import torch
from torch import Tensor

from flowmo.model.checkpoint import expected_shapes
from flowmo.model.config import FlowMoConfig, SamplerConfig, TransformerConfig
from flowmo.model.flowmo import FlowMo

CONFIG = FlowMoConfig(
    name="pico",
    image_size=16,
    patch_size=8,
    encoder=TransformerConfig(width=16, depth=1, heads=2),
    decoder=TransformerConfig(width=24, depth=1, heads=2),
    code_length=2,
    token_bits=6,
    group_bits=3,
    sampler=SamplerConfig(steps=3),
)


def made_state(config: FlowMoConfig = CONFIG, *, offset: int = 0) -> dict[str, Tensor]:
    """Float32 weights that bfloat16 must round, each tensor other than the rest."""
    return dict(_weights(config, offset))


def _weights(config: FlowMoConfig, offset: int) -> Iterator[tuple[str, Tensor]]:
    for i, (name, shape) in enumerate(expected_shapes(config).items(), start=offset):
        numbers = torch.arange(prod(shape)) * 37 + i * 101
        yield name, ((numbers % 1021 - 510) / 4096).reshape(shape)


def made_model(config: FlowMoConfig = CONFIG, *, offset: int = 0) -> FlowMo:
    """In evaluation mode."""
    model = FlowMo(config)
    model.load_state_dict(made_state(config, offset=offset))
    return model.eval()


def save_random(folder: Path, config: FlowMoConfig, *, seed: int) -> Path:
    """A checkpoint of any config with random weights."""
    model = FlowMo(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            mean = 1.0 if name.endswith(".scale") else 0.0
            spread = 0.1 if parameter.ndim == 1 else parameter.shape[-1] ** -0.5
            parameter.normal_(mean, spread, generator=generator)
    model.save_pretrained(folder)
    return folder
