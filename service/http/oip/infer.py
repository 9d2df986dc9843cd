"""Inference as the protocol has it, whichever way the request came."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from flowmo.imaging.reading import Pixels
from flowmo.model.container import Container
from flowmo.model.errors import ContainerError, TokenError
from flowmo.model.image_tokens import ImageTokens
from flowmo.model.tokens import Tokens
from flowmo.service.errors import NotReadyError, RowError, TensorError, UnknownModelError
from flowmo.service.http.generation import generating_model
from flowmo.service.http.job import Job
from flowmo.service.http.oip import models
from flowmo.service.http.oip.generate import generate
from flowmo.service.http.oip.models import (
    DETOKENIZE,
    GENERATE,
    TOKENIZE,
    ImageParameters,
    PictureParameters,
)
from flowmo.service.http.oip.rows import each, errors_of
from flowmo.service.http.oip.shared_memory import REGION
from flowmo.service.http.oip.tensors import Parsed, Placement, Tensor, raw
from flowmo.service.http.picture import shaped
from flowmo.service.http.request_scope import WorkScope
from flowmo.service.http.routes.shared import decode_options, received_tokens
from flowmo.service.http.service import Service
from flowmo.service.models import Served

OUTPUTS = {
    TOKENIZE: ("ids", "container", "error"),
    DETOKENIZE: ("image", "file", "error"),
    GENERATE: ("ids", "container", "image", "file", "error"),
}
NAMES = (TOKENIZE, DETOKENIZE, GENERATE)


@dataclass(frozen=True, slots=True)
class Inferred:
    """What an inference gave.

    Attributes:
        job: What did the work.
        outputs: The tensors, in the order in which they were asked for.
        placements: Where each of them goes.
    """

    job: Job
    outputs: list[Tensor]
    placements: list[Placement]


def check_name(name: str) -> None:
    """Check that the protocol has a model of this name here.

    Raises:
        UnknownModelError: It has none.
    """
    if name not in NAMES:
        raise UnknownModelError(
            f"there is no model {name[:64]!r} in this protocol; there are {TOKENIZE}, {DETOKENIZE} "
            f"and {GENERATE}, with the models that are served as versions"
        )


def version_of(service: Service, name: str, version: str | None) -> Served:
    """The model that is a version of one of the protocol's models; the default without a version.

    Raises:
        NoPriorError: Tokens cannot be generated with it.
        UnknownModelError: There is no such model.
    """
    check_name(name)
    if name == GENERATE:
        return generating_model(service.models, version, None)
    return service.models.choose(version)


def _versions_of(service: Service, name: str) -> list[Served]:
    return [
        served
        for served in service.models
        if name != GENERATE or served.engines.generator is not None
    ]


def versions_of(service: Service, name: str) -> list[str]:
    """The versions of one of the protocol's models."""
    return [served.name for served in _versions_of(service, name)]


def check_ready(service: Service, name: str, version: str | None) -> None:
    """Check that a model takes requests.

    Raises:
        UnknownModelError: There is no such model.
        NotReadyError: It is warming up.
    """
    if not version_of(service, name, version).engines.ready:
        raise NotReadyError("the model is warming up")


def index_of(service: Service, *, ready: bool = False) -> list[dict[str, str]]:
    """The repository index: all models and versions, or those that are ready.

    Args:
        service: The parts that all routes share.
        ready: Whether only those that are ready are wanted.
    """
    found = []
    for name in NAMES:
        for served in _versions_of(service, name):
            is_ready = served.engines.ready
            if is_ready or not ready:
                state, reason = ("READY", "") if is_ready else ("LOADING", "it is warming up")
                found.append(
                    {"name": name, "version": served.name, "state": state, "reason": reason}
                )
    return found


def statistics_of(
    service: Service, name: str | None = None, version: str | None = None
) -> list[dict[str, object]]:
    """The statistics of all models, of one, or of one version.

    Raises:
        UnknownModelError: There is no such model.
    """
    if name is not None:
        check_name(name)
    wanted = None if version is None else service.models.choose(version)
    return [
        service.statistics.of(one, served.name)
        for one in (NAMES if name is None else (name,))
        for served in _versions_of(service, one)
        if wanted in {None, served}
    ]


async def infer(
    service: Service,
    scope: WorkScope,
    owner: str | None,
    name: str,
    served: Served,
    parsed: Parsed,
) -> Inferred:
    """Run a model on some rows.

    Args:
        service: The parts that all routes share.
        scope: What was admitted.
        owner: The name of the API key, whose shared memory outputs may go to.
        name: The model's name in the protocol.
        served: The model that does it: the version.
        parsed: The request.

    Raises:
        RowError: A row failed, and the request did not ask for the output ``error``.
        TensorError: The tensors cannot be used.
    """
    begin = time.perf_counter()
    job = Job.begin(service, scope, served, waits=True)
    try:
        placements = models.wanted_outputs(parsed.request, OUTPUTS[name])
        if name == GENERATE:
            outputs = await generate(service, scope, job, parsed, placements)
        else:
            run = _tokenize if name == TOKENIZE else _detokenize
            outputs = await run(service, job, parsed, placements)
        for tensor in outputs:
            where = placements[tensor.name]
            if where.region is not None:
                await asyncio.to_thread(service.regions.write, owner, where.region, raw(tensor))
    except BaseException:
        service.statistics.failed(name, served.name, time.perf_counter() - begin)
        raise
    seconds = time.perf_counter() - begin
    rows = len(outputs[0].values) if outputs else 0
    service.statistics.succeeded(name, served.name, rows, seconds, job.clock.seconds)
    return Inferred(job, outputs, [placements[tensor.name] for tensor in outputs])


