"""Adapters of the tokenizers that the paper compares with, on small modules of their interfaces.

The libraries and repositories themselves are not here: what is tested is that pictures go in and
come out in the range that each has, through its tokens, and that bits are counted.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from flowmo.imaging.reading import Pixels
from flowmo.training.evaluation import EvaluationError, compared
from flowmo.training.evaluation.tokenizers import TOKENIZERS

PICTURES: Pixels = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), np.uint8)


def blocks(levels: Pixels, side: int) -> Pixels:
    """Mean colours of squares: what the small tokenizers here do."""
    small = levels.reshape(-1, 16 // side, side, 16 // side, side, 3).astype(np.float64)
    mean = small.mean((2, 4), keepdims=True)
    spread = np.broadcast_to(mean, small.shape).reshape(levels.shape)
    rounded: Pixels = spread.round().astype(np.uint8)
    return rounded


def check(text: str, *, size: int | None, expected: Pixels) -> None:
    """Reconstruct as an evaluation does; one level is for rounding."""
    (method,), _ = compared([text], None)
    came = method.reconstruct(list(PICTURES), [7, 8, 9])
    for one, right in zip(came, expected, strict=True):
        assert one is not None
        assert one.size == size
        assert np.abs(one.pixels.astype(int) - right).max() <= 1


class Indices(nn.Module):
    """Mean colours of 8 x 8 squares at 5 levels a channel, as indices below 125."""

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        mean = nn.functional.avg_pool2d(images, 8)
        digits = ((mean + 1) * 2).round().clamp(0, 4).long()
        weights = torch.tensor([1, 5, 25], device=images.device).view(1, 3, 1, 1)
        return (digits * weights).sum(1), mean


class FromIndices(nn.Module):
    def forward(self, indices: Tensor) -> Tensor:
        digits = torch.stack([indices % 5, indices // 5 % 5, indices // 25], 1)
        mean = digits / 2.0 - 1.0
        return nn.functional.interpolate(mean, scale_factor=8.0)


class Mean(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return nn.functional.avg_pool2d(images, 4)


class Spread(nn.Module):
    def forward(self, latent: Tensor) -> Tensor:
        return nn.functional.interpolate(latent, scale_factor=4.0)


def coarse() -> Pixels:
    """What :class:`Indices` keeps."""
    mean = blocks(PICTURES, 8).astype(np.float64)
    levels: Pixels = ((mean / 127.5 * 2).round() / 2 * 127.5).round().astype(np.uint8)
    return levels


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*torch.jit.*:FutureWarning")
def test_a_torchscript_pair(tmp_path: Path) -> None:
    for name, module in (("e", Indices()), ("d", FromIndices()), ("m", Mean()), ("s", Spread())):
        torch.jit.script(module).save(tmp_path / f"{name}.jit")
    e, d, m, s = (f"{tmp_path}/{name}.jit" for name in "edms")
    check(f"torchscript:{e},{d},7", size=4, expected=coarse())  # 4 indices of 7 bits: 28 bits
    check(f"torchscript:{m},{s}", size=None, expected=blocks(PICTURES, 4))
    for text, message in (
        (f"{e},{d}", "gives indices: write torchscript:ENCODER,DECODER,BITS"),
        (f"{m},{s},16", "gives a continuous latent"),
        (f"{e},{d},many", "write torchscript:"),
        (e, "write torchscript:ENCODER,DECODER,BITS, got"),
        (f"{tmp_path}/no.jit,{d},7", "cannot be read as TorchScript"),
    ):
        with pytest.raises(EvaluationError, match=message):
            check(f"torchscript:{text}", size=None, expected=PICTURES)


class FakeAutoencoder(nn.Module):
    """The interface of diffusers' autoencoders: ``config`` a mapping, outputs with attributes."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.config: dict[str, Any] = {"in_channels": 3}
        if kind == "vq":
            self.config |= {"num_vq_embeddings": 1000}
        if kind == "cosmos":
            self.config |= {"temporal_compression_ratio": 8}

    def encode(self, x: Tensor) -> Any:
        assert x.ndim == (5 if self.kind == "cosmos" else 4)
        latent = nn.functional.avg_pool2d(x if x.ndim == 4 else x[:, :, 0], 4)
        if self.kind == "vq":
            return SimpleNamespace(latents=latent)
        if self.kind == "dc":
            return SimpleNamespace(latent=latent)
        latent = latent[:, :, None] if x.ndim == 5 else latent
        return SimpleNamespace(latent_dist=SimpleNamespace(mode=lambda: latent))

    def decode(self, latent: Tensor) -> Any:
        if latent.ndim == 5:
            return SimpleNamespace(sample=Spread()(latent[:, :, 0])[:, :, None])
        return SimpleNamespace(sample=Spread()(latent))


