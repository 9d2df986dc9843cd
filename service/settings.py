"""Everything an operator can set, from the environment (``FLOWMO_PORT=8080``) or the command line.

Options of ``flowmo serve`` win over the environment, which wins over the defaults here. Options,
help and docs/settings.md are made from these fields.
"""

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from flowmo.imaging.reading import DEFAULT_MAX_PIXELS
from flowmo.model.config import MAX_STEPS
from flowmo.service.engine.config import RunnerConfig
from flowmo.service.http.admission import DEFAULT_MAX_CONCURRENT_REQUESTS
from flowmo.service.setting import PREFIX, Panel, setting

DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORT = 8000

LogFormat = Literal["text", "json"]
LogLevel = Literal["critical", "error", "warning", "info", "debug"]

MODEL_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"


def _named(value: object) -> object:
    """``NAME=CHECKPOINT`` texts, several or separated by commas, to checkpoints by name."""
    if isinstance(value, str):
        value = [item for item in value.split(",") if item.strip()]
    if not isinstance(value, list | tuple):
        return value
    checkpoints: dict[str, str] = {}
    for item in value:
        name, _, checkpoint = (part.strip() for part in str(item).partition("="))
        if not (re.match(MODEL_NAME, name) and checkpoint):
            raise ValueError(
                f"expected NAME=CHECKPOINT, the name of letters, digits and . _ -, got {item!r}"
            )
        if name in checkpoints:
            raise ValueError(f"two models are named {name!r}; give each its own name")
        checkpoints[name] = checkpoint
    return checkpoints


_ORIGIN = re.compile(r"https?://(\[[0-9a-f:]+\]|[a-z0-9.-]+)(:\d{1,5})?")


def _origins(value: object) -> object:
    """Origins, several or separated by commas, or ``*``."""
    if isinstance(value, str):
        value = [item.strip() for item in value.split(",") if item.strip()]
    if not isinstance(value, list | tuple):
        return value
    for item in value:
        if item != "*" and not _ORIGIN.fullmatch(str(item)):
            raise ValueError(
                f"expected an origin as browsers send it, as in https://example.org or "
                f"http://localhost:5173 (lower case, no path, no slash at the end), or *, "
                f"got {item!r}"
            )
    return tuple(value)


