"""Everything an operator can set, from the environment (``FLOWMO_PORT=8080``) or the command line.

Flags of ``flowmo serve`` win over the environment, which wins over the defaults here.
"""

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from flowmo.imaging.reading import DEFAULT_MAX_PIXELS
from flowmo.model.config import MAX_STEPS
from flowmo.service.engine.calls import DEFAULT_MAX_QUEUE, Batching
from flowmo.service.engine.sizes import TORCH
from flowmo.service.http.admission import DEFAULT_MAX_CONCURRENT_REQUESTS

# The demo checkpoint that ships with the repository.
DEFAULT_CHECKPOINT = Path(__file__).parents[1] / "checkpoints" / "tiny"
DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORT = 8000
DEFAULT_MAX_BODY_BYTES = 32 * 1024 * 1024
DEFAULT_BODY_SECONDS = 30.0
DEFAULT_DRAIN_SECONDS = 30.0
DEFAULT_QUEUE_BYTES = 256 * 1024 * 1024
DEFAULT_CACHE_BYTES = 64 * 1024 * 1024
DEFAULT_DEADLINE_SECONDS = 120.0
DEFAULT_MAX_DEADLINE_SECONDS = 600.0
DEFAULT_IMAGE_THREADS = 2
DEFAULT_MAX_ITEMS = 64

Device = str
Dtype = Literal["auto", "float32", "bfloat16", "float16"]
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


class Settings(BaseSettings):
    """Settings of one server process; validated, frozen.

    Raises:
        pydantic.ValidationError: a value is out of its range.
    """

    model_config = SettingsConfigDict(env_prefix="FLOWMO_", frozen=True, extra="forbid")

    checkpoint: str = Field(
        default=str(DEFAULT_CHECKPOINT), description="Checkpoint folder or hub repository."
    )
    models: Annotated[dict[str, str], NoDecode, BeforeValidator(_named)] = Field(
        default={},
        description="Checkpoints by name, instead of checkpoint; the first is the default. In the "
        "environment NAME=CHECKPOINT,NAME=CHECKPOINT.",
    )
    host: str = Field(default=DEFAULT_HOST, description="Address to listen on.")
    port: int = Field(default=DEFAULT_PORT, ge=0, le=65535, description="Port; 0 takes a free one.")
    api_keys_file: Path | None = Field(
        default=None, description="TOML file of API keys (docs/access.md)."
    )
    api_keys: str = Field(
        default="", description="API keys as NAME:SHA256,NAME:SHA256; in addition to the file's."
    )
    allow_anonymous: bool = Field(
        default=False, description="Listen beyond this machine although anybody may ask."
    )
    device: Device = Field(default="auto", description="auto, cpu, cuda or cuda:N.")
    dtype: Dtype = Field(default="auto", description="Of weights and activations.")
    threads: int | None = Field(
        default=None, ge=0, description="CPU threads for one operation; 0 measures how many."
    )
    runner: str = Field(
        default=TORCH,
        description="What computes: torch, compiled, compiled-fp8, onnxruntime or tensorrt "
        "(docs/compiling.md), or module:function that makes a runner.",
    )
    engine_cache: Path | None = Field(
        default=None, description="Folder of exported graphs and engines; the user's cache."
    )
    build_engines: bool = Field(
        default=False, description="Make what is missing there when the server starts."
    )
    max_body_bytes: int = Field(
        default=DEFAULT_MAX_BODY_BYTES, ge=1024, description="Largest request body, in bytes."
    )
    max_pixels: int = Field(
        default=DEFAULT_MAX_PIXELS,
        ge=1,
        le=89_000_000,
        description="Most pixels of an uploaded image.",
    )
    max_steps: int = Field(
        default=MAX_STEPS,
        ge=1,
        le=MAX_STEPS,
        description="Most sampler steps a client may ask for.",
    )
    queue_size: int = Field(
        default=DEFAULT_MAX_CONCURRENT_REQUESTS,
        ge=1,
        description="Requests inside at once; more get 429.",
    )
    queue_bytes: int = Field(
        default=DEFAULT_QUEUE_BYTES,
        ge=1024,
        description="Bytes of request bodies inside at once; more get 429.",
    )
    max_queue: int = Field(
        default=DEFAULT_MAX_QUEUE,
        ge=1,
        description="Pictures inside each of a model's engines at once; more get 429.",
    )
    max_batch: int | None = Field(
        default=None,
        ge=2,
        description="Most rows of one batch; what suits the device by default.",
    )
    batching: Batching = Field(
        default="step",
        description="step; request and single are there to be compared with it.",
    )
    default_deadline_seconds: float = Field(
        default=DEFAULT_DEADLINE_SECONDS,
        gt=0,
        description="Time for a request that does not say how long it may take.",
    )
    max_deadline_seconds: float = Field(
        default=DEFAULT_MAX_DEADLINE_SECONDS,
        gt=0,
        description="Most time a request can have, whatever it says.",
    )
    cache_bytes: int = Field(
        default=DEFAULT_CACHE_BYTES,
        ge=0,
        description="Decoded pictures kept for requests that repeat, in bytes; 0 keeps none.",
    )
    deadline_margin_seconds: float = Field(
        default=0.0,
        ge=0,
        description="How much earlier than its deadline a request is given up, for a proxy that "
        "would give it up, too, and say less.",
    )
    max_items: int = Field(
        default=DEFAULT_MAX_ITEMS, ge=1, description="Most pictures of one batch request."
    )
    image_threads: int = Field(
        default=DEFAULT_IMAGE_THREADS, ge=1, description="Images decoded or encoded at once."
    )
    body_seconds: float = Field(
        default=DEFAULT_BODY_SECONDS, gt=0, description="Longest time for a body to arrive."
    )
    drain_seconds: float = Field(
        default=DEFAULT_DRAIN_SECONDS, ge=0, description="Longest wait for requests at shutdown."
    )
    log_format: LogFormat = Field(
        default="text", description="Of log lines: for people, or a JSON object each."
    )
    log_level: LogLevel = Field(default="info", description="Least severe log line shown.")