def test_autoencoders_of_diffusers(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str | None]] = []

    class AutoModel:
        @staticmethod
        def from_pretrained(repository: str, *, subfolder: str | None) -> FakeAutoencoder:
            asked.append((repository, subfolder))
            if repository == "nowhere":
                raise OSError("no such repository")
            return FakeAutoencoder(repository.rpartition("/")[2])

    library = ModuleType("diffusers")
    library.AutoModel = AutoModel  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "diffusers", library)
    expected = blocks(PICTURES, 4)
    for kind in ("kl", "dc", "cosmos"):
        check(f"diffusers:owner/{kind}", size=None, expected=expected)
    # 16 places of 10 bits, which a codebook of 1000 needs: 160 bits.
    check("diffusers:owner/vq,vae", size=20, expected=expected)
    assert asked[0] == ("owner/kl", None)
    assert asked[-1] == ("owner/vq", "vae")
    with pytest.raises(EvaluationError, match="cannot load nowhere: no such repository"):
        TOKENIZERS["diffusers"]("nowhere", "cpu")
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(EvaluationError, match="pip install diffusers"):
        TOKENIZERS["diffusers"]("owner/kl", "cpu")


class Weighted(nn.Module):
    """Something to load."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.options = options
        self.weight = nn.Parameter(torch.zeros(2))


class LlamaGenModel(Weighted):
    def encode(self, x: Tensor) -> Any:
        indices, mean = Indices()(x)
        return mean, None, (None, None, indices.flatten())

    def decode_code(self, indices: Tensor, shape: tuple[int, ...]) -> Tensor:
        assert bool((self.weight == 1).all()), "the weights were not loaded"
        image: Tensor = FromIndices()(indices.view(shape[0], *shape[2:]))
        return image


class Magvit2Model(Weighted):
    is_averaged = False

    def ema_scope(self) -> Any:
        model = self

        class Scope:
            def __enter__(self) -> None:
                model.is_averaged = True

            def __exit__(self, *_: object) -> None:
                model.is_averaged = False

        return Scope()

    def encode(self, x: Tensor) -> Any:
        assert self.is_averaged
        assert self.options["lossconfig"]["target"] == "torch.nn.Identity"
        return torch.where(nn.functional.avg_pool2d(x, 8) > 0, 1.0, -1.0), None, None, None

    def decode(self, quantized: Tensor) -> Tensor:
        return nn.functional.interpolate(quantized, scale_factor=8.0)


class TiTokModel(nn.Module):
    config = SimpleNamespace(model=SimpleNamespace(vq_model=SimpleNamespace(codebook_size=4096)))

    @classmethod
    def from_pretrained(cls, repository: str) -> "TiTokModel":
        assert repository == "owner/titok"
        return cls()

    def encode(self, x: Tensor) -> Any:
        assert 0 <= float(x.min()) <= float(x.max()) <= 1
        return None, {"min_encoding_indices": Indices()(2 * x - 1)[0]}

    def decode_tokens(self, tokens: Tensor) -> Tensor:
        image: Tensor = FromIndices()(tokens)
        return (image + 1) / 2


class DiToModel(Weighted):
    def encode(self, x: Tensor) -> Tensor:
        return nn.functional.avg_pool2d(x, 4)

    def decode(self, z: Tensor) -> Tensor:
        return z

    def render(self, z_dec: Tensor, coord: Tensor, scale: Tensor) -> Tensor:
        assert coord.shape == scale.shape == (len(z_dec), 2, 16, 16)
        image: Tensor = Spread()(z_dec)
        return image + 0.2 * torch.randn(image.shape)


def put(monkeypatch: pytest.MonkeyPatch, name: str, **members: Any) -> None:
    """A module of a clone, with the packages that it is in."""
    parts = name.split(".")
    for count in range(1, len(parts) + 1):
        module = ModuleType(".".join(parts[:count]))
        module.__path__ = []
        monkeypatch.setitem(sys.modules, module.__name__, module)
    for key, value in members.items():
        setattr(sys.modules[name], key, value)


def saved(path: Path, wrap: Callable[[dict[str, Tensor]], dict[str, Any]]) -> str:
    torch.save(wrap({"weight": torch.ones(2)}), path)
    return str(path)


def test_llamagen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    models = {"VQ-8": LlamaGenModel, "VQ-16": Weighted}
    put(monkeypatch, "tokenizer.tokenizer_image.vq_model", VQ_models=models)
    path = saved(tmp_path / "vq_ds8_c2i.pt", lambda state: {"model": state})
    check(f"llamagen:{path}", size=7, expected=coarse())  # 4 indices of 14 bits
    with pytest.raises(EvaluationError, match="has none of ema, model, state_dict; it has"):
        TOKENIZERS["llamagen"](saved(tmp_path / "other.pt", lambda state: {"x": state}), "cpu")
    torch.save({"model": Path}, tmp_path / "code.pt")
    with pytest.raises(EvaluationError, match="other objects than tensors"):
        TOKENIZERS["llamagen"](str(tmp_path / "code.pt"), "cpu")


def test_open_magvit2(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(monkeypatch, "src.Open_MAGVIT2.models.lfqgan", VQModel=Magvit2Model)
    config = tmp_path / "config.yaml"
    config.write_text(
        "model:\n  init_args:\n    n_embed: 8\n    lossconfig: {target: their.Loss}\n"
        "    ckpt_path: somewhere\n"
    )
    path = saved(tmp_path / "model.ckpt", lambda state: {"state_dict": state})
    signs = np.where(blocks(PICTURES, 8) > 127, 255, 0)
    # 2 x 2 places of 3 signs: 12 bits.
    check(f"open-magvit2:{config},{path}", size=2, expected=signs.astype(np.uint8))
    with pytest.raises(EvaluationError, match="read as a config with model.init_args"):
        TOKENIZERS["open-magvit2"](f"{tmp_path}/none.yaml,{path}", "cpu")
    with pytest.raises(EvaluationError, match=r"write open-magvit2:CONFIG,CHECKPOINT, got"):
        TOKENIZERS["open-magvit2"](str(config), "cpu")


def test_titok(monkeypatch: pytest.MonkeyPatch) -> None:
    put(monkeypatch, "modeling.titok", TiTok=TiTokModel)
    check("titok:owner/titok", size=6, expected=coarse())  # 4 indices of 12 bits


def test_dito_draws_a_pictures_own_noise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(monkeypatch, "models", make=lambda spec: DiToModel(**spec["args"]))
    config = tmp_path / "dito.yaml"
    config.write_text("model: {name: dito, args: {render_n_steps: 50}}")
    path = saved(tmp_path / "dito.pth", lambda state: {"model": {"sd": state}})
    adapter = TOKENIZERS["dito"](f"{config},{path}", "cpu")
    whole, sizes = adapter(PICTURES, [7, 8, 9])
    one, _ = adapter(PICTURES[1:2], [8])
    np.testing.assert_array_equal(whole[1:2], one)  # whatever is in the batch
    other, _ = adapter(PICTURES[1:2], [9])
    assert not np.array_equal(one, other)
    assert list(sizes) == [None] * 3
    assert np.abs(whole.astype(int) - blocks(PICTURES, 4)).mean() < 40


def test_what_is_not_there_is_said() -> None:
    with pytest.raises(EvaluationError, match="run this in a clone of bytedance/1d-tokenizer"):
        compared(["titok:owner/titok"], None)
    with pytest.raises(EvaluationError, match="NAME:ARGUMENTS with one of diffusers, dito, llama"):
        compared(["titok"], None)
