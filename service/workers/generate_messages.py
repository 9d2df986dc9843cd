"""Generations that go to an engine process and come back, as frames have them."""

from dataclasses import asdict
from typing import Any

import numpy as np

from flowmo.model.prior.sampler_config import PriorSamplerConfig
from flowmo.model.tokens import Tokens
from flowmo.service.engine.calls import Call
from flowmo.service.engine.generate_calls import Generated, GenerateOptions, GenerateProgress
from flowmo.service.workers.frames import Frame, Streams
from flowmo.service.workers.messages import (
    call_to_dict,
    timings_from,
    timings_to_dict,
    tokens_of,
)


def send_wish(
    streams: Streams, model: int, options: GenerateOptions, call: Call, previews: list[int] | None
) -> None:
    """Ask for a generation; ``previews`` are the steps that are shown, None for no report."""
    head: dict[str, Any] = {
        "op": "generate",
        "model": model,
        "call": call_to_dict(call),
        "previews": previews,
        "options": {
            "class_number": options.class_number,
            "seed": options.seed,
            "sampler": asdict(options.sampler),
            "degrade": options.degrade,
            "prior": options.prior,
            "patience": options.patience,
        },
    }
    if options.known is None or options.kept is None:
        streams.send(head)
        return
    known = options.known
    head |= {"shape": known.ids.shape, "group_bits": known.group_bits}
    streams.send(head, [known.ids, options.kept])


def wish_of(frame: Frame) -> GenerateOptions:
    """The options of a generation."""
    values = dict(frame.head["options"])
    sampler = _sampler_from(values.pop("sampler"))
    if not frame.parts:
        return GenerateOptions(**values, sampler=sampler)
    kept = np.frombuffer(frame.parts[1], np.bool_)
    return GenerateOptions(**values, sampler=sampler, known=tokens_of(frame), kept=kept)


def send_generated(streams: Streams, generated: Generated) -> None:
    """Answer a generation."""
    head = {
        "kind": "generated",
        "shape": generated.tokens.ids.shape,
        "group_bits": generated.tokens.group_bits,
        "sampler": asdict(generated.sampler),
        "prior": generated.prior,
        "timings": timings_to_dict(generated.timings),
    }
    streams.send(head, [generated.tokens.ids])


def generated_of(frame: Frame) -> Generated:
    """The result of a generation."""
    return Generated(
        tokens=tokens_of(frame),
        sampler=_sampler_from(frame.head["sampler"]),
        prior=frame.head["prior"],
        timings=timings_from(frame.head),
    )


def send_progress(streams: Streams, progress: GenerateProgress) -> None:
    """Report a step."""
    head = {"kind": "progress", "step": progress.step, "steps": progress.steps}
    if (tokens := progress.tokens) is None:
        streams.send(head)
    else:
        head |= {"shape": tokens.ids.shape, "group_bits": tokens.group_bits}
        streams.send(head, [tokens.ids])


def progress_of(frame: Frame) -> GenerateProgress:
    """A step's report."""
    tokens: Tokens | None = tokens_of(frame) if frame.parts else None
    return GenerateProgress(step=frame.head["step"], steps=frame.head["steps"], tokens=tokens)


def _sampler_from(values: dict[str, Any]) -> PriorSamplerConfig:
    first, last = values["annealing"]
    return PriorSamplerConfig(**{**values, "annealing": (first, last)})
