"""Values that go to an engine process and come back, as frames have them."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from types import FunctionType
from typing import Any

import numpy as np

from flowmo.imaging.reading import Pixels
from flowmo.model.config import FlowMoConfig, SamplerConfig
from flowmo.model.errors import FlowMoError
from flowmo.model.layout import PictureLayout
from flowmo.model.prior.config import PriorConfig
from flowmo.model.tokens import Tokens
from flowmo.service.engine.calls import (
    Call,
    Decoded,
    DecodeOptions,
    DecodeProgress,
    Encoded,
    Timings,
)
from flowmo.service.engine.messages import CallMessage
from flowmo.service.engine.model_info import ModelInfo, PriorInfo
from flowmo.service.engine.observer import EngineKind
from flowmo.service.errors import RequestError, UnavailableError
from flowmo.service.workers.frames import Frame, Streams

# What a client or the load did; anything else is a bug, and fails as one.
EXPECTED = (RequestError, FlowMoError)


def _kinds(root: type[Exception]) -> Iterator[type[Exception]]:
    yield root
    for kind in root.__subclasses__():
        yield from _kinds(kind)


_SAMPLER = tuple(one.name for one in fields(SamplerConfig))
# Those of one text, which is all that engines raise.
_ERRORS = {
    kind.__name__: kind
    for root in EXPECTED
    for kind in _kinds(root)
    if issubclass(kind, UnavailableError) or not isinstance(kind.__init__, FunctionType)
}


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelStatus:
    """One model of an engine process, as it is now.

    Attributes:
        name: The name that clients use.
        info: The model's shapes, weights and device.
        ready: Whether it is warmed up and working.
        complaint: Why it is not alive; None when it is.
        waiting: The number of pictures inside.
        backlog_seconds: The time until the decoder has a free slot.
        busy_seconds: The age of the batch that runs now.
        slots: The rows of each engine's largest batch.
    """

    name: str
    info: ModelInfo
    ready: bool
    complaint: str | None
    waiting: int
    backlog_seconds: float
    busy_seconds: float
    slots: dict[EngineKind, int]

    def to_dict(self, known: ModelInfo | None = None) -> dict[str, Any]:
        """The status as JSON-safe values.

        Args:
            known: What the other side knows of the model: it is not said again.
        """
        values = {name: getattr(self, name) for name in self.__slots__}
        if self.info == known:
            return {**values, "info": None}
        info = {name: getattr(self.info, name) for name in ModelInfo.__slots__}
        prior = self.info.prior
        if prior is not None:
            info["prior"] = {"fingerprint": prior.fingerprint, "config": prior.config.to_dict()}
        return {**values, "info": {**info, "config": self.info.config.to_dict()}}

    @classmethod
    def from_dict(cls, values: dict[str, Any], known: ModelInfo | None = None) -> "ModelStatus":
        """Read :meth:`to_dict`'s form."""
        info = known
        if (told := values["info"]) is not None:
            config = FlowMoConfig.from_dict(told["config"])
            prior = told["prior"]
            if prior is not None:
                prior = PriorInfo(**{**prior, "config": PriorConfig.from_dict(prior["config"])})
            info = ModelInfo(**{**told, "config": config, "prior": prior})
        return cls(**{**values, "info": info})


def call_to_dict(call: Call) -> dict[str, Any]:
    """A call that is sent now."""
    message = CallMessage.of(call)
    return {
        "remaining": message.remaining,  # infinite for some, which Python's JSON can say
        "priority": message.priority,
        "tenant": message.tenant,
        "weight": message.weight,
    }


def call_from(head: dict[str, Any]) -> Call:
    """The call of a message, as it was received."""
    return CallMessage(**head["call"]).received()


def send_pixels(streams: Streams, model: int, pixels: Pixels, call: Call) -> None:
    """Ask for an encoding."""
    head = {
        "op": "encode",
        "model": model,
        "call": call_to_dict(call),
        "shape": pixels.shape,
    }
    streams.send(head, [pixels])


def send_tokens(
    streams: Streams,
    model: int,
    tokens: Tokens,
    options: DecodeOptions,
    call: Call,
    previews: list[int] | None,
) -> None:
    """Ask for a decode; ``previews`` are the steps whose estimate is wanted, None for no report."""
    head = {
        "op": "decode",
        "model": model,
        "call": call_to_dict(call),
        "shape": tokens.ids.shape,
        "group_bits": tokens.group_bits,
        "previews": previews,
        "options": {
            "seed": options.seed,
            "sampler": _sampler_to_dict(options.sampler),
            "degrade": options.degrade,
            "weights": options.weights,
            "patience": options.patience,
            "layout": None if options.layout is None else asdict(options.layout),
            "region": options.region,
        },
    }
    streams.send(head, [tokens.ids])


