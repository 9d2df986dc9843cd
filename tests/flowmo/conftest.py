import pytest

from tests.flowmo.scripted import Asker
from tests.service.fixtures import (
    checkpoint,
    http,
    inference_model,
    other_checkpoint,
    prior_checkpoint,
    runner,
    server,
)

__all__ = [
    "checkpoint",
    "http",
    "inference_model",
    "other_checkpoint",
    "prior_checkpoint",
    "runner",
    "server",
]


@pytest.fixture(params=["sync", "async"])
def ask(request: pytest.FixtureRequest) -> Asker:
    """Calls a method, once with each kind of client."""
    return Asker(request.param)
