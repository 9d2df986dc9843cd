"""Networks with weights from files, from a seed, or missing; their libraries agree."""

from pathlib import Path
from urllib.error import URLError

import pytest
import torch
from torch.utils.data import Dataset
from torchmetrics.functional.image.lpips import _LPIPS

from flowmo.model.errors import ConfigError
from flowmo.training.evaluation import LibraryError, Networks, NetworkSources
from flowmo.training.evaluation import extractors as ex
from flowmo.training.evaluation.errors import EvaluationError
from flowmo.training.libraries import library
from flowmo.training.perceptual.lpips import Lpips
from flowmo.training.perceptual.weights import digest


def levels(count: int, seed: int, side: int = 32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, side, side), generator=generator, dtype=torch.uint8)


class _Pictures(Dataset[torch.Tensor]):
    def __init__(self, pictures: torch.Tensor) -> None:
        self.pictures = pictures

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, i: int) -> torch.Tensor:
        return self.pictures[i]


def test_inception_from_a_file_gives_torch_fidelitys_own_fid(tmp_path: Path) -> None:
    from torch_fidelity import calculate_metrics

    from flowmo.training.evaluation.distances import frechet, statistics

    path = tmp_path / "inception.pth"
    random = ex.Inception("random")
    torch.save(random.network.state_dict(), path)
    extractor = ex.Inception(str(path))
    assert digest(extractor) == digest(random)
    a, b = levels(4, 0), levels(4, 1) // 2
    theirs = calculate_metrics(
        input1=_Pictures(a),
        input2=_Pictures(b),
        fid=True,
        feature_extractor_weights_path=str(path),
        cuda=False,
        cache=False,
        save_cpu_ram=True,  # no worker processes
        verbose=False,
        batch_size=4,
    )["frechet_inception_distance"]
    of_a, of_b = (extractor(pictures, [ex.INCEPTION])[ex.INCEPTION] for pictures in (a, b))
    ours = frechet(statistics(of_a), statistics(of_b))
    assert ours > 1e-3  # random weights that let no signal through would agree on anything
    assert ours == pytest.approx(theirs, rel=1e-5)


def test_vgg_features_are_those_of_torchvisions_network() -> None:
    extractor = ex.Vgg16("random")
    pictures = levels(1, 0, side=224)  # of the network's own size, so that nothing is resized
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    images = (pictures / 255.0 - mean[:, None, None]) / std[:, None, None]
    vgg = extractor.network.model
    with torch.inference_mode():
        hidden = vgg.avgpool(vgg.features(images)).flatten(1)
        first, _, _, second = vgg.classifier
        expected = second(first(hidden).relu()).relu()
        features = extractor(pictures)[ex.VGG16]
    assert features.shape == (1, 4096)
    torch.testing.assert_close(features, expected, rtol=1e-3, atol=1e-3 * expected.max().item())


def test_lpips_from_a_file_is_that_of_torchmetrics(tmp_path: Path) -> None:
    state = {}
    reference = _LPIPS(pretrained=True, net="alex", pnet_rand=True)
    for name, tensor in reference.net.state_dict().items():
        state[f"features.{name.partition('.')[2]}"] = tensor
    path = tmp_path / "alexnet.pth"
    torch.save(state | {"classifier.1.bias": torch.zeros(4)}, path)
    a, b = (levels(3, seed) / 127.5 - 1.0 for seed in (0, 1))
    expected = reference(a, b).flatten()
    lpips = Lpips("alex", str(path))
    torch.testing.assert_close(lpips(a, b), expected)
    torch.testing.assert_close(lpips(a, a), torch.zeros(3))


def test_wrong_files_are_told_apart(tmp_path: Path) -> None:
    path = tmp_path / "other.pth"
    torch.save({"some.weight": torch.zeros(2)}, path)
    with pytest.raises(ConfigError, match="is not torch-fidelity's InceptionV3.*are missing"):
        ex.Inception(str(path))
    with pytest.raises(ConfigError, match="is not torchvision's alex"):
        Lpips("alex", str(path))
    with pytest.raises(ConfigError, match="cannot be read"):
        Lpips("alex", str(tmp_path / "nowhere.pth"))
    with pytest.raises(EvaluationError, match="vgg or alex, got 'squeeze'"):
        NetworkSources(lpips_backbone="squeeze")  # type: ignore[arg-type]


def test_a_file_that_would_run_code_is_not_loaded(tmp_path: Path) -> None:
    path = tmp_path / "code.pth"
    torch.save({"x": Path}, path)
    with pytest.raises(ConfigError, match="cannot be read"):
        ex.Inception(str(path))


def test_what_cannot_be_fetched_is_missing_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise URLError("no network here")

    monkeypatch.setattr("torch.hub.load_state_dict_from_url", refuse)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", refuse)
    networks = Networks(NetworkSources(vgg16="none"))
    assert set(networks.weights.values()) == {"none"}
    assert set(networks.missing) == {"lpips-vgg", "inception-v3-compat"}  # VGG-16 was not asked for
    for name in networks.missing:
        assert "no network here" in networks.missing[name]
        assert "download https://" in networks.missing[name]
    assert networks.distances(levels(1, 0), levels(1, 1)) is None
    assert networks.features(levels(1, 0)) == {}


def test_missing_and_broken_libraries_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(LibraryError, match=r"no_such_thing is not installed: pip install 'flowmo"):
        library("no_such_thing")

    def broken(name: str) -> None:
        raise RuntimeError("operator torchvision::nms does not exist")

    monkeypatch.setattr("importlib.import_module", broken)
    with pytest.raises(LibraryError, match="torchvision is installed and does not load beside"):
        library("torchvision")