class Settings(RunnerConfig, BaseSettings):
    """Settings of one server process; validated, frozen.

    Raises:
        pydantic.ValidationError: A value is out of its range.
    """

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_ignore_empty=True, frozen=True, extra="forbid"
    )

    models: Annotated[dict[str, str], NoDecode, BeforeValidator(_named)] = setting(
        Panel.MODEL,
        "Several checkpoints by name, the first the default: the option repeated, or in the "
        "environment NAME=CHECKPOINT,NAME=CHECKPOINT.",
        default={},
        flag="--model",
    )
    host: str = setting(Panel.NETWORK, "The address to listen on.", default=DEFAULT_HOST)
    port: int = setting(
        Panel.NETWORK, "The port; 0 takes a free one.", default=DEFAULT_PORT, ge=0, le=65535
    )
    api_keys_file: Path | None = setting(
        Panel.NETWORK, "A TOML file of API keys (docs/access.md).", default=None
    )
    api_keys: str = setting(
        Panel.NETWORK,
        "API keys as NAME:SHA256,NAME:SHA256; in addition to the file's.",
        default="",
    )
    quota_store: str = setting(
        Panel.NETWORK,
        "The URL of a Redis in which gateways count the use of keys together (docs/access.md).",
        default="",
    )
    quota_store_password_file: Path | None = setting(
        Panel.NETWORK,
        "A file with the password of the quota store, where its URL has none.",
        default=None,
    )
    allow_anonymous: bool = setting(
        Panel.NETWORK, "Listen beyond this machine although anybody may ask.", default=False
    )
    playground: bool = setting(
        Panel.NETWORK,
        "Serve a page to play on at / and the API's documentation at /docs.",
        default=True,
    )
    cors_origins: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_origins)] = setting(
        Panel.NETWORK,
        "An origin whose pages may call the API, or * for all; the option repeated, or in the "
        "environment ORIGIN,ORIGIN.",
        default=(),
        unset="only the server's own",
        flag="--cors-origin",
    )
    workers: int = setting(
        Panel.NETWORK,
        "Processes that answer HTTP; with 2 or more the engines are in one more (docs/engine.md).",
        default=1,
        ge=1,
        le=64,
    )
    grpc_port: int | None = setting(
        Panel.NETWORK,
        "The port of the Open Inference Protocol over gRPC (extra grpc); 0 takes a free one.",
        default=None,
        unset="no gRPC",
        ge=0,
        le=65535,
    )
    shared_memory: bool = setting(
        Panel.NETWORK,
        "Let clients on this machine pass tensors in shared memory (Open Inference Protocol).",
        default=False,
    )
    max_header_bytes: int = setting(
        Panel.NETWORK,
        "The largest request line and headers together, in bytes; more get 431.",
        default=32 * 1024,
        ge=1024,
    )
    header_seconds: float = setting(
        Panel.NETWORK, "The longest time for a request's headers to arrive.", default=10.0, gt=0
    )
    send_seconds: float = setting(
        Panel.NETWORK,
        "The longest time that a client may leave an answer unread; then it is cut off.",
        default=30.0,
        gt=0,
    )
    max_concurrent_requests: int = setting(
        Panel.LIMITS,
        "Requests inside at once; more get 429.",
        default=DEFAULT_MAX_CONCURRENT_REQUESTS,
        ge=1,
    )
    max_concurrent_bytes: int = setting(
        Panel.LIMITS,
        "Bytes of request bodies inside at once; more get 429.",
        default=256 * 1024 * 1024,
        ge=1024,
    )
    max_body_bytes: int = setting(
        Panel.LIMITS, "The largest request body, in bytes.", default=32 * 1024 * 1024, ge=1024
    )
    body_seconds: float = setting(
        Panel.LIMITS, "The longest time for a body to arrive.", default=30.0, gt=0
    )
    max_pixels: int = setting(
        Panel.LIMITS,
        "The most pixels of an uploaded image, and of what tokens decode to.",
        default=DEFAULT_MAX_PIXELS,
        ge=1,
        le=89_000_000,
    )
    max_tiles: int = setting(
        Panel.LIMITS,
        "The most tiles of one picture, whose decode takes as many rows a step; more get 413.",
        default=4096,
        ge=1,
        le=65_536,
    )
    max_steps: int = setting(
        Panel.LIMITS,
        "The most sampler steps that a client may ask for.",
        default=MAX_STEPS,
        ge=1,
        le=MAX_STEPS,
    )
    max_items: int = setting(
        Panel.LIMITS, "The most pictures of one batch request.", default=64, ge=1
    )
    default_deadline_seconds: float = setting(
        Panel.LIMITS,
        "The time for a request that does not say how long it may take.",
        default=120.0,
        gt=0,
    )
    max_deadline_seconds: float = setting(
        Panel.LIMITS,
        "The most time that a request can have, whatever it says.",
        default=600.0,
        gt=0,
    )
    deadline_margin_seconds: float = setting(
        Panel.LIMITS,
        "How much earlier than its deadline a request is given up, for a proxy that would give it "
        "up, too, and say less.",
        default=0.0,
        ge=0,
    )
    drain_seconds: float = setting(
        Panel.LIMITS, "The longest wait for requests at shutdown.", default=30.0, ge=0
    )
    image_threads: int | None = setting(
        Panel.ENGINE,
        "Image files read at once, each in a process of its own, and written at once.",
        default=None,
        unset="one a processor, 2 to 16",
        ge=1,
    )
    image_seconds: float = setting(
        Panel.LIMITS,
        "The longest time to decode an uploaded image; then its process is ended.",
        default=10.0,
        gt=0,
    )
    cache_bytes: int = setting(
        Panel.ENGINE,
        "Decoded pictures kept for requests that repeat, in bytes, and an eighth as much of "
        "generated tokens; 0 keeps none.",
        default=64 * 1024 * 1024,
        ge=0,
    )
    log_format: LogFormat = setting(
        Panel.LOGGING, "The form of log lines: for people, or a JSON object each.", default="text"
    )
    log_level: LogLevel = setting(
        Panel.LOGGING, "The least severe log lines that are written.", default="info"
    )

    def runner_config(self, checkpoint: str | None = None) -> RunnerConfig:
        """How one of the models is loaded and computed.

        Args:
            checkpoint: Its checkpoint; the setting's by default.
        """
        shared = {name: getattr(self, name) for name in RunnerConfig.model_fields}
        return RunnerConfig(**shared | ({} if checkpoint is None else {"checkpoint": checkpoint}))
