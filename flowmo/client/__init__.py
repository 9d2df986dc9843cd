"""A typed client of a running server, for ordinary code and for coroutines (docs/client.md).

Example::

    with Client("http://127.0.0.1:8000") as client:
        encoded = client.tokenize(Path("photo.jpg").read_bytes())
        picture = client.detokenize(encoded.container, sampling=Sampling(seed=7, steps=8))
"""

from flowmo.client.async_client import AsyncClient
from flowmo.client.calls import CallOptions
from flowmo.client.client import Client
from flowmo.client.clock import AsyncClock, Clock
from flowmo.client.connection import DEFAULT_TIMEOUT, DEFAULT_URL
from flowmo.client.errors import (
    ClientError,
    ConnectionFailedError,
    ServerRefusedError,
    ServerTimeoutError,
    UnexpectedAnswerError,
)
from flowmo.client.generation import GeneratedImage, GeneratedTokens, GenerateOptions
from flowmo.client.retry import Retry
from flowmo.client.values import (
    DecodedImage,
    DecodeEvent,
    Degrade,
    EncodedImage,
    Fit,
    ImageFormat,
    ModelInfo,
    Preview,
    PriorInfo,
    Priority,
    Progress,
    Region,
    Sampling,
    Schedule,
)

__all__ = [
    "DEFAULT_TIMEOUT",
    "DEFAULT_URL",
    "AsyncClient",
    "AsyncClock",
    "CallOptions",
    "Client",
    "ClientError",
    "Clock",
    "ConnectionFailedError",
    "DecodeEvent",
    "DecodedImage",
    "Degrade",
    "EncodedImage",
    "Fit",
    "GenerateOptions",
    "GeneratedImage",
    "GeneratedTokens",
    "ImageFormat",
    "ModelInfo",
    "Preview",
    "PriorInfo",
    "Priority",
    "Progress",
    "Region",
    "Retry",
    "Sampling",
    "Schedule",
    "ServerRefusedError",
    "ServerTimeoutError",
    "UnexpectedAnswerError",
]
