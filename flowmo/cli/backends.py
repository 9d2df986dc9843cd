"""Who computes for the command line: a model in this process, or a server.

Each call takes several files and gives one outcome a file, a result or an error, so that a bad
file costs nobody else anything.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

from flowmo.client import Client, ClientError, Fit, ImageFormat, Sampling
from model.container import Container
from model.errors import FlowMoError

if TYPE_CHECKING:
    from model.tokens import Tokens
    from service.codec import Codec
    from service.images import Pixels

S = TypeVar("S")
T = TypeVar("T")


class Backend(Protocol):
    """Computes with files in memory."""

    def tokenize(self, images: Sequence[bytes], *, fit: Fit) -> list[bytes | Exception]:
        """Image files to containers."""
        ...

    def detokenize(
        self,
        containers: Sequence[bytes],
        *,
        sampling: Sampling,
        format: ImageFormat,
        quality: int,
    ) -> list[bytes | Exception]:
        """Containers to image files."""
        ...

    def reconstruct(
        self,
        images: Sequence[bytes],
        *,
        fit: Fit,
        sampling: Sampling,
        format: ImageFormat,
        quality: int,
    ) -> list[bytes | Exception]:
        """Image files to tokens and back."""
        ...


class RemoteBackend:
    """A running server.

    Args:
        client: connected to it.

    Raises:
        ClientError: there is no server.
    """

    def __init__(self, client: Client) -> None:
        self._client = client
        client.models()  # no server: say so once, not for each file

    def tokenize(self, images: Sequence[bytes], *, fit: Fit) -> list[bytes | Exception]:
        """See :meth:`Backend.tokenize`."""
        return _each(images, lambda image: self._client.tokenize(image, fit=fit).data)

    def detokenize(
        self,
        containers: Sequence[bytes],
        *,
        sampling: Sampling,
        format: ImageFormat,
        quality: int,
    ) -> list[bytes | Exception]:
        """See :meth:`Backend.detokenize`."""

        def one(container: bytes) -> bytes:
            return self._client.detokenize(
                container, sampling=sampling, format=format, quality=quality
            ).data

        return _each(containers, one)

    def reconstruct(
        self,
        images: Sequence[bytes],
        *,
        fit: Fit,
        sampling: Sampling,
        format: ImageFormat,
        quality: int,
    ) -> list[bytes | Exception]:
        """See :meth:`Backend.reconstruct`."""

        def one(image: bytes) -> bytes:
            return self._client.reconstruct(
                image, fit=fit, sampling=sampling, format=format, quality=quality
            ).data

        return _each(images, one)


class LocalBackend:
    """A model in this process.

    Args:
        codec: the model.
    """

    def __init__(self, codec: "Codec") -> None:
        self._codec = codec

    def tokenize(self, images: Sequence[bytes], *, fit: Fit) -> list[bytes | Exception]:
        """See :meth:`Backend.tokenize`."""
        info = self._codec.info
        size = info.image_size

        def pack(tokens: "Tokens") -> bytes:
            return Container(
                tokens=tokens, fingerprint=info.fingerprint, width=size, height=size
            ).to_bytes()

        return _each(self._tokens(images, fit), pack)

    def detokenize(
        self,
        containers: Sequence[bytes],
        *,
        sampling: Sampling,
        format: ImageFormat,
        quality: int,
    ) -> list[bytes | Exception]:
        """See :meth:`Backend.detokenize`."""
        info = self._codec.info

        def unpack(data: bytes) -> "Tokens":
            container = Container.from_bytes(data)
            container.check_model(info.fingerprint, info.config)
            return container.tokens

        return self._pictures(_each(containers, unpack), sampling, format, quality)

    def reconstruct(
        self,
        images: Sequence[bytes],
        *,
        fit: Fit,
        sampling: Sampling,
        format: ImageFormat,
        quality: int,
    ) -> list[bytes | Exception]:
        """See :meth:`Backend.reconstruct`."""
        return self._pictures(self._tokens(images, fit), sampling, format, quality)

    def _tokens(self, images: Sequence[bytes], fit: Fit) -> "list[Tokens | Exception]":
        import numpy as np

        from service.fit import fit_image
        from service.images import read_image

        size = self._codec.info.image_size

        def read(data: bytes) -> "Pixels":
            return fit_image(read_image(data, side=size), size, fit).pixels

        return _together(_each(images, read), lambda pixels: self._codec.tokenize(np.stack(pixels)))

    def _pictures(
        self,
        tokens: "Sequence[Tokens | Exception]",
        sampling: Sampling,
        format: ImageFormat,
        quality: int,
    ) -> list[bytes | Exception]:
        from service.render import encode_image
        from service.wire import SamplingOptions

        given = {name: value for name, value in sampling.params().items() if name != "seed"}
        sampler = SamplingOptions.model_validate(given).sampler(self._codec.info.sampler)

        def decode(some: "Sequence[Tokens]") -> "Sequence[Pixels]":
            seeds = [sampling.seed] * len(some)
            return list(self._codec.detokenize(some, seeds=seeds, sampler=sampler))

        return _each(
            _together(tokens, decode),
            lambda pixels: encode_image(pixels, format, quality=quality),
        )


def local_backend(checkpoint: str | None, device: str, dtype: str, threads: int | None) -> Backend:
    """A model in this process; None is the demo checkpoint.

    Raises:
        FlowMoError: the checkpoint cannot be loaded.
    """
    from service.loader import load_codec
    from service.settings import DEFAULT_CHECKPOINT

    source = str(DEFAULT_CHECKPOINT) if checkpoint is None else checkpoint
    return LocalBackend(load_codec(source, device=device, dtype=dtype, threads=threads))


def read_file(path: Path) -> bytes | Exception:
    """The whole file, or why not."""
    try:
        return path.read_bytes()
    except OSError as error:
        return OSError(f"cannot be read: {error.strerror}")


def _each(items: Sequence[S | Exception], work: Callable[[S], T]) -> list[T | Exception]:
    """``work`` on every item that is not an error already."""
    outcomes: list[T | Exception] = []
    for item in items:
        if isinstance(item, Exception):
            outcomes.append(item)
            continue
        try:
            outcomes.append(work(item))
        except (FlowMoError, ClientError, ValueError) as error:
            outcomes.append(error)
    return outcomes


def _together(
    items: Sequence[S | Exception], work: Callable[[list[S]], Sequence[T]]
) -> list[T | Exception]:
    """``work`` on all items that are not errors, as one batch."""
    good = [item for item in items if not isinstance(item, Exception)]
    results = iter(work(good) if good else ())
    return [item if isinstance(item, Exception) else next(results) for item in items]
