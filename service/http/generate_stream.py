"""A generation as Server-Sent Events: previews are the tokens so far, decoded in few steps."""

import base64
from collections.abc import Collection, Mapping
from contextlib import ExitStack

from flowmo.imaging.reading import Pixels
from flowmo.model.config import SamplerConfig
from flowmo.model.layout import PictureLayout
from flowmo.model.tokens import Tokens
from flowmo.service.engine.calls import DecodeOptions
from flowmo.service.engine.generate_calls import (
    Generated,
    GenerateOptions,
    GenerateProgress,
    GenerateWatch,
)
from flowmo.service.http.generation import Generation
from flowmo.service.http.job import Job
from flowmo.service.http.request_scope import WorkScope
from flowmo.service.http.streaming import StepStream


class GenerateStream(StepStream[GenerateProgress, Generated]):
    """A generation under way, seen step by step.

    Args:
        generation: What generates.
        job: The request's job, which decodes.
        scope: The request.
        media_type: The media type of the image and the previews.
        quality: 1 to 100, for JPEG and WebP.
        preview: How previews are decoded.
        final: How the image is.
    """

    def __init__(
        self,
        generation: Generation,
        job: Job,
        scope: WorkScope,
        *,
        media_type: str,
        quality: int,
        preview: SamplerConfig,
        final: SamplerConfig,
    ) -> None:
        size = job.info.image_size
        layout = PictureLayout(width=size, height=size, tile_size=size)
        super().__init__(job, media_type=media_type, quality=quality, layout=layout)
        self._generation, self._scope = generation, scope
        self._samplers = preview, final
        self._seed = 0

    async def start(
        self, options: GenerateOptions, previews: Collection[int], resources: ExitStack
    ) -> None:
        """Begin the generation, and wait for its first step.

        Args:
            options: What is asked for.
            previews: The steps, 1 for the first, after which a preview is wanted.
            resources: What is released when the request ends; the work is cancelled with it.

        Raises:
            Exception: Whatever the generation failed with before its first step.
        """
        self._seed = options.seed
        cancellation = self._scope.cancellation
        await self.begin(
            lambda report: cancellation.until_cancelled(
                self._generation.generate(
                    options, watch=GenerateWatch(on_progress=report, previews=previews)
                )
            ),
            resources,
        )

    async def _preview(self, update: GenerateProgress) -> Pixels | None:
        if update.tokens is None:
            return None
        return await self._decode(update.tokens, self._samplers[0])

    async def _final(self, result: Generated) -> Pixels:
        return await self._decode(result.tokens, self._samplers[1])

    def _more(self, result: Generated, /) -> Mapping[str, str]:
        data = self._generation.image_tokens(result).to_bytes()
        return {"container": base64.b64encode(data).decode()}

    async def _decode(self, tokens: Tokens, sampler: SamplerConfig) -> Pixels:
        work = self._job.pixels(tokens, DecodeOptions(seed=self._seed, sampler=sampler))
        return (await self._scope.cancellation.until_cancelled(work)).pixels
