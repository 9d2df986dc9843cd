"""Runs that begin with a checkpoint of the same sizes, or of fewer parts."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from flowmo.model.config import FlowMoConfig, TransformerConfig
from flowmo.model.errors import ConfigError
from flowmo.model.flowmo import FlowMo
from flowmo.training.checkpointing.initial import load_initial

CONFIG = FlowMoConfig(
    image_size=32,
    patch_size=8,
    encoder=TransformerConfig(width=16, depth=1, heads=2),
    decoder=TransformerConfig(width=16, depth=1, heads=2),
    code_length=4,
    token_bits=6,
    group_bits=3,
)
PATCHES = "decoder.final_layer_img.linear.weight"


@pytest.fixture
def checkpoint(tmp_path: Path) -> tuple[Path, FlowMo]:
    torch.manual_seed(0)
    model = FlowMo(CONFIG)
    model.save_pretrained(tmp_path / "checkpoint", dtype=torch.float32)
    return tmp_path / "checkpoint", model


@torch.no_grad()
def test_a_grown_model_begins_as_the_checkpoint_and_keeps_its_own_parts(
    checkpoint: tuple[Path, FlowMo],
) -> None:
    folder, older = checkpoint
    torch.manual_seed(1)
    model = FlowMo(replace(CONFIG, head=(4, 2)))
    assert model.head is not None
    torch.nn.init.zeros_(model.head.out.weight)
    torch.nn.init.zeros_(model.head.out.bias)
    own = model.get_parameter(PATCHES)[CONFIG.patch_dim :].clone()
    load_initial(model, str(folder), grown=True)
    assert torch.equal(
        model.get_parameter(PATCHES)[: CONFIG.patch_dim], older.get_parameter(PATCHES)
    )
    assert torch.equal(model.get_parameter(PATCHES)[CONFIG.patch_dim :], own)
    x, condition = torch.randn(2, 3, 32, 32), torch.randn(2, 4, 7)
    torch.testing.assert_close(model.velocity(x, 0.5, condition), older.velocity(x, 0.5, condition))
    torch.testing.assert_close(model.encode(x), older.encode(x))


def test_other_sizes_are_an_error_unless_they_are_said_to_have_grown(
    checkpoint: tuple[Path, FlowMo],
) -> None:
    folder, _ = checkpoint
    model = FlowMo(replace(CONFIG, head=(4, 2)))
    with pytest.raises(ConfigError, match="of other sizes"):
        load_initial(model, str(folder))
    other = FlowMo(
        replace(
            CONFIG,
            encoder=TransformerConfig(width=8, depth=1, heads=2),
            decoder=TransformerConfig(width=8, depth=1, heads=2),
            token_bits=3,
        )
    )
    with pytest.raises(ConfigError, match="of other sizes"):
        load_initial(other, str(folder), grown=True)
