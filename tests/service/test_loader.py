"""Checkpoints to codecs."""

from pathlib import Path

import numpy as np
import pytest

from flowmo.model.errors import CheckpointError
from flowmo.service.codec import Codec
from flowmo.service.loader import load_codec
from tests.service.fixtures import CONFIG, save_model
from tests.service.pictures import gradient

PICTURE = gradient(32, 32)


def test_a_codec_says_what_it_is(codec: Codec) -> None:
    info = codec.info
    assert info.config == CONFIG
    assert (info.name, info.image_size, info.sampler) == ("nano", 32, CONFIG.sampler)
    assert (info.device, info.dtype) == ("cpu", "float32")
    assert len(info.fingerprint) == 32


def test_weights_decide_the_fingerprint(codec: Codec, other_checkpoint: Path) -> None:
    assert load_codec(str(other_checkpoint), device="cpu").info.fingerprint != (
        codec.info.fingerprint
    )


def test_a_batch_gives_what_its_rows_give_alone(codec: Codec) -> None:
    pictures = np.stack([PICTURE, PICTURE[::-1], PICTURE[:, ::-1]])
    tokens = codec.tokenize(pictures)
    assert tokens == [codec.tokenize(picture[None])[0] for picture in pictures]
    batch = codec.detokenize(tokens, seeds=[3, 1, 2], sampler=CONFIG.sampler)
    assert batch.shape == (3, 32, 32, 3)
    assert batch.dtype == np.uint8
    for row, seed, picture in zip(tokens, [3, 1, 2], batch, strict=True):
        (alone,) = codec.detokenize([row], seeds=[seed], sampler=CONFIG.sampler)
        assert np.abs(alone.astype(int) - picture).max() <= 1


def test_another_dtype_is_the_same_model(checkpoint: Path, codec: Codec) -> None:
    half = load_codec(str(checkpoint), device="cpu", dtype="bfloat16")
    assert half.info.dtype == "bfloat16"
    assert half.info.fingerprint == codec.info.fingerprint
    tokens = codec.tokenize(PICTURE[None])
    pictures = [c.detokenize(tokens, seeds=[0], sampler=CONFIG.sampler) for c in (codec, half)]
    assert np.abs(pictures[0].astype(int) - pictures[1]).mean() < 8


def test_a_missing_checkpoint_is_told(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="nothing-here"):
        load_codec(str(tmp_path / "nothing-here"))


def test_a_continuous_model_has_no_tokens_to_serve(tmp_path: Path) -> None:
    folder = save_model(tmp_path / "continuous", seed=0, quantizer="gaussian")
    with pytest.raises(CheckpointError, match="continuous model"):
        load_codec(str(folder), device="cpu")
