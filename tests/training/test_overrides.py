"""Changing single fields of a recipe from the command line."""

import pytest

from flowmo.model.errors import ConfigError
from flowmo.training.overrides import override, parse_assignments
from flowmo.training.recipes import recipe


def test_values_are_read_by_the_type_of_their_field() -> None:
    config = override(
        recipe("tiny-pretrain"),
        parse_assignments(
            [
                "optimizer.learning_rate=3e-4",
                "optimizer.betas=0.8, 0.9",
                "optimizer.grad_clip=none",
                "data.paths=photos/*.tar,more",
                "data.horizontal_flip=no",
                "model.decoder.depth=3",
                "max_minutes=90",
                "steps=100_000",
                "precision=float32",
                "encoder_freeze_step=none",
            ]
        ),
    )
    assert config.optimizer.learning_rate == 3e-4
    assert config.optimizer.betas == (0.8, 0.9)
    assert config.optimizer.grad_clip is None
    assert config.data.paths == ("photos/*.tar", "more")
    assert config.data.horizontal_flip is False
    assert config.model.decoder.depth == 3
    assert config.max_minutes == 90.0
    assert config.steps == 100_000
    assert config.precision == "float32"
    assert config.encoder_freeze_step is None


def test_the_recipe_itself_is_unchanged_and_the_last_assignment_wins() -> None:
    config = recipe("fewer-params")
    changed = override(config, parse_assignments(["steps=5", "steps=7"]))
    assert (config.steps, changed.steps) == (recipe("fewer-params").steps, 7)


def test_fields_that_only_fit_together_are_validated_together() -> None:
    config = override(
        recipe("tiny-pretrain"),
        {"model.encoder.width": "80", "model.encoder.heads": "5", "batch_size": "9",
         "accumulation": "3"},
    )  # fmt: skip
    assert config.model.encoder.head_dim == 16
    assert sum(config.model.encoder.rope_dims) == 16


def test_a_given_rotary_split_is_kept() -> None:
    changes = {
        "model.encoder.width": "96",
        "model.encoder.heads": "6",
        "model.encoder.rope_dims": "4,6,6",
    }
    assert override(recipe("tiny-pretrain"), changes).model.encoder.rope_dims == (4, 6, 6)


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("optimizer.learning_rat=1", "did you mean optimizer.learning_rate"),
        ("learning_rate=1", "did you mean optimizer.learning_rate"),
        ("zzz=1", "no field 'zzz'; The fields are: accumulation, batch_size"),
        ("optimizer=1", "no field 'optimizer'"),
        ("steps=many", "steps must be a whole number, got 'many'"),
        ("steps=1.5", "steps must be a whole number, got '1.5'"),
        ("ema_decay=high", "ema_decay must be a number, got 'high'"),
        ("compile=perhaps", "compile must be true or false, got 'perhaps'"),
        ("precision=int8", "precision must be one of"),
        ("optimizer.betas=0.9", "optimizer.betas must have 2 values"),
        ("ema_decay=1.5", "ema_decay must lie in 0 ... 1"),
        ("steps", "an override is written field=value"),
        ("=3", "an override is written field=value"),
    ],
)
def test_mistakes_are_explained(assignment: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        override(recipe("fewer-params"), parse_assignments([assignment]))
