"""The command line's work, done by a server."""

import asyncio
from collections.abc import Callable, Collection, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from flowmo.cli.backends import Outcome, Region, read_file
from flowmo.client import AsyncClient, ClientError, Fit, ImageFormat, Retry, Sampling


class RemoteBackend:
    """A running server, several of whose answers are waited for at once.

    Args:
        client: A client that is connected to the server.
        runner: The runner of the client's event loop.
        concurrency: The most requests under way at once.
    """

    def __init__(self, client: AsyncClient, runner: asyncio.Runner, *, concurrency: int) -> None:
        self._client, self._runner, self._concurrency = client, runner, concurrency

    def tokenize(
        self, paths: Sequence[Path], *, fit: Fit, overlap: float | None
    ) -> Iterator[Outcome]:
        """See :meth:`Backend.tokenize`."""

        async def one(image: bytes) -> bytes:
            return (await self._client.tokenize(image, fit=fit, overlap=overlap)).data

        return self._each(paths, one)

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

        async def one(container: bytes) -> bytes:
            decoded = await self._client.detokenize(
                container, sampling=sampling, format=format, quality=quality, region=region
            )
            return decoded.data

        return self._each(paths, one)

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

        async def one(image: bytes) -> bytes:
            decoded = await self._client.reconstruct(
                image,
                fit=fit,
                overlap=overlap,
                sampling=sampling,
                format=format,
                quality=quality,
            )
            return decoded.data

        return self._each(paths, one)

    def _each(
        self, paths: Sequence[Path], work: Callable[[bytes], Coroutine[None, None, bytes]]
    ) -> Iterator[Outcome]:
        # No groups of files: the next one is sent as soon as there is an answer to any.
        loop = self._runner.get_loop()
        waiting = iter(enumerate(paths))
        running: dict[asyncio.Task[bytes], tuple[int, int]] = {}
        try:
            while True:
                while len(running) < self._concurrency and (some := next(waiting, None)):
                    index, path = some
                    content = read_file(path)
                    if isinstance(content, OSError):
                        yield Outcome(index=index, bytes_read=0, result=content)
                    else:
                        running[loop.create_task(work(content))] = (index, len(content))
                if not running:
                    return
                for task in self._runner.run(_first_done(running)):
                    index, size = running.pop(task)
                    yield Outcome(index=index, bytes_read=size, result=_result(task))
        finally:
            for task in running:
                task.cancel()


@contextmanager
def remote_backend(
    url: str, *, api_key: str | None, model: str | None, concurrency: int
) -> Iterator[RemoteBackend]:
    """Connect to a running server.

    Args:
        url: The server's address.
        api_key: The key for it, if it has keys.
        model: The name of one of its models; None is its first.
        concurrency: The most requests under way at once.

    Raises:
        ValueError: The URL or the key cannot be used.
        ClientError: There is no server, or it refuses the key.
    """
    client = AsyncClient(url, api_key=api_key, model=model)
    with asyncio.Runner() as runner:
        try:
            # No server: say so once and at once, not for each file.
            runner.run(client.models(retry=Retry.none()))
            yield RemoteBackend(client, runner, concurrency=concurrency)
        finally:
            runner.run(client.aclose())


async def _first_done(tasks: Collection[asyncio.Task[bytes]]) -> set[asyncio.Task[bytes]]:
    done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    return done


def _result(task: asyncio.Task[bytes]) -> bytes | ClientError:
    try:
        return task.result()
    except ClientError as error:
        return error
