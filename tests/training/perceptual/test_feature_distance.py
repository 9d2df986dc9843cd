"""Distances of fetched networks: which pictures are far, whose weights fit, how files are read."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from flowmo.model.errors import ConfigError
from flowmo.training.config import PerceptualConfig
from flowmo.training.perceptual.efficientnet_lite import EfficientNetLite0
from flowmo.training.perceptual.feature_distance import FeatureDistance
from flowmo.training.perceptual.fetch import efficientnet_state, vgg_edge_state
from flowmo.training.perceptual.losses import feature_distance, perceptual_network
from flowmo.training.perceptual.vgg_edge import VggEdge

NETWORKS = ("vgg-edge", "efficientnet-lite0")


def _pair(size: int = 64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.rand(2, 2, 3, size, size, generator=generator) * 2 - 1).unbind(0)
    return a, b


@pytest.mark.parametrize("network", NETWORKS)
def test_a_distance_is_zero_for_equal_images_and_grows_with_the_difference(network: str) -> None:
    distance = feature_distance(network, "random")  # type: ignore[arg-type]
    a, b = _pair()
    assert distance.pairs(a, a).tolist() == [0, 0]
    near, far = distance.pairs(a, a + 0.1 * (b - a)), distance.pairs(a, b)
    assert (near > 0).all()
    assert (near < far).all()
    torch.testing.assert_close(distance(a, b), far.mean())


@pytest.mark.parametrize("network", NETWORKS)
def test_gradients_reach_the_images_and_no_weight(network: str) -> None:
    distance = feature_distance(network, "random").train()  # type: ignore[arg-type]
    a, b = _pair()
    a.requires_grad_()
    distance(a, b).backward()
    assert a.grad is not None
    assert a.grad.abs().sum() > 0
    assert not any(p.requires_grad for p in distance.parameters())
    assert not distance.features.training


def test_the_distance_is_of_directions_of_features() -> None:
    class Given(VggEdge):
        def maps(self, images: Tensor):  # type: ignore[no-untyped-def]
            yield images

    distance = FeatureDistance(Given(1))
    a = torch.tensor([1.0, 0, 0]).view(1, 3, 1, 1).expand(1, 3, 2, 2)
    b = torch.tensor([0, 5.0, 0]).view(1, 3, 1, 1).expand(1, 3, 2, 2)
    assert distance(a, 3 * a).item() == pytest.approx(0, abs=1e-5)
    assert distance(a, b).item() == pytest.approx(2, abs=1e-4)


def test_vgg_sees_blue_first_and_caffes_mean() -> None:
    network = VggEdge(1)
    red = torch.full((1, 3, 4, 4), -1.0)
    red[:, 0] = 1.0
    seen: list[Tensor] = []
    network.blocks[0][0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))  # type: ignore[index]
    next(network.maps(red))
    expected = torch.tensor([-104.00699, -116.66877, 255 - 122.67892])
    torch.testing.assert_close(seen[0][0, :, 0, 0], expected)


def test_maps_halve_the_sides() -> None:
    image = torch.zeros(1, 3, 64, 64)
    assert [tuple(m.shape[1:]) for m in VggEdge().maps(image)] == [
        (64, 64, 64), (128, 32, 32), (256, 16, 16), (512, 8, 8), (512, 4, 4),
    ]  # fmt: skip
    assert [tuple(m.shape[1:]) for m in EfficientNetLite0().eval().maps(image)] == [
        (16, 32, 32), (24, 16, 16), (40, 8, 8), (112, 4, 4), (320, 2, 2),
    ]  # fmt: skip


def test_an_efficientnet_is_padded_as_tensorflow_pads() -> None:
    """Of an even side, a convolution of stride 2 adds its one pixel at the end."""
    network = EfficientNetLite0().eval()
    image = torch.randn(1, 3, 32, 32)
    padded = F.pad(image, (0, 1, 0, 1))
    expected = network.stem.norm(F.conv2d(padded, network.stem.conv.weight, stride=2))
    torch.testing.assert_close(network.stem(image), expected)


def test_names_of_the_packages_weights_are_translated() -> None:
    ours = EfficientNetLite0().state_dict()
    theirs = {}
    for name, tensor in ours.items():
        block = name.removeprefix("blocks.").partition(".")[0]
        translated = name.replace("stem.conv", "_conv_stem").replace("stem.norm", "_bn0")
        translated = translated.replace("blocks.", "_blocks.")
        for number, part in enumerate(("expand", "depthwise", "project")):
            translated = translated.replace(f"{part}.conv", f"_{part}_conv")
            translated = translated.replace(f"{part}.norm", f"_bn{number}")
        assert block
        theirs[translated] = tensor
    theirs |= {"_fc.weight": torch.zeros(1), "_conv_head.weight": torch.zeros(1)}
    assert efficientnet_state(theirs).keys() == ours.keys()


def test_keras_kernels_are_turned() -> None:
    file = {}
    expected = VggEdge().state_dict()
    for b in range(5):
        for i in range(3):
            if (weight := expected.get(f"blocks.{b}.{i}.weight")) is None:
                continue
            group = f"block{b + 1}/layers/conv2d{f'_{i}' if i else ''}/vars"
            bias = expected[f"blocks.{b}.{i}.bias"]
            kernel = weight.permute(2, 3, 1, 0).numpy()
            file[group] = {"0": np.asarray(kernel)[None], "1": bias.numpy()[None]}
    # As h5py's data sets are read with [()], a leading axis stands for the data set here.
    read = {
        name: {key: _DataSet(value[0]) for key, value in group.items()}
        for name, group in file.items()
    }
    state = vgg_edge_state(read)
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[name], tensor) for name, tensor in expected.items())


class _DataSet:
    def __init__(self, value: np.ndarray) -> None:
        self._value = value

    def __getitem__(self, key: tuple[()]) -> np.ndarray:
        assert key == ()
        return self._value


def test_a_file_of_weights_is_read_and_another_refused(tmp_path: Path) -> None:
    written = feature_distance("vgg-edge", "random", blocks=5)
    path = tmp_path / "vgg.safetensors"
    save_file(written.features.state_dict(), path)
    config = PerceptualConfig(network="vgg-edge", weights=str(path), blocks=2)
    network = perceptual_network(config, torch.device("cpu"))
    assert isinstance(network, FeatureDistance)
    a, b = _pair(32)
    expected = feature_distance("vgg-edge", "random", blocks=2)
    assert network(a, b).item() != pytest.approx(0)
    assert len(list(network.features.maps(a))) == len(list(expected.features.maps(a))) == 2
    with pytest.raises(ConfigError, match="is not efficientnet-lite0"):
        feature_distance("efficientnet-lite0", str(path))
    with pytest.raises(ConfigError, match="perceptual.fetch"):
        feature_distance("vgg-edge", "library")


@pytest.mark.parametrize(
    "wrong", [{"blocks": 0}, {"blocks": 6}, {"window": 12}, {"window": -8}, {"below": 1.5}]
)
def test_options_out_of_range_are_errors(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        PerceptualConfig(**wrong)  # type: ignore[arg-type]


def test_under_autocast_the_distance_is_nearly_the_same() -> None:
    torch.manual_seed(0)
    network = FeatureDistance(VggEdge(2))
    a = torch.rand(2, 3, 32, 32) * 2 - 1
    b = (a + 0.1 * torch.randn_like(a)).requires_grad_()
    exact = network(a, b)
    (exact_gradient,) = torch.autograd.grad(exact, b)
    with torch.autocast("cpu", torch.bfloat16):
        near = network(a, b)
    (near_gradient,) = torch.autograd.grad(near, b)
    assert near.dtype == torch.float32
    # Another number all the same, or it would not have run in 16 bits.
    assert near.item() != exact.item()
    torch.testing.assert_close(near, exact, rtol=0.02, atol=0)
    assert F.cosine_similarity(near_gradient.flatten(), exact_gradient.flatten(), dim=0) > 0.98
