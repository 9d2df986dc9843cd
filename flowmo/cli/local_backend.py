"""The command line's work, done by a model in this process."""

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

# The checkpoint that comes with the package.
DEMO_MODEL = "tiny"

S = TypeVar("S")
T = TypeVar("T")


class LocalBackend:
    """A model in this process.

    Args:
        model: The loaded model, which has tokens.
        batch_size: The number of files computed at once.
    """

    def __init__(self, model: "InferenceModel", *, batch_size: int) -> None:
        self._model = model
        self._batch_size = batch_size

    def tokenize(self, paths: Sequence[Path], *, fit: Fit) -> Iterator[Outcome]:
        """See :meth:`Backend.tokenize`."""
        fingerprint, size = self._model.fingerprint, self._model.config.image_size

        def pack(tokens: "Tokens") -> bytes:
            container = Container(tokens=tokens, fingerprint=fingerprint, width=size, height=size)
            return container.to_bytes()

        return self._in_batches(paths, lambda images: _each(self._tokens(images, fit), pack))

    def detokenize(
        self, paths: Sequence[Path], *, sampling: Sampling, format: ImageFormat, quality: int
    ) -> Iterator[Outcome]:
        """See :meth:`Backend.detokenize`."""
        write = self._writer(sampling, format, quality)

        def unpack(data: bytes) -> "Tokens":
            container = Container.from_bytes(data)
            container.check_model(self._model.fingerprint, self._model.config)
            return container.tokens

        return self._in_batches(paths, lambda containers: write(_each(containers, unpack)))

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
        write = self._writer(sampling, format, quality)
        return self._in_batches(paths, lambda images: write(self._tokens(images, fit)))

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
        from flowmo.imaging.fit import read_square
        from flowmo.imaging.tensors import to_images

        model = self._model

        def read(data: bytes) -> "Pixels":
            return read_square(data, model.config.image_size, fit=fit)

        def tokenize(pictures: "list[Pixels]") -> "list[Tokens]":
            return model.tokenize(to_images(pictures, model.device))

        return _together(_each(images, read), tokenize)

    def _writer(
        self, sampling: Sampling, format: ImageFormat, quality: int
    ) -> "Callable[[Sequence[Tokens | Exception]], list[bytes | Exception]]":
        """What makes files of tokens.

        Raises:
            ConfigError: The sampling options are out of their range.
        """
        from flowmo.imaging.tensors import to_pixels
        from flowmo.imaging.writing import encode_image

        sampler = self._model.config.sampler.changed(
            steps=sampling.steps,
            schedule=sampling.schedule,
            rho=sampling.rho,
            guidance=sampling.guidance,
        )

        def decode(tokens: "list[Tokens]") -> "list[Pixels]":
            seeds = [sampling.seed] * len(tokens)
            return list(to_pixels(self._model.detokenize(tokens, seeds=seeds, sampler=sampler)))

        def encode(pixels: "Pixels") -> bytes:
            return encode_image(pixels, format, quality=quality)

        return lambda tokens: _each(_together(tokens, decode), encode)


def local_backend(
    checkpoint: str | None,
    *,
    preset: str | None,
    device: str,
    dtype: str,
    threads: int | None,
    batch_size: int,
) -> LocalBackend:
    """Load a model into this process.

    Args:
        checkpoint: Any name of a checkpoint (:func:`flowmo.model.hub.resolve_checkpoint`); None is
            the demo model.
        preset: The config of a published file.
        device: See :func:`flowmo.model.loading.choose_device`.
        dtype: See :func:`flowmo.model.loading.choose_dtype`.
        threads: CPU threads for one operation; None is PyTorch's choice.
        batch_size: The number of files computed at once.

    Raises:
        CheckpointError: The checkpoint cannot be loaded, or has no tokens.
        ConfigError: The device or the dtype cannot be used.
    """
    from flowmo.model.hub import resolve_checkpoint
    from flowmo.model.loading import check_has_tokens, load_inference_model

    name = DEMO_MODEL if checkpoint is None else checkpoint
    folder = resolve_checkpoint(name, preset=preset)
    model = load_inference_model(folder, device=device, dtype=dtype, threads=threads)
    check_has_tokens(model, name)
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
