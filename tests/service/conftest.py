from tests.service.fixtures import (
    checkpoint,
    codec,
    container,
    http,
    other_checkpoint,
    runner,
    server,
)

__all__ = ["checkpoint", "codec", "container", "http", "other_checkpoint", "runner", "server"]
