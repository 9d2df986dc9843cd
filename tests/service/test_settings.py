from pathlib import Path

import pytest
from pydantic import ValidationError

from flowmo.service.settings import Settings


def test_arguments_win_over_the_environment_and_it_over_defaults(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FLOWMO_PORT", "9001")
    monkeypatch.setenv("FLOWMO_QUEUE_SIZE", "7")
    settings = Settings(port=9002)
    assert (settings.port, settings.queue_size) == (9002, 7)
    assert settings.host == "127.0.0.1"


@pytest.mark.parametrize(
    ("name", "value"),
    [("PORT", "70000"), ("QUEUE_SIZE", "0"), ("DTYPE", "int8"), ("MAX_STEPS", "1001")],
)
def test_values_out_of_range_are_refused(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(f"FLOWMO_{name}", value)
    with pytest.raises(ValidationError, match=name.lower()):
        Settings()


def test_settings_are_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Settings().port = 1


def test_the_default_checkpoint_lies_beside_the_packages() -> None:
    root = Path(__file__).parents[2]
    assert Settings().checkpoint == str(root / "flowmo" / "checkpoints" / "tiny")
