from tests.service.fixtures import (
    checkpoint,
    container,
    http,
    inference_model,
    other_checkpoint,
    prior_checkpoint,
    runner,
    server,
)

__all__ = [
    "checkpoint",
    "container",
    "http",
    "inference_model",
    "other_checkpoint",
    "prior_checkpoint",
    "runner",
    "server",
]
