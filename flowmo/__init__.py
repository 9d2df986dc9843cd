"""FlowMo, the diffusion-autoencoder image tokenizer: the names that users import.

    import flowmo

    tok = flowmo.load("tiny")                     # a name, a folder or a hub repository
    tokens = tok.encode(["photo.jpg", picture])   # paths, bytes, Pillow's images, arrays
    pictures = tok.decode(tokens, steps=8)
    prior = flowmo.load_prior("prior-tiny", tok)  # new images: tok.decode(prior.generate("scenes"))

Names are imported when they are first used, so that ``import flowmo`` (and with it the command's
``--help``) does not wait for torch, and the client never imports it.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from flowmo._version import __version__

if TYPE_CHECKING:
    from flowmo.client import (
        AsyncClient,
        Client,
        ClientError,
        ConnectionFailedError,
        DecodedImage,
        EncodedImage,
        GeneratedImage,
        GeneratedTokens,
        ModelInfo,
        Preview,
        PriorInfo,
        Progress,
        Retry,
        Sampling,
        ServerRefusedError,
        ServerTimeoutError,
        UnexpectedAnswerError,
    )
    from flowmo.generator import TokenGenerator, load_prior
    from flowmo.imaging.reading import ImageError
    from flowmo.model.config import PRESETS, FlowMoConfig, SamplerConfig, TransformerConfig, preset
    from flowmo.model.container import Container
    from flowmo.model.errors import (
        CheckpointError,
        ConfigError,
        ContainerCorruptedError,
        ContainerError,
        ContainerMismatchError,
        ContainerTruncatedError,
        ContainerVersionError,
        FlowMoError,
        NotAContainerError,
        TokenError,
    )
    from flowmo.model.flowmo import FlowMo
    from flowmo.model.image_tokens import ImageTokens
    from flowmo.model.inference import InferenceModel
    from flowmo.model.sampler import SamplerStep, noise, time_grid
    from flowmo.model.tokens import Tokens
    from flowmo.photographs import photograph_paths
    from flowmo.tokenizer import Tokenizer, load
    from flowmo.training import TrainConfig, recipe, train

__all__ = [
    "PRESETS",
    "AsyncClient",
    "CheckpointError",
    "Client",
    "ClientError",
    "ConfigError",
    "ConnectionFailedError",
    "Container",
    "ContainerCorruptedError",
    "ContainerError",
    "ContainerMismatchError",
    "ContainerTruncatedError",
    "ContainerVersionError",
    "DecodedImage",
    "EncodedImage",
    "FlowMo",
    "FlowMoConfig",
    "FlowMoError",
    "GeneratedImage",
    "GeneratedTokens",
    "ImageError",
    "ImageTokens",
    "InferenceModel",
    "ModelInfo",
    "NotAContainerError",
    "Preview",
    "PriorInfo",
    "Progress",
    "Retry",
    "SamplerConfig",
    "SamplerStep",
    "Sampling",
    "ServerRefusedError",
    "ServerTimeoutError",
    "TokenError",
    "TokenGenerator",
    "Tokenizer",
    "Tokens",
    "TrainConfig",
    "TransformerConfig",
    "UnexpectedAnswerError",
    "__version__",
    "load",
    "load_prior",
    "noise",
    "photograph_paths",
    "preset",
    "recipe",
    "time_grid",
    "train",
]

_ORIGINS = {
    "flowmo.client": (
        "AsyncClient",
        "Client",
        "ClientError",
        "ConnectionFailedError",
        "DecodedImage",
        "EncodedImage",
        "GeneratedImage",
        "GeneratedTokens",
        "ModelInfo",
        "Preview",
        "PriorInfo",
        "Progress",
        "Retry",
        "Sampling",
        "ServerRefusedError",
        "ServerTimeoutError",
        "UnexpectedAnswerError",
    ),
    "flowmo.generator": ("TokenGenerator", "load_prior"),
    "flowmo.imaging.reading": ("ImageError",),
    "flowmo.model.config": (
        "PRESETS",
        "FlowMoConfig",
        "SamplerConfig",
        "TransformerConfig",
        "preset",
    ),
    "flowmo.model.container": ("Container",),
    "flowmo.model.errors": (
        "CheckpointError",
        "ConfigError",
        "ContainerCorruptedError",
        "ContainerError",
        "ContainerMismatchError",
        "ContainerTruncatedError",
        "ContainerVersionError",
        "FlowMoError",
        "NotAContainerError",
        "TokenError",
    ),
    "flowmo.model.flowmo": ("FlowMo",),
    "flowmo.model.image_tokens": ("ImageTokens",),
    "flowmo.model.inference": ("InferenceModel",),
    "flowmo.model.sampler": ("SamplerStep", "noise", "time_grid"),
    "flowmo.model.tokens": ("Tokens",),
    "flowmo.photographs": ("photograph_paths",),
    "flowmo.tokenizer": ("Tokenizer", "load"),
    "flowmo.training": ("TrainConfig", "recipe", "train"),
}
_MODULE_OF = {name: module for module, names in _ORIGINS.items() for name in names}


if not TYPE_CHECKING:  # to a type checker it would make any misspelt name right

    def __getattr__(name: str) -> object:
        if name not in _MODULE_OF:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(import_module(_MODULE_OF[name]), name)
        globals()[name] = value  # the next access does not come here
        return value


def __dir__() -> list[str]:
    return sorted(__all__)
