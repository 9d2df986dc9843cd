"""Trained decoders that are given a head and a readout of images."""

from dataclasses import replace
from pathlib import Path
from statistics import fmean

import numpy as np
import pytest
import torch
from PIL import Image

from flowmo.imaging.tensors import psnr_of_images, to_images
from flowmo.model.config import FlowMoConfig, TransformerConfig
from flowmo.model.errors import ConfigError
from flowmo.model.flowmo import FlowMo
from flowmo.model.network import with_mask
from flowmo.model.patches import patchify
from flowmo.training.checkpointing.grow import crops_of, fit_images, main, with_a_head
from flowmo.training.data.held_out import held_out_squares

TINY = Path(__file__).resolve().parents[3] / "checkpoints" / "tiny"
CONFIG = FlowMoConfig(
    image_size=32,
    patch_size=8,
    encoder=TransformerConfig(width=16, depth=1, heads=2),
    decoder=TransformerConfig(width=16, depth=1, heads=2),
    code_length=4,
    token_bits=6,
    group_bits=3,
)


@pytest.fixture
def model() -> FlowMo:
    torch.manual_seed(0)
    return FlowMo(CONFIG).eval()


def _images(count: int, seed: int = 0) -> torch.Tensor:
    """Pictures of one colour each, so that there is something that features can tell."""
    generator = torch.Generator().manual_seed(seed)
    colours = torch.rand(count, 3, 1, 1, generator=generator) * 2 - 1
    return colours.expand(-1, -1, 32, 32).contiguous()


@torch.no_grad()
def test_a_head_adds_nothing_at_first(model: FlowMo) -> None:
    grown = with_a_head(model, (4, 2)).eval()
    assert grown.config.head == (4, 2)
    x, condition = torch.randn(2, 3, 32, 32), torch.randn(2, 4, 7)
    torch.testing.assert_close(grown.velocity(x, 0.5, condition), model.velocity(x, 0.5, condition))
    torch.testing.assert_close(grown.encode(x), model.encode(x))
    # But it learns from the first step: something reaches its last convolution.
    assert grown.head is not None
    seen: list[torch.Tensor] = []
    grown.head.out.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    grown.velocity(x, 0.5, condition)
    assert seen[0].std() > 0.01


@torch.no_grad()
def test_the_fitted_readout_is_the_best_linear_one(model: FlowMo) -> None:
    images = _images(64)
    fitted = fit_images(with_a_head(model, (4, 2)), images.split(16)).eval()
    assert fitted.config.prediction == "image"
    # Other weights of the same features are worse on what it was fitted on.
    readout = fitted.decoder.final_layer_img.linear
    kept = readout.weight[:192].clone()

    def loss() -> float:
        condition = with_mask(fitted.quantize(fitted.encode(images)))
        start = torch.randn(images.shape, generator=torch.Generator().manual_seed(3))
        said = start - fitted.velocity(start, 1.0, condition)
        return (patchify(said, 8) - patchify(images, 8)).square().mean().item()

    best = loss()
    for seed in range(3):
        shift = 0.1 * torch.randn(kept.shape, generator=torch.Generator().manual_seed(seed))
        readout.weight[:192] = kept + shift
        assert loss() > best


@torch.no_grad()
def test_most_of_what_a_trained_decoder_knows_can_be_read_off_linearly() -> None:
    """The trained network without its head, and with a readout of velocities by chance."""
    trained = FlowMo.from_pretrained(str(TINY)).float().eval()
    model = FlowMo(replace(trained.config, head=(), prediction="velocity"))
    own, weights = model.state_dict(), trained.state_dict()
    fresh = {"decoder.final_layer_img.linear.weight", "decoder.final_layer_img.linear.bias"}
    model.load_state_dict(own | {name: weights[name] for name in own.keys() - fresh})
    images = to_images(list(held_out_squares(128).values()))
    turned = torch.cat([images, images.flip(3), images.flip(2), images.flip(2, 3)])
    fitted = fit_images(with_a_head(model, (8, 4)), turned.split(6)).eval()
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(9))
    condition = with_mask(fitted.quantize(fitted.encode(images)))
    estimate = noise - fitted.velocity(noise, 1.0, condition)
    before = noise - trained.velocity(noise, 1.0, condition)
    assert fmean(psnr_of_images(images, estimate)) > fmean(psnr_of_images(images, before)) - 1


def test_what_was_done_already_is_an_error(model: FlowMo) -> None:
    grown = with_a_head(model, (4, 2))
    with pytest.raises(ConfigError, match="has a head already"):
        with_a_head(grown, (4, 2))
    fitted = fit_images(grown, _images(16).split(16))
    with pytest.raises(ConfigError, match="predicts the image already"):
        fit_images(fitted, _images(16).split(16))


def test_the_command_writes_a_checkpoint_to_begin_with(
    model: FlowMo, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    random = np.random.default_rng(0)
    for i in range(3):
        pixels = random.integers(0, 256, (40, 48, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
    model.save_pretrained(tmp_path / "old")
    data = ["--data", str(tmp_path / "*.png"), "--crops", "20"]
    out = tmp_path / "new"
    assert main([str(tmp_path / "old"), "--head", "4,2", *data, "--out", str(out)]) == 0
    grown = FlowMo.from_pretrained(str(out))
    assert (grown.config.head, grown.config.prediction) == ((4, 2), "image")
    shapes = [crop.shape for crop in crops_of(data[1:2], CONFIG, count=20, least_scale=0.5)]
    assert shapes == [(16, 3, 32, 32), (4, 3, 32, 32)]
    with pytest.raises(SystemExit):
        main([str(out), *data, "--out", str(tmp_path / "again")])
    assert "has a head already" in capsys.readouterr().err
