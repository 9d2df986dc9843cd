"""The prior's network and its checkpoints."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import flowmo
from flowmo.model import registry
from flowmo.model.checkpoint import inspect_checkpoint
from flowmo.model.errors import CheckpointError, ConfigError, TokenError
from flowmo.model.flowmo import FlowMo
from flowmo.model.prior.checkpoint import Prior, expected_prior_shapes
from flowmo.model.prior.config import PRIOR_PRESETS, PriorConfig, for_tokens, prior_preset
from flowmo.model.prior.network import initialize
from tests.model.checkpoints import made_model

TOKENIZER = "0123456789abcdef" * 2
MICRO = PriorConfig(
    name="micro",
    width=16,
    depth=2,
    heads=2,
    mlp_width=24,
    code_length=3,
    token_bits=6,
    group_bits=3,
    classes=2,
    class_names=("cat", "dog"),
    tokenizer=TOKENIZER,
)


@pytest.fixture
def prior() -> Prior:
    model = Prior(MICRO)
    initialize(model, seed=0)
    with torch.no_grad():
        model.bias.normal_(generator=torch.Generator().manual_seed(1))
    return model.eval()


def test_the_published_sizes_have_the_published_count() -> None:
    published = prior_preset("prior")
    assert (published.width, published.depth) == (1024, 28)
    assert (published.length, published.vocabulary) == (512, 512)
    count = sum(torch.Size(shape).numel() for shape in expected_prior_shapes(published).values())
    assert count == 395_880_448  # docs/generation.md and decision 0028 say 395.9 M
    assert abs(count - 397e6) < 0.02 * 397e6
    tiny = sum(
        torch.Size(shape).numel()
        for shape in expected_prior_shapes(PRIOR_PRESETS["prior-tiny"]).values()
    )
    assert 2 * tiny < 20 * 2**20  # bytes in bfloat16: what may be shipped


def test_every_place_sees_every_other_and_its_class(prior: Prior) -> None:
    ids = torch.full((1, MICRO.length), MICRO.mask_id)
    classes = torch.tensor([0])
    before = prior(ids, classes)
    assert before.shape == (1, 6, 8)
    for place in range(MICRO.length):
        other = ids.clone()
        other[0, place] = 3
        moved = (prior(other, classes) - before).abs().amax(-1)[0]
        assert (moved > 1e-6).all()  # places before it, too: nothing is causal
    assert not torch.allclose(prior(ids, torch.tensor([1])), before)
    assert not torch.allclose(prior(ids, torch.tensor([MICRO.null_class])), before)
    with pytest.raises(TokenError, match=r"ids must be \[B, 6\] .* got \[1, 5\]"):
        prior(ids[:, :5], classes)


def test_it_computes_in_bfloat16_as_trained_and_as_stored(prior: Prior) -> None:
    ids, classes = torch.full((1, MICRO.length), MICRO.mask_id), torch.tensor([0])
    exact = prior(ids, classes)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.allclose(prior(ids, classes).float(), exact, atol=0.1)
    stored = Prior(MICRO).to(torch.bfloat16)
    stored.load_state_dict(prior.state_dict())
    assert torch.allclose(stored(ids, classes).float(), exact, atol=0.1)


def test_the_order_of_ids_is_that_of_a_tokenizer() -> None:
    # docs/container.md: ids [K, D / G] row by row, which reshape gives.
    assert (MICRO.length, MICRO.ids_per_token) == (6, 2)
    assert (MICRO.mask_id, MICRO.null_class) == (8, 2)
    assert [MICRO.class_number(one) for one in ("dog", 1, "0", None, "none")] == [1, 1, 0, 2, 2]
    with pytest.raises(ConfigError, match="no class 'cow': there are the numbers 0 ... 1 .* cat"):
        MICRO.class_number("cow")


def test_a_checkpoint_comes_back_and_knows_its_tokenizer(prior: Prior, tmp_path: Path) -> None:
    fingerprint = prior.save_pretrained(tmp_path, dtype=torch.float32)
    assert registry.model_type(tmp_path) == "prior"
    again = registry.load(tmp_path, expected=Prior)
    assert again.config == MICRO
    assert again.fingerprint() == fingerprint == prior.fingerprint()
    ids = torch.full((1, MICRO.length), MICRO.mask_id)
    assert torch.equal(again(ids, torch.tensor([1])), prior(ids, torch.tensor([1])))
    again.config.check_tokenizer(TOKENIZER)
    with pytest.raises(ConfigError, match=f"made for the tokens of {TOKENIZER}.* {'0' * 32}"):
        again.config.check_tokenizer("0" * 32)
    renamed = Prior(replace(MICRO, name="other", class_names=()))
    renamed.load_state_dict(prior.state_dict())
    assert renamed.fingerprint() == fingerprint
    other_tokenizer = Prior(replace(MICRO, tokenizer="0" * 32))
    other_tokenizer.load_state_dict(prior.state_dict())
    assert other_tokenizer.fingerprint() != fingerprint


def test_loaders_tell_the_two_kinds_apart(prior: Prior, tmp_path: Path) -> None:
    prior.save_pretrained(tmp_path / "prior")
    made_model().save_pretrained(tmp_path / "tokenizer")
    with pytest.raises(CheckpointError, match="type 'prior', where one of type flowmo is needed"):
        flowmo.load(tmp_path / "prior")
    with pytest.raises(CheckpointError, match="its model_type is 'prior', not 'flowmo'"):
        inspect_checkpoint(tmp_path / "prior")
    with pytest.raises(CheckpointError, match="type 'flowmo', where one of type prior is needed"):
        registry.load(tmp_path / "tokenizer", expected=Prior)
    with pytest.raises(CheckpointError, match="model_type is 'flowmo', not 'prior'; name the fold"):
        Prior.from_pretrained(tmp_path / "tokenizer")
    assert isinstance(registry.load(tmp_path / "tokenizer", expected=FlowMo), FlowMo)


def test_a_checkpoint_that_means_nothing_is_refused(prior: Prior, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="names no tokenizer"):
        Prior(replace(MICRO, tokenizer=None)).save_pretrained(tmp_path)
    prior.save_pretrained(tmp_path)
    record = json.loads((tmp_path / "config.json").read_text())
    record["config"]["depth"] = 3
    (tmp_path / "config.json").write_text(json.dumps(record))
    with pytest.raises(CheckpointError, match="missing: blocks.2"):
        Prior.from_pretrained(tmp_path)
    record["config"] |= {"depth": 2, "tokenizer": "me"}
    (tmp_path / "config.json").write_text(json.dumps(record))
    with pytest.raises(CheckpointError, match="invalid config: tokenizer must be a fingerprint"):
        Prior.from_pretrained(tmp_path)


def test_a_prior_takes_over_its_tokens_once() -> None:
    tokens = {
        "tokenizer": TOKENIZER,
        "code_length": 4,
        "token_bits": 8,
        "group_bits": 4,
        "classes": 1,
        "class_names": ("all",),
    }
    taken = for_tokens(replace(MICRO, tokenizer=None), **tokens)  # type: ignore[arg-type]
    assert (taken.length, taken.vocabulary, taken.classes) == (8, 16, 1)
    assert for_tokens(taken, **tokens) is taken  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="made for the tokens of"):
        for_tokens(taken, **(tokens | {"tokenizer": "0" * 32}))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"have 2 classes \(a, b\), the prior 'micro' has 1"):
        for_tokens(taken, **(tokens | {"classes": 2, "class_names": ("a", "b")}))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"heads": 3}, "heads 3 must divide"),
        ({"group_bits": 4}, "group_bits 4 must divide token_bits 6"),
        ({"token_bits": 18, "group_bits": 18}, "at most 16"),
        ({"depth": 0}, "depth must be a whole number of at least 1"),
        ({"class_names": ("cat",)}, "a name for each of the 2 classes or none, got 1"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(changes: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        replace(MICRO, **changes)  # type: ignore[arg-type]
