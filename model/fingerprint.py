"""What identifies a model: 128 bits of a digest of its network and weights (docs/container.md).

Tokens mean something to the model that made them only, so containers carry this number. It is the
same for a float32 checkpoint and its bfloat16 copy, and whatever the model is called or sampled
with.
"""

import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from flowmo.model.config import FlowMoConfig
from flowmo.model.errors import CheckpointError

DIGITS = 32

# Parts of a config that do not change what tokens mean.
_NOT_IDENTITY = frozenset({"name", "sampler"})
_PATTERN = re.compile(rf"[0-9a-f]{{{DIGITS}}}")


def is_fingerprint(text: object) -> bool:
    """Whether ``text`` is written as a fingerprint is: 32 lower-case hex digits."""
    return isinstance(text, str) and _PATTERN.fullmatch(text) is not None


def compute_fingerprint(config: FlowMoConfig, state: Mapping[str, Tensor]) -> str:
    """The first 128 bits of SHA-256 over the network's config and every weight.

    The digest takes, in this order: the config's identity as JSON (sorted keys, no spaces, ASCII)
    and a zero byte; then for each tensor, sorted by name, its name in UTF-8, a zero byte, its shape
    as JSON, a zero byte, and its values rounded to bfloat16 (to nearest, ties to even), row-major,
    little-endian.

    Args:
        config: The config of the model.
        state: Its state dict, on any device, in any floating dtype that bfloat16 can round.

    Returns:
        32 lower-case hex digits.

    Raises:
        CheckpointError: The weights are on the meta device, so there are no values.
    """
    return digest_of(_identity(config), state)


def digest_of(identity: Mapping[str, Any], state: Mapping[str, Tensor]) -> str:
    """The digest of :func:`compute_fingerprint` for a model of any kind.

    Args:
        identity: What defines the network, JSON-safe.
        state: Its state dict.

    Returns:
        32 lower-case hex digits.

    Raises:
        CheckpointError: The weights are on the meta device, so there are no values.
    """
    digest = hashlib.sha256(_json(identity) + b"\0")
    for name in sorted(state):
        tensor = state[name].detach()
        if tensor.is_meta:
            raise CheckpointError(
                f"{name} is on the meta device and has no values, so the model has no "
                f"fingerprint; load its weights first"
            )
        digest.update(name.encode() + b"\0" + _json(list(tensor.shape)) + b"\0")
        rounded = tensor.to("cpu", torch.bfloat16).contiguous().view(torch.int16)
        digest.update(rounded.numpy().astype("<i2", copy=False).tobytes())
    return digest.hexdigest()[:DIGITS]


def identity_digest(config: FlowMoConfig) -> str:
    """A digest of the part of a fingerprint that is the config's: 32 hex digits."""
    return hashlib.sha256(_json(_identity(config))).hexdigest()[:DIGITS]


def _identity(config: FlowMoConfig) -> dict[str, Any]:
    """The network-defining fields that differ from their defaults.

    A field that is added to the config later has the default that older models imply, so leaving
    defaults out keeps every fingerprint ever given. For the same reason a default never changes.
    """
    values = config.to_dict()
    identity = without_defaults(type(config), values)
    for half in ("encoder", "decoder"):
        identity[half] = without_defaults(type(config.encoder), values[half])
    return {name: value for name, value in identity.items() if name not in _NOT_IDENTITY}


def without_defaults(cls: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a dataclass' JSON form that differ from their defaults."""
    defaults = {field.name: field.default for field in dataclasses.fields(cls)}
    return {
        name: value
        for name, value in values.items()
        if (tuple(value) if isinstance(value, list) else value) != defaults[name]
    }


def _json(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()
