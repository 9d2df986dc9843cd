"""The protocol's model ``generate``: a class and a seed a row, to tokens and pictures."""

from dataclasses import dataclass, replace

import numpy as np

from flowmo.imaging.reading import Pixels
from flowmo.model.image_tokens import ImageTokens
from flowmo.model.prior.config import PriorConfig
from flowmo.service.engine.calls import DecodeOptions
from flowmo.service.engine.generate_calls import GenerateOptions
from flowmo.service.errors import TensorError
from flowmo.service.http.generation import Generation, check_limits, wish_of
from flowmo.service.http.job import Job
from flowmo.service.http.oip import models
from flowmo.service.http.oip.models import GenerateParameters
from flowmo.service.http.oip.rows import each, errors_of
from flowmo.service.http.oip.tensors import Parsed, Placement, Tensor
from flowmo.service.http.request_scope import WorkScope
from flowmo.service.http.service import Service

_INPUTS = ("class", "seed", "ids", "mask")


@dataclass(frozen=True, slots=True)
class _Made:
    tokens: ImageTokens
    pixels: Pixels | None


async def generate(
    service: Service, scope: WorkScope, job: Job, parsed: Parsed, wanted: dict[str, Placement]
) -> list[Tensor]:
    """Generate a row's tokens, and decode them where a picture is wanted.

    Raises:
        RowError: A row failed, and the request did not ask for the output ``error``.
        TensorError: The tensors cannot be used.
    """
    options = models.options_of(parsed.request, GenerateParameters)
    check_limits(service, options)
    generation = Generation(service, scope, job)
    wishes = _wishes(parsed, options, generation, job)
    sampler = job.info.sampler.changed(steps=options.decode_steps)
    with_pixels = bool({"image", "file"} & wanted.keys())

    async def one(wish: GenerateOptions) -> _Made:
        made = await generation.generate(wish, waits=True)
        tokens = generation.image_tokens(made)
        if not with_pixels:
            return _Made(tokens, None)
        decoded = await job.pixels(tokens, DecodeOptions(seed=wish.seed, sampler=sampler))
        return _Made(tokens, decoded.pixels)

    found = await each(service, job, wishes, one, partial="error" in wanted)
    config, size = job.info.config, job.info.image_size
    ids = np.zeros((len(found), config.code_length, config.ids_per_token), np.int32)
    images = np.zeros((len(found), size, size, 3) if "image" in wanted else 0, np.uint8)
    containers, files = [b""] * len(found), [b""] * len(found)
    for row, made in enumerate(found):
        if isinstance(made, Exception):
            continue
        ids[row] = made.tokens.ids
        containers[row] = made.tokens.to_bytes()
        if made.pixels is not None and "image" in wanted:
            images[row] = made.pixels
        if made.pixels is not None and "file" in wanted:
            files[row] = await job.render(made.pixels, options.format, options.quality)
    outputs = {
        "ids": Tensor("ids", ids.shape, ids),
        "container": Tensor("container", (len(found),), containers),
        "image": Tensor("image", images.shape, images),
        "file": Tensor("file", (len(found),), files),
        "error": errors_of(service, found),
    }
    return [outputs[name] for name in wanted]


def _wishes(
    parsed: Parsed, options: GenerateParameters, generation: Generation, job: Job
) -> list[GenerateOptions]:
    """What each row asks for.

    Raises:
        TensorError: An input is unknown, or they have different rows.
        ConfigError: There is no such class.
    """
    tensors, config = parsed.tensors, generation.prior.config
    if unknown := tensors.keys() - set(_INPUTS):
        raise TensorError(f"the inputs are {', '.join(_INPUTS)}; got {', '.join(sorted(unknown))}")
    counts = {tensor.shape[0] if tensor.shape else 0 for tensor in tensors.values()}
    if len(counts) != 1 or ("ids" in tensors) != ("mask" in tensors):
        raise TensorError(
            f"the inputs have a row for each image, and ids and mask go together; got "
            f"{', '.join(f'{one.name} {list(one.shape)}' for one in tensors.values())}"
        )
    rows = counts.pop()
    base = wish_of(generation.prior, options)
    classes = [base.class_number] * rows
    if "class" in tensors:
        classes = [_class_of(text, config) for text in models.elements(tensors["class"])]
    seeds = models.seeds_of(parsed, rows, options.seed)
    wishes = [
        replace(base, class_number=number, seed=seed)
        for number, seed in zip(classes, seeds, strict=True)
    ]
    if "ids" not in tensors:
        return wishes
    known = models.token_sets_of(tensors["ids"], job.info)
    masks = models.numbers(tensors["mask"], (config.code_length,), "UINT8")
    return [
        generation.kept(wish, tokens, (mask != 0).tolist())
        for wish, tokens, mask in zip(wishes, known, masks, strict=True)
    ]


def _class_of(text: bytes, config: PriorConfig) -> int:
    return config.class_number(text.decode(errors="replace") or None)
