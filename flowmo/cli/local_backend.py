"""The command line's work, done by a model in this process."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from flowmo.cli.backends import Outcome, Region, read_file
from flowmo.client import Fit, ImageFormat, Sampling
from flowmo.model.container import Container
from flowmo.model.errors import FlowMoError

if TYPE_CHECKING:
    from flowmo.imaging.reading import DecodedImage, Pixels
    from flowmo.model.image_tokens import ImageTokens
    from flowmo.model.inference import InferenceModel

# The checkpoint that comes with the package, and the prior of its tokens.
DEMO_MODEL = "tiny"
DEMO_PRIOR = "prior-tiny"
DEFAULT_TILES_AT_ONCE = 4

S = TypeVar("S")
T = TypeVar("T")


class LocalBackend:
    """A model in this process.

    Args:
        model: The loaded model, which has tokens.
        batch_size: The number of files computed at once.
    """

    def __init__(self, model: "InferenceModel", *, batch_size: int) -> None:
        from flowmo.tokenizer import Tokenizer

        self._tokenizer = Tokenizer(model)
        self._batch_size = batch_size

    def tokenize(
        self, paths: Sequence[Path], *, fit: Fit, overlap: float | None
    ) -> Iterator[Outcome]:
        """See :meth:`Backend.tokenize`."""

        def pack(tokens: "ImageTokens") -> bytes:
            return tokens.to_bytes()

        return self._in_batches(
            paths, lambda images: _each(self._tokens(images, fit, overlap), pack)
        )

    def detokenize(
        self,
        paths: Sequence[Path],
        *,
        sampling: Sampling,
        format: ImageFormat,
        quality: int,
        region: Region | None,
    ) -> Iterator[Outcome]:
        """See :meth:`Backend.detokenize`."""
        write = self._writer(sampling, format, quality, region)

        def unpack(data: bytes) -> "ImageTokens":
            from flowmo.model.image_tokens import ImageTokens
            from flowmo.tokenizer_pictures import check_region

            container = Container.from_bytes(data)
            container.check_model(self._tokenizer.fingerprint, self._tokenizer.config)
            check_region(container.layout, region)
            return ImageTokens.of(container)

        return self._in_batches(paths, lambda containers: write(_each(containers, unpack)))

    def reconstruct(
        self,
        paths: Sequence[Path],
        *,
        fit: Fit,
        overlap: float | None,
        sampling: Sampling,
        format: ImageFormat,
        quality: int,
    ) -> Iterator[Outcome]:
        """See :meth:`Backend.reconstruct`."""
        write = self._writer(sampling, format, quality, None)
        return self._in_batches(paths, lambda images: write(self._tokens(images, fit, overlap)))

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

    def _tokens(
        self, images: Sequence[bytes | Exception], fit: Fit, overlap: float | None
    ) -> "list[ImageTokens | Exception]":
        from flowmo.imaging.reading import read_image
        from flowmo.model.tiling import DEFAULT_OVERLAP_SHARE

        tokenizer = self._tokenizer
        side = None if fit == "native" else tokenizer.image_size
        share = DEFAULT_OVERLAP_SHARE if overlap is None else overlap

        def read(data: bytes) -> "DecodedImage":
            return read_image(data, side=side)

        def tokenize(pictures: "list[DecodedImage]") -> "list[ImageTokens]":
            return tokenizer.encode(
                pictures, fit=fit, overlap=share, batch_size=self._tiles_at_once
            )

        return _together(_each(images, read), tokenize)

    @property
    def _tiles_at_once(self) -> int:
        # One picture at a time is what --batch-size 1 says, and may be many tiles.
        return max(self._batch_size, DEFAULT_TILES_AT_ONCE)

    def _writer(
        self, sampling: Sampling, format: ImageFormat, quality: int, region: Region | None
    ) -> "Callable[[Sequence[ImageTokens | Exception]], list[bytes | Exception]]":
        """What makes files of tokens.

        Raises:
            ConfigError: The sampling options are out of their range.
        """
        from flowmo.imaging.writing import encode_image

        sampler = self._tokenizer.config.sampler.changed(
            steps=sampling.steps,
            schedule=sampling.schedule,
            rho=sampling.rho,
            guidance=sampling.guidance,
        )

        def decode(tokens: "list[ImageTokens]") -> "list[Pixels]":
            pictures = self._tokenizer.decode(
                tokens,
                seeds=[sampling.seed] * len(tokens),
                sampler=sampler,
                output="array",
                region=region,
                batch_size=self._tiles_at_once,
            )
            return list(pictures)

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