def region_reader(
    service: Service, owner: str | None, *, is_local: bool
) -> Callable[[dict[str, bool | int | float | str]], bytes]:
    """What reads tensors from the shared memory of a client on this machine.

    Args:
        service: The parts that all routes share.
        owner: The name of the API key.
        is_local: Whether the client is on this machine.
    """

    def read(where: dict[str, bool | int | float | str]) -> bytes:
        if not is_local:
            raise TensorError(f"{REGION}: only clients on the server's own machine share memory")
        return service.regions.read(owner, where)

    return read


async def _tokenize(
    service: Service, job: Job, parsed: Parsed, wanted: dict[str, Placement]
) -> list[Tensor]:
    options = models.options_of(parsed.request, ImageParameters)
    sent = models.one_of(parsed, "image", "file")
    fit = options.fit_for(wanted)

    async def from_file(data: bytes) -> ImageTokens:
        upload = await job.read(data, fit)
        layout = job.layout_of(upload, options.overlap)
        if "ids" in wanted and layout.tiles > 1:
            raise TokenError(
                f"a picture of {layout.width} x {layout.height} pixels takes {layout.tiles} "
                f"tiles, and a row of ids is one: ask for the output container alone"
            )
        return await job.encode(upload.fitted.pixels, layout)

    partial = "error" in wanted
    if sent.name == "image":
        rows = models.pixels_of(sent, job.info)
        found = await each(service, job, rows, job.encode, partial=partial)
    else:
        found = await each(service, job, models.elements(sent), from_file, partial=partial)
    outputs: dict[str, Tensor] = {}
    if "ids" in wanted:
        config = job.info.config
        shape = (len(found), config.code_length, config.ids_per_token)
        ids = np.zeros(shape, models.ids_dtype(options, config))
        for row, tokens in enumerate(found):
            if isinstance(tokens, Tokens):
                ids[row] = tokens.ids
        outputs["ids"] = Tensor("ids", shape, ids)
    if "container" in wanted:
        packed = [tokens.to_bytes() if isinstance(tokens, ImageTokens) else b"" for tokens in found]
        outputs["container"] = Tensor("container", (len(found),), packed)
    outputs["error"] = errors_of(service, found)
    return [outputs[name] for name in wanted]


async def _detokenize(
    service: Service, job: Job, parsed: Parsed, wanted: dict[str, Placement]
) -> list[Tensor]:
    options = models.options_of(parsed.request, PictureParameters)
    sent = models.one_of(parsed, "ids", "container", also=("seed",))
    partial = "error" in wanted
    tokens: list[Tokens | Exception] = []
    if sent.name == "ids":
        tokens = list(models.token_sets_of(sent, job.info))
    else:
        for row, data in enumerate(models.elements(sent)):
            try:
                tokens.append(received_tokens(service, job.info, Container.from_bytes(data)))
            except (ContainerError, TokenError) as error:
                if not partial:
                    raise RowError(row, error) from None
                tokens.append(error)
    seeds = models.seeds_of(parsed, len(tokens), options.seed)
    base = decode_options(service, job.info, options)

    async def one(work: tuple[Tokens | Exception, int]) -> Pixels:
        if isinstance(work[0], Exception):
            raise work[0]
        layout = work[0].layout if isinstance(work[0], ImageTokens) else None
        size = job.info.image_size
        if "image" in wanted and layout is not None and layout.output != (size, size):
            raise TokenError(
                f"the tokens are of a picture of {layout.output[0]} x {layout.output[1]} pixels, "
                f"and a row of the tensor image is {size} x {size}: ask for the output file alone"
            )
        made = (await job.pixels(work[0], replace(base, seed=work[1]))).pixels
        return made if layout is None else shaped(made, layout, None)

    rows = list(zip(tokens, seeds, strict=True))
    found = await each(service, job, rows, one, partial=partial)
    outputs: dict[str, Tensor] = {}
    if "image" in wanted:
        size = job.info.image_size
        images = np.zeros((len(found), size, size, 3), np.uint8)
        for row, pixels in enumerate(found):
            if not isinstance(pixels, Exception):
                images[row] = pixels
        outputs["image"] = Tensor("image", images.shape, images)
    if "file" in wanted:
        files = [
            b""
            if isinstance(pixels, Exception)
            else await job.render(pixels, options.format, options.quality)
            for pixels in found
        ]
        outputs["file"] = Tensor("file", (len(files),), files)
    outputs["error"] = errors_of(service, found)
    return [outputs[name] for name in wanted]
