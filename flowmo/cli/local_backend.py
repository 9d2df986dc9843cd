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
    from flowmo.model.tokens import Tokens
    from flowmo.service.codec import Codec

S = TypeVar("S")
T = TypeVar("T")


class LocalBackend:
    """A model in this process.

    Args:
        codec: the model.
        batch_size: files computed at once.
    """

    def __init__(self, codec: "Codec", *, batch_size: int) -> None:
        self._codec = codec
        self._batch_size = batch_size

    def tokenize(self, paths: Sequence[Path], *, fit: Fit) -> Iterator[Outcome]:
        """See :meth:`Backend.tokenize`."""
        info = self._codec.info
        size = info.image_size

        def pack(tokens: "Tokens") -> bytes:
            return Container(
                tokens=tokens, fingerprint=info.fingerprint, width=size, height=size
            ).to_bytes()

        return self._in_batches(paths, lambda images: _each(self._tokens(images, fit), pack))

    def detokenize(
        self, paths: Sequence[Path], *, sampling: Sampling, format: ImageFormat, quality: int
    ) -> Iterator[Outcome]:
        """See :meth:`Backend.detokenize`."""
        info = self._codec.info

        def unpack(data: bytes) -> "Tokens":
            container = Container.from_bytes(data)
            container.check_model(info.fingerprint, info.config)
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

        from flowmo.imaging.fit import read_square

        size = self._codec.info.image_size

        def read(data: bytes) -> "Pixels":
            return read_square(data, size, fit=fit)

        return _together(_each(images, read), lambda pixels: self._codec.tokenize(np.stack(pixels)))

    def _pictures(
        self,
        tokens: "Sequence[Tokens | Exception]",
        sampling: Sampling,
        format: ImageFormat,
        quality: int,
    ) -> list[bytes | Exception]:
        from flowmo.imaging.writing import encode_image
        from flowmo.service.http.wire import SamplingOptions

        given = {name: value for name, value in sampling.params().items() if name != "seed"}
        sampler = SamplingOptions.model_validate(given).sampler(self._codec.info.sampler)

        def decode(some: "Sequence[Tokens]") -> "Sequence[Pixels]":
            seeds = [sampling.seed] * len(some)
            return list(self._codec.detokenize(some, seeds=seeds, sampler=sampler))

        return _each(
            _together(tokens, decode),
            lambda pixels: encode_image(pixels, format, quality=quality),
        )


def local_backend(
    checkpoint: str | None, *, device: str, dtype: str, threads: int | None, batch_size: int
) -> LocalBackend:
    """A model in this process; None is the demo checkpoint.

    Raises:
        FlowMoError: the checkpoint cannot be loaded.
    """
    from flowmo.service.loader import load_codec
    from flowmo.service.settings import DEFAULT_CHECKPOINT

    source = str(DEFAULT_CHECKPOINT) if checkpoint is None else checkpoint
    codec = load_codec(source, device=device, dtype=dtype, threads=threads)
    return LocalBackend(codec, batch_size=batch_size)


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
