"""The command line's work done by a model in this process."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from flowmo.cli.backends import Outcome, read_file
from flowmo.client import Fit, ImageFormat, Sampling
from flowmo.model.container import Container
from flowmo.model.errors import FlowMoError

if TYPE_CHECKING:
    from flowmo.imaging.reading import Pixels
    from flowmo.model.inference import InferenceModel
    from flowmo.model.tokens import Tokens

S = TypeVar("S")
T = TypeVar("T")


class LocalBackend:
    """A model in this process.

    Args:
        model: The loaded model.
        batch_size: Files computed at once.
    """

    def __init__(self, model: "InferenceModel", *, batch_size: int) -> None:
        self._model = model
        self._batch_size = batch_size

    def tokenize(self, paths: Sequence[Path], *, fit: Fit) -> Iterator[Outcome]:
        """See :meth:`Backend.tokenize`."""
        fingerprint, size = self._model.fingerprint, self._model.config.image_size

        def pack(tokens: "Tokens") -> bytes:
            return Container(
                tokens=tokens, fingerprint=fingerprint, width=size, height=size
            ).to_bytes()

        return self._in_batches(paths, lambda images: _each(self._tokens(images, fit), pack))

    def detokenize(
        self, paths: Sequence[Path], *, sampling: Sampling, format: ImageFormat, quality: int
    ) -> Iterator[Outcome]:
        """See :meth:`Backend.detokenize`."""

        def unpack(data: bytes) -> "Tokens":
            container = Container.from_bytes(data)
            container.check_model(self._model.fingerprint, self._model.config)
            return container.tokens

        return self._in_batches(
            paths,
            lambda containers: self._pictures(_each(containers, unpack), sampling, format, quality),
        )

    def reconstruct(
        self,
        paths: Sequence[Path],
        *,
        fit: Fit,
        sampling: Sampling,
        format: ImageFormat,
        quality: int,
    ) -> Iterator[Outcome]:
        """See :meth:`Backend.reconstruct`."""
        return self._in_batches(
            paths,
            lambda images: self._pictures(self._tokens(images, fit), sampling, format, quality),
        )

    def _in_batches(
        self,
        paths: Sequence[Path],
        work: Callable[[Sequence[bytes | Exception]], list[bytes | Exception]],
    ) -> Iterator[Outcome]:
        for start in range(0, len(paths), self._batch_size):
            contents = [read_file(path) for path in paths[start : start + self._batch_size]]
            for offset, result in enumerate(work(contents)):
                content = contents[offset]
                size = len(content) if isinstance(content, bytes) else 0
                yield Outcome(index=start + offset, bytes_read=size, result=result)

    def _tokens(self, images: Sequence[bytes | Exception], fit: Fit) -> "list[Tokens | Exception]":
        import numpy as np

        from flowmo.imaging.fit import fit_image
        from flowmo.imaging.reading import read_image
        from flowmo.service.engine.torch_runner import to_images

        size = self._model.config.image_size

        def read(data: bytes) -> "Pixels":
            return fit_image(read_image(data, side=size), size, fit).pixels

        def tokenize(pixels: "Sequence[Pixels]") -> "list[Tokens]":
            return self._model.tokenize(to_images(np.stack(pixels), self._model.device))

        return _together(_each(images, read), tokenize)

    def _pictures(
        self,
        tokens: "Sequence[Tokens | Exception]",
        sampling: Sampling,
        format: ImageFormat,
        quality: int,
    ) -> list[bytes | Exception]:
        from flowmo.imaging.writing import encode_image
        from flowmo.service.engine.torch_runner import to_pixels
        from flowmo.service.http.wire import SamplingOptions

        given = {name: value for name, value in sampling.params().items() if name != "seed"}
        sampler = SamplingOptions.model_validate(given).sampler(self._model.config.sampler)

        def decode(some: "Sequence[Tokens]") -> "Sequence[Pixels]":
            seeds = [sampling.seed] * len(some)
            return list(to_pixels(self._model.detokenize(some, seeds=seeds, sampler=sampler)))

        return _each(
            _together(tokens, decode),
            lambda pixels: encode_image(pixels, format, quality=quality),
        )


def local_backend(
    checkpoint: str | None, *, device: str, dtype: str, threads: int | None, batch_size: int
) -> LocalBackend:
    """A model in this process; None is the demo checkpoint.

    Raises:
        FlowMoError: The checkpoint cannot be loaded.
    """
    from flowmo.model.loading import check_has_tokens, load_inference_model
    from flowmo.service.engine.config import DEFAULT_CHECKPOINT, RunnerConfig
    from flowmo.service.loader import resolve

    source = DEFAULT_CHECKPOINT if checkpoint is None else checkpoint
    folder = resolve(RunnerConfig(checkpoint=source))
    model = load_inference_model(folder, device=device, dtype=dtype, threads=threads)
    check_has_tokens(model, source)
    return LocalBackend(model, batch_size=batch_size)


def _each(items: Sequence[S | Exception], work: Callable[[S], T]) -> list[T | Exception]:
    """``work`` on every item that is not an error already."""
    outcomes: list[T | Exception] = []
    for item in items:
        if isinstance(item, Exception):
            outcomes.append(item)
            continue
        try:
            outcomes.append(work(item))
        except (FlowMoError, ValueError) as error:
            outcomes.append(error)
    return outcomes


def _together(
    items: Sequence[S | Exception], work: Callable[[list[S]], Sequence[T]]
) -> list[T | Exception]:
    """``work`` on all items that are not errors, as one batch."""
    good = [item for item in items if not isinstance(item, Exception)]
    results = iter(work(good) if good else ())
    return [item if isinstance(item, Exception) else next(results) for item in items]
