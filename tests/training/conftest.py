"""A few generated pictures and a network small enough for a step in milliseconds."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flowmo.model.config import FlowMoConfig, SamplerConfig, TransformerConfig
from flowmo.training.config import DataConfig, OptimizerConfig, TrainConfig

IMAGE_COUNT = 10


def write_pictures(folder: Path, count: int = IMAGE_COUNT) -> None:
    """Smooth coloured PNG files of different sizes, one of them in a subfolder."""
    generator = np.random.default_rng(0)
    for i in range(count):
        height, width = generator.integers(40, 70, size=2)
        y, x = np.mgrid[:height, :width] / 20
        waves = generator.random((3, 3)) * 4
        pixels = np.stack([np.sin(a * x + b * y + c) for a, b, c in waves], axis=-1)
        path = folder / ("more" if i == 3 else ".") / f"{i:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((pixels * 100 + 128).astype(np.uint8)).save(path)


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    write_pictures(folder)
    return folder


@pytest.fixture(scope="session")
def micro_model() -> FlowMoConfig:
    return FlowMoConfig(
        name="micro",
        image_size=32,
        patch_size=8,
        encoder=TransformerConfig(width=24, depth=1, heads=2),
        decoder=TransformerConfig(width=32, depth=1, heads=2),
        code_length=4,
        token_bits=6,
        group_bits=3,
        sampler=SamplerConfig(steps=2),
    )


@pytest.fixture
def run_config(
    pictures: Path, micro_model: FlowMoConfig, tmp_path: Path
) -> Callable[..., TrainConfig]:
    """A complete config of a short float32 run; keyword arguments replace fields."""

    def build(**changes: object) -> TrainConfig:
        values: dict[str, object] = {
            "model": micro_model,
            "data": DataConfig(paths=(str(pictures),), workers=0),
            "optimizer": OptimizerConfig(learning_rate=1e-3),
            "output": str(tmp_path / "run"),
            "steps": 6,
            "batch_size": 4,
            "precision": "float32",
            "device": "cpu",
            "log_interval": 2,
            "sample_interval": 0,
            "checkpoint_interval": 0,
            "tensorboard": False,
        }
        return TrainConfig(**(values | changes))  # type: ignore[arg-type]

    return build
