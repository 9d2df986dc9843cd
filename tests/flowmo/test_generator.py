"""A prior from Python: classes and seeds to tokens, and tokens that are edited."""

from pathlib import Path

import numpy as np
import pytest

import flowmo
from flowmo.model.errors import CheckpointError, ConfigError, TokenError


@pytest.fixture(scope="module")
def tokenizer(checkpoint: Path) -> flowmo.Tokenizer:
    return flowmo.load(checkpoint, device="cpu")


@pytest.fixture(scope="module")
def prior(prior_checkpoint: Path, tokenizer: flowmo.Tokenizer) -> flowmo.TokenGenerator:
    return flowmo.load_prior(prior_checkpoint, tokenizer)


def test_a_seed_gives_the_same_tokens_in_any_batch(prior: flowmo.TokenGenerator) -> None:
    one = prior.generate("dog", seeds=7)
    assert one == prior.generate(1, seeds=7, count=1)[0]
    assert one == prior.generate("dog", seeds=6, count=2)[1]
    assert one == prior.generate(["cat", None, "dog"], seeds=[1, 2, 7], batch_size=2)[2]
    others = [prior.generate("dog", seeds=8), prior.generate("cat", seeds=7), prior.generate()]
    assert all(one != other for other in others)
    assert prior.generate("dog", seeds=7, steps=1, temperature=0.0) == prior.generate(
        "dog", seeds=8, steps=1, temperature=0.0
    )


def test_its_tokens_are_the_tokenizers(
    prior: flowmo.TokenGenerator, tokenizer: flowmo.Tokenizer, tmp_path: Path
) -> None:
    tokens = prior.generate("cat", seeds=3, steps=2)
    assert (tokens.width, tokens.height, tokens.fingerprint) == (32, 32, tokenizer.fingerprint)
    tokens.save(tmp_path / "cat.flowmo")
    assert tokenizer.decode(tmp_path / "cat.flowmo", steps=1).size == (32, 32)


def test_kept_tokens_stay_and_the_others_are_new(prior: flowmo.TokenGenerator) -> None:
    tokens = prior.generate("cat", seeds=3)
    mask = np.arange(16) < 8
    edited = prior.generate("dog", seeds=4, tokens=tokens, mask=mask)
    assert (edited.ids[0, :8] == tokens.ids[0, :8]).all()
    assert (edited.ids[0, 8:] != tokens.ids[0, 8:]).any()
    by_id = prior.generate("dog", seeds=4, tokens=tokens, mask=np.repeat(mask[:, None], 3, 1))
    assert by_id == edited
    assert prior.generate("dog", tokens=tokens, mask=[True] * 16) == tokens


def test_what_does_not_fit_is_refused(
    prior: flowmo.TokenGenerator,
    prior_checkpoint: Path,
    checkpoint: Path,
    other_checkpoint: Path,
    tokenizer: flowmo.Tokenizer,
) -> None:
    other = flowmo.load(other_checkpoint, device="cpu")
    with pytest.raises(ConfigError, match=f"of {tokenizer.fingerprint}.* {other.fingerprint}"):
        flowmo.load_prior(prior_checkpoint, other)
    with pytest.raises(CheckpointError, match="where one of type prior is needed"):
        flowmo.load_prior(checkpoint, tokenizer)
    tokens = prior.generate()
    with pytest.raises(TokenError, match="both tokens and a mask"):
        prior.generate(tokens=tokens)
    with pytest.raises(TokenError, match=r"a mask is 16 times .* shape \[3\]"):
        prior.generate(tokens=tokens, mask=[True, False, True])
    with pytest.raises(ConfigError, match="no class 'cow'"):
        prior.generate("cow")
    with pytest.raises(TokenError, match="2 images need as many seeds, got 3"):
        prior.generate(count=2, seeds=[1, 2, 3])
