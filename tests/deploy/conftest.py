"""Models to export, and what was exported and built from them, once a session."""

from pathlib import Path

import pytest
import torch

from flowmo.deploy.export import export
from flowmo.deploy.graphs import HALVES, Half
from flowmo.deploy.onnx_files import OnnxFile
from flowmo.deploy.tensorrt.libraries import Library, load_library
from flowmo.model.config import FlowMoConfig, TransformerConfig
from flowmo.model.flowmo import FlowMo
from flowmo.model.inference import InferenceModel
from tests.model.checkpoints import save_random

TINY = Path(__file__).resolve().parents[2] / "checkpoints" / "tiny"


@pytest.fixture(scope="session")
def tiny_checkpoint() -> Path:
    return TINY


@pytest.fixture(scope="session")
def tiny() -> InferenceModel:
    return InferenceModel(FlowMo.from_pretrained(str(TINY)))


def block_config(depth: int) -> FlowMoConfig:
    return FlowMoConfig(
        name="test",
        image_size=32,
        patch_size=4,
        encoder=TransformerConfig(width=48, depth=depth, heads=3),
        decoder=TransformerConfig(width=64, depth=depth, heads=2),
        code_length=16,
        token_bits=12,
        group_bits=4,
    )


@pytest.fixture(scope="session")
def small_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two blocks each, quick to export."""
    return save_random(tmp_path_factory.mktemp("checkpoint"), block_config(2), seed=5)


@pytest.fixture(scope="session")
def one_block_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One block each, quick to compile: a second one is compiled like the first."""
    return save_random(tmp_path_factory.mktemp("checkpoint"), block_config(1), seed=5)


@pytest.fixture(scope="session")
def small(small_checkpoint: Path) -> InferenceModel:
    return InferenceModel(FlowMo.from_pretrained(str(small_checkpoint)))


@pytest.fixture(scope="session")
def small_files(
    small_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[Half, OnnxFile]:
    """In bfloat16, as engines are built from them."""
    model = InferenceModel(FlowMo.from_pretrained(str(small_checkpoint)), dtype=torch.bfloat16)
    folder = tmp_path_factory.mktemp("onnx")
    return {half: export(model, folder, half) for half in HALVES}


@pytest.fixture(scope="session")
def small_float32_files(
    small: InferenceModel, tmp_path_factory: pytest.TempPathFactory
) -> dict[Half, OnnxFile]:
    """In float32, as ONNX Runtime computes them."""
    folder = tmp_path_factory.mktemp("onnx-float32")
    return {half: export(small, folder, half) for half in HALVES}


@pytest.fixture(scope="session")
def rtx() -> Library:
    return load_library("tensorrt_rtx")
