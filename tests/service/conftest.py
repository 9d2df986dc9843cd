from tests.service.fixtures import checkpoint, codec, http, other_checkpoint, runner, server

__all__ = ["checkpoint", "codec", "http", "other_checkpoint", "runner", "server"]
