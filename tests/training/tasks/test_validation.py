"""Held-out pictures while training: rFID and feature distances beside PSNR."""

from collections.abc import Iterable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from flowmo.imaging.tensors import as_levels, to_levels, to_model_range
from flowmo.model.config import FlowMoConfig
from flowmo.model.errors import ConfigError
from flowmo.model.flowmo import FlowMo
from flowmo.training.config import ValidationConfig
from flowmo.training.data.pictures import held_out_pictures
from flowmo.training.evaluation.distances import frechet, statistics
from flowmo.training.evaluation.protocol import PYTORCH_FID
from flowmo.training.perceptual.metrics import pair_distance
from flowmo.training.tasks.validation import Validator

CPU = torch.device("cpu")


class Colours(nn.Module):
    """Mean colours in the place of InceptionV3's features."""

    def __init__(self, source: str) -> None:
        super().__init__()
        assert source == "inception.pth"

    def forward(self, levels: Tensor, names: Iterable[str]) -> dict[str, Tensor]:
        assert list(names) == [PYTORCH_FID]
        assert not torch.is_autocast_enabled("cpu")
        return {PYTORCH_FID: levels.float().mean((2, 3))}


def test_rfid_is_of_the_reconstructions_that_psnr_is_of(
    micro_model: FlowMoConfig, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flowmo.training.tasks.validation.Inception", Colours)
    config = ValidationConfig(
        interval=1,
        paths=(str(pictures),),
        count=6,
        metric="rfid",
        network_weights="inception.pth",
    )
    model = FlowMo(micro_model).eval()
    validator = Validator(config, size=32, device=CPU)
    with torch.autocast("cpu", torch.bfloat16, enabled=False):
        found = validator.measure(model)
    originals = as_levels(held_out_pictures([str(pictures)], 32, limit=6))
    came = to_levels(model.reconstruct(to_model_range(originals), seeds=list(range(6))))
    expected = frechet(*(statistics(p.float().mean((2, 3))) for p in (originals, came)))
    assert found["rfid"] == pytest.approx(expected, rel=1e-4)
    assert set(found) == {"psnr", "ssim", "rfid"}
    with torch.autocast("cpu", torch.bfloat16):  # as in a run: its own networks are not rounded
        assert validator.measure(model)["rfid"] > 0


def test_a_feature_distance_decides_where_lpips_cannot_be_had(
    micro_model: FlowMoConfig, pictures: Path
) -> None:
    config = ValidationConfig(
        interval=1,
        paths=(str(pictures),),
        count=2,
        metric="efficientnet-lite0",
        network_weights="random",
    )
    model = FlowMo(micro_model).eval()
    found = Validator(config, size=32, device=CPU).measure(model)["efficientnet-lite0"]
    originals = to_model_range(as_levels(held_out_pictures([str(pictures)], 32, limit=2)))
    came = to_model_range(to_levels(model.reconstruct(originals, seeds=[0, 1])))
    distance = pair_distance("efficientnet-lite0", "random", "cpu", option="")
    assert found == pytest.approx(float(distance(came, originals).mean()), rel=1e-4)
    library = ValidationConfig(interval=1, metric="vgg-edge", paths=(str(pictures),))
    with pytest.raises(ConfigError, match="set validation.network_weights to networks/vgg-edge"):
        Validator(library, size=32, device=CPU)
