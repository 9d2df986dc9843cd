"""Frozen networks as losses: torchvision's architectures, weights by file, gradients to images."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torchvision.models import resnet50
from torchvision.transforms.functional import normalize

from flowmo.model.errors import ConfigError
from flowmo.training.config import PerceptualConfig
from flowmo.training.errors import LibraryError
from flowmo.training.perceptual.losses import LpipsLoss, ResNetLogits, perceptual_network
from flowmo.training.perceptual.lpips import Lpips

IMAGENET = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])


@pytest.fixture(scope="module")
def lpips() -> Lpips:
    return Lpips("vgg", "random")


@pytest.fixture(scope="module")
def logits() -> ResNetLogits:
    return ResNetLogits("random")


def _pair(size: int = 32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.rand(2, 2, 3, size, size, generator=generator) * 2 - 1).unbind(0)
    return a, b


def test_lpips_is_zero_for_equal_images_and_grows_with_the_difference(lpips: Lpips) -> None:
    a, b = _pair()
    assert lpips(a, a).tolist() == [0, 0]
    near, far = lpips(a, a + 0.1 * (b - a)), lpips(a, b)
    assert (near > 0).all()
    assert (near < far).all()
    torch.testing.assert_close(LpipsLoss("random")(a, b), far.mean())


def test_lpips_is_the_weighted_distance_of_unit_features(lpips: Lpips) -> None:
    a, b = _pair()
    network = lpips.network
    distance = torch.zeros(2)
    layers = zip(
        network.net(network.scaling_layer(a)), network.net(network.scaling_layer(b)), strict=True
    )
    for i, (f, g) in enumerate(layers):
        f, g = (x / x.norm(dim=1, keepdim=True).clamp_min(1e-8) for x in (f, g))
        weight = getattr(network, f"lin{i}").model[-1].weight  # of a 1 x 1 convolution
        distance += ((f - g).square() * weight[0]).sum(1).mean((1, 2))
    torch.testing.assert_close(lpips(a, b), distance, rtol=1e-3, atol=1e-6)


def test_logits_see_imagenets_normalized_pixels_at_224(logits: ResNetLogits) -> None:
    a, b = _pair(size=224)
    network = logits.network

    def reference(images: Tensor) -> Tensor:
        out: Tensor = network(normalize((images + 1) / 2, *IMAGENET))
        return out

    expected = (reference(a) - reference(b)).square().mean()
    torch.testing.assert_close(logits(a, b), expected, rtol=1e-3, atol=1e-8)


@pytest.mark.parametrize("network", ["lpips-vgg", "resnet50-logits"])
def test_gradients_reach_the_image_and_no_weight(network: str) -> None:
    config = PerceptualConfig(network=network, weights="random")  # type: ignore[arg-type]
    frozen = perceptual_network(config, torch.device("cpu"))
    assert frozen is not None
    a, b = _pair()
    a.requires_grad_()
    before = {n: t.clone() for n, t in frozen.state_dict().items()}
    frozen.train()  # a caller's mistake: batch norms must not follow
    frozen(a, b).backward()
    assert a.grad is not None
    assert a.grad.abs().max() > 0
    assert all(p.grad is None for p in frozen.parameters())
    assert all(torch.equal(before[n], t) for n, t in frozen.state_dict().items())


def test_random_weights_are_the_same_ones_and_leave_the_global_generator_alone(
    lpips: Lpips,
) -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    again = Lpips("vgg", "random")
    assert torch.equal(torch.rand(3), expected)
    a, b = _pair()
    assert torch.equal(again(a, b), lpips(a, b))


def test_weights_come_from_a_file_of_torchvisions_names(tmp_path: Path, lpips: Lpips) -> None:
    torch.manual_seed(1)
    state = {
        f"features.{name.partition('.')[2]}": torch.randn_like(p) * p.std()
        for name, p in lpips.network.net.named_parameters()
    }
    save_file(state, tmp_path / "vgg16.safetensors")
    torch.save(state | {"classifier.0.bias": torch.zeros(2)}, tmp_path / "vgg16.pth")
    a, b = _pair()
    one, other = (
        Lpips("vgg", str(tmp_path / f"vgg16{suffix}")) for suffix in (".safetensors", ".pth")
    )
    assert torch.equal(one(a, b), other(a, b))
    assert not torch.equal(one(a, b), lpips(a, b))


def test_resnet_files_without_batch_counters_are_read(tmp_path: Path, logits: ResNetLogits) -> None:
    state = {
        name: tensor
        for name, tensor in logits.network.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    torch.save(state, tmp_path / "resnet50.pth")
    a, b = _pair()
    assert torch.equal(ResNetLogits(str(tmp_path / "resnet50.pth"))(a, b), logits(a, b))


def test_what_is_wrong_with_weights_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"not-there\.pth cannot be read as weights of"):
        Lpips("vgg", str(tmp_path / "not-there.pth"))
    save_file({"features.0.weight": torch.zeros(2)}, tmp_path / "part.safetensors")
    with pytest.raises(ConfigError, match="25 of 26 tensors are missing"):
        Lpips("vgg", str(tmp_path / "part.safetensors"))
    other = resnet50(weights=None, num_classes=10).state_dict()
    torch.save(other, tmp_path / "ten.pth")
    with pytest.raises(ConfigError, match=r"(?s)is not torchvision's ResNet-50.*fc\.weight"):
        ResNetLogits(str(tmp_path / "ten.pth"))
    assert perceptual_network(PerceptualConfig(), torch.device("cpu")) is None
    with pytest.raises(ConfigError, match=r"perceptual\.network must be one of"):
        PerceptualConfig(network="vgg")  # type: ignore[arg-type]


def test_weights_that_cannot_be_fetched_name_the_file_to_bring(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr("torch.hub.download_url_to_file", refused)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(LibraryError, match=r"vgg16-397923af\.pth elsewhere and give the file"):
        Lpips("vgg", "library")
