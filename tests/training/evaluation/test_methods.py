"""What reconstructs: a checkpoint through its tokens, codecs within their bytes, adapters."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from flowmo.imaging.quality import psnr
from flowmo.imaging.tensors import to_images, to_levels
from flowmo.model.config import FlowMoConfig
from flowmo.model.flowmo import FlowMo
from flowmo.model.inference import InferenceModel
from flowmo.training.data.held_out import held_out_squares
from flowmo.training.evaluation import (
    AdapterMethod,
    CheckpointMethod,
    Codec,
    EvaluationError,
    MeanColour,
    compared,
    load_model,
)

PHOTOGRAPHS = list(held_out_squares(32).values())


def test_a_checkpoint_reconstructs_through_its_tokens(micro: InferenceModel) -> None:
    came = CheckpointMethod(micro).reconstruct(PHOTOGRAPHS[:3], [7, 8, 9])
    images = to_images(PHOTOGRAPHS[:3])
    expected = to_levels(micro.detokenize(micro.tokenize(images), seeds=[7, 8, 9]))
    for one, other in zip(came, expected.permute(0, 2, 3, 1).numpy(), strict=True):
        assert one is not None
        assert one.size == micro.config.payload_bytes == 3
        np.testing.assert_array_equal(one.pixels, other)


def test_a_continuous_model_has_no_bytes(micro_model: FlowMoConfig) -> None:
    model = InferenceModel(FlowMo(replace(micro_model, quantizer="gaussian")))
    (came,) = CheckpointMethod(model).reconstruct(PHOTOGRAPHS[:1], [0])
    assert came is not None
    assert came.size is None


def test_initial_noise_can_be_scaled(micro: InferenceModel) -> None:
    still = CheckpointMethod(micro, noise_scale=0.0)
    first, second = (still.reconstruct(PHOTOGRAPHS[:1], [seed])[0] for seed in (0, 1))
    assert first is not None
    assert second is not None
    np.testing.assert_array_equal(first.pixels, second.pixels)  # no noise, so no seed
    assert still.describe() != CheckpointMethod(micro).describe()


@pytest.mark.parametrize("name", ["jpeg", "webp", "avif"])
def test_codecs_keep_to_their_bytes(name: str) -> None:
    came = Codec(name, 700).reconstruct(PHOTOGRAPHS[:1], [0])[0]
    plain = MeanColour().reconstruct(PHOTOGRAPHS[:1], [0])[0]
    assert came is not None
    assert came.size is not None
    assert plain is not None
    assert 300 < came.size <= 700
    assert psnr(PHOTOGRAPHS[0], came.pixels) > psnr(PHOTOGRAPHS[0], plain.pixels) + 3
    assert Codec(name, 10).reconstruct(PHOTOGRAPHS[:1], [0]) == [None]


def test_what_to_compare_with_is_chosen_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flowmo.training.evaluation.choose.writes", lambda codec: codec != "JXL")
    methods, absent = compared(["codec:webp", "codec:jxl", "mean-colour"], 500)
    assert [method.name for method in methods] == ["webp", "mean-colour"]
    assert absent == ["Without jxl: this Pillow does not write JXL."]
    with pytest.raises(EvaluationError, match="no codec 'gif'; there are jpeg, webp, avif, jxl"):
        compared(["codec:gif"], 500)
    with pytest.raises(EvaluationError, match="needs a number of bytes.*give --bytes"):
        compared(["codec:webp"], None)


ADAPTERS = """
import numpy as np
VALUE = 3

def negative(pictures, numbers):
    return 255 - pictures, [10 + n for n in numbers]

def small(pictures, numbers):
    return pictures[:, ::2, ::2], [1] * len(numbers)

def alone(pictures, numbers):
    return pictures

def forgetful(pictures, numbers):
    return pictures, [1]
"""


def test_adapters_are_functions_of_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "some_tokenizers.py").write_text(ADAPTERS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (method,), _ = compared(["some_tokenizers:negative"], None)
    first, second = method.reconstruct(PHOTOGRAPHS[:2], [4, 5])
    assert first is not None
    assert second is not None
    np.testing.assert_array_equal(first.pixels, 255 - PHOTOGRAPHS[0])
    assert (first.size, second.size) == (14, 15)
    for name, message in (
        ("small", r"must return uint8 \(2, 32, 32, 3\), got .*\(2, 16, 16, 3\)"),
        ("alone", r"must return \(pictures, bytes of each\), got a ndarray"),
        ("forgetful", "returned 1 sizes for 2 pictures"),
    ):
        with pytest.raises(EvaluationError, match=message):
            AdapterMethod(f"some_tokenizers:{name}").reconstruct(PHOTOGRAPHS[:2], [0, 1])
    for text, message in (
        ("nothing", "is written module:function"),
        ("no_module:f", "cannot be had"),
        ("some_tokenizers:nothing", "cannot be had"),
        ("some_tokenizers:VALUE", "is a int, not a function"),
    ):
        with pytest.raises(EvaluationError, match=message):
            AdapterMethod(text)


def test_precision_is_chosen_by_the_device(tmp_path: Path, micro_model: FlowMoConfig) -> None:
    FlowMo(micro_model).save_pretrained(tmp_path)
    assert load_model(str(tmp_path), device="cpu").dtype == torch.float32
    assert load_model(str(tmp_path), device="cpu", precision="bf16").dtype == torch.bfloat16
    with pytest.raises(EvaluationError, match="precision is auto, float32 or bf16, got 'half'"):
        load_model(str(tmp_path), device="cpu", precision="half")