def pixels_of(frame: Frame) -> Pixels:
    """The pixels of a message."""
    return np.frombuffer(frame.parts[0], np.uint8).reshape(frame.head["shape"])


def tokens_of(frame: Frame) -> Tokens:
    """The tokens of a message."""
    ids = np.frombuffer(frame.parts[0], np.int32).reshape(frame.head["shape"])
    return Tokens(ids=ids, group_bits=frame.head["group_bits"])


def options_of(frame: Frame) -> DecodeOptions:
    """The options of a decode."""
    values = dict(frame.head["options"])
    layout, region = values.pop("layout"), values.pop("region")
    return DecodeOptions(
        **{**values, "sampler": _sampler_from(values["sampler"])},
        layout=None if layout is None else PictureLayout(**layout),
        region=None if region is None else tuple(region),
    )


def send_encoded(streams: Streams, encoded: Encoded) -> None:
    """Answer an encoding."""
    head = {
        "kind": "encoded",
        "shape": encoded.tokens.ids.shape,
        "group_bits": encoded.tokens.group_bits,
        "weights": encoded.weights,
        "timings": timings_to_dict(encoded.timings),
    }
    streams.send(head, [encoded.tokens.ids])


def send_decoded(streams: Streams, decoded: Decoded) -> None:
    """Answer a decode."""
    head = {
        "kind": "decoded",
        "shape": decoded.pixels.shape,
        "sampler": _sampler_to_dict(decoded.sampler),
        "timings": timings_to_dict(decoded.timings),
    }
    streams.send(head, [decoded.pixels])


def send_progress(streams: Streams, progress: DecodeProgress) -> None:
    """Report a step."""
    head = {"kind": "progress", "step": progress.step, "steps": progress.steps}
    if progress.preview is None:
        streams.send(head)
    else:
        streams.send({**head, "shape": progress.preview.shape}, [progress.preview])


def encoded_of(frame: Frame) -> Encoded:
    """The result of an encoding."""
    return Encoded(
        tokens=tokens_of(frame), weights=frame.head["weights"], timings=timings_from(frame.head)
    )


def decoded_of(frame: Frame) -> Decoded:
    """The result of a decode."""
    return Decoded(
        pixels=pixels_of(frame),
        sampler=_sampler_from(frame.head["sampler"]),
        timings=timings_from(frame.head),
    )


def progress_of(frame: Frame) -> DecodeProgress:
    """A step's report."""
    return DecodeProgress(
        step=frame.head["step"],
        steps=frame.head["steps"],
        preview=pixels_of(frame) if frame.parts else None,
    )


# By hand: reading a config strictly, as from a file, takes longer than all the rest of a call.
def _sampler_to_dict(sampler: SamplerConfig) -> dict[str, Any]:
    return {name: getattr(sampler, name) for name in _SAMPLER}


def _sampler_from(values: dict[str, Any]) -> SamplerConfig:
    tuples = {name: tuple(values[name]) for name in ("times", "guidance_interval")}
    return SamplerConfig(**{**values, **tuples})


def timings_to_dict(timings: Timings) -> dict[str, Any]:
    """Where the time went, as JSON-safe values."""
    return {"queue": timings.queue, "run": timings.run, "steps": timings.steps}


def timings_from(head: dict[str, Any]) -> Timings:
    """Where the time of a message's work went."""
    values = head["timings"]
    return Timings(**{**values, "steps": tuple(values["steps"])})


def error_to_dict(error: Exception) -> dict[str, Any]:
    """What an engine refused work with, or failed by."""
    head: dict[str, Any] = {"kind": "error", "type": type(error).__name__, "text": str(error)}
    if isinstance(error, UnavailableError):
        head["retry_after"] = error.retry_after
    return head


def error_of(frame: Frame) -> Exception:
    """The error as the engine raised it; a RuntimeError of one that it did not expect."""
    head = frame.head
    kind = _ERRORS.get(head["type"])
    if kind is None:
        return RuntimeError(f"the engine process failed ({head['type']}); its log says why")
    if issubclass(kind, UnavailableError):
        return kind(head["text"], retry_after=head["retry_after"])
    return kind(head["text"])
