"""Who runs when: a bounded number of requests, one thread that owns the device.

Requests are admitted (or refused at once), then submit work, which one thread does in order. Work
whose client has left is skipped; a running decode stops before its next step. Everything above
talks to :class:`Engine` only, so that how work is put together can change behind it.
"""

import asyncio
import logging
import math
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from model.config import SamplerConfig
from model.tokens import Tokens
from service.codec import Codec, CodecInfo
from service.errors import EngineStoppedError, QueueFullError
from service.images import Pixels

if TYPE_CHECKING:
    from model.sampler import Preview

logger = logging.getLogger(__name__)

DEFAULT_CAPACITY = 64
# Weight of the newest run in the mean that Retry-After is computed from.
_SMOOTHING = 0.2

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class DecodeOptions:
    """What a client may choose about a decode.

    Attributes:
        seed: of the starting noise, 0 <= seed < 2^63.
        sampler: grid and guidance.
    """

    seed: int
    sampler: SamplerConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class Timings:
    """Where a piece of work spent its time, in seconds.

    Attributes:
        queue: waiting for the device.
        run: on the device.
        steps: each step of a decode.
    """

    queue: float
    run: float
    steps: tuple[float, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Encoded:
    """Tokens of one picture."""

    tokens: Tokens
    timings: Timings


@dataclass(frozen=True, kw_only=True, slots=True)
class Decoded:
    """One picture, uint8 [S, S, 3]."""

    pixels: Pixels
    timings: Timings


class _AbandonedError(Exception):
    """The client of the running work has left."""


@dataclass(slots=True)
class _Job(Generic[T]):
    """Work for the device thread; ``run`` gets the seconds it waited."""

    run: Callable[[float], T]
    future: Future[T] = field(default_factory=Future)
    abandoned: threading.Event = field(default_factory=threading.Event)
    submitted: float = field(default_factory=time.perf_counter)


class Engine:
    """Runs a codec for many clients.

    Args:
        codec: what does the work; only the engine's thread calls it once started.
        capacity: requests inside at once, being read, waiting or running; more are refused.
    """

    def __init__(self, codec: Codec, *, capacity: int = DEFAULT_CAPACITY) -> None:
        self._codec = codec
        self._capacity = capacity
        self._admitted = 0
        self._mean_run = 0.0
        self._queue: SimpleQueue[_Job[Any] | None] = SimpleQueue()
        self._warm = threading.Event()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._work, name="flowmo-device", daemon=True)

    @property
    def info(self) -> CodecInfo:
        """What the codec is."""
        return self._codec.info

    @property
    def capacity(self) -> int:
        """Requests inside at once."""
        return self._capacity

    @property
    def admitted(self) -> int:
        """Requests inside now."""
        return self._admitted

    @property
    def waiting(self) -> int:
        """Pieces of work that wait for the device."""
        return self._queue.qsize()

    @property
    def ready(self) -> bool:
        """Warmed up and running."""
        return self._warm.is_set() and self.alive

    @property
    def alive(self) -> bool:
        """The device thread runs."""
        return self._thread.is_alive() and not self._stopped.is_set()

    def start(self) -> None:
        """Start the device thread; it warms up first. Work may be submitted at once."""
        self._thread.start()

    async def close(self, seconds: float = 30.0) -> None:
        """Finish what has been submitted, then stop.

        Args:
            seconds: longest wait for it.
        """
        self._queue.put(None)
        await asyncio.to_thread(self._thread.join, seconds)

    @contextmanager
    def admit(self) -> Iterator[None]:
        """A place for one request, from before its body is read until it is answered.

        Raises:
            QueueFullError: all places are taken; it says when to come back.
        """
        if self._admitted >= self._capacity:
            wait = max(1, math.ceil(self._mean_run * self._admitted))
            raise QueueFullError(
                f"all {self._capacity} places are taken, with about {wait} s of work",
                retry_after=wait,
            )
        # Only the event loop's thread comes here, so nobody is between the test and the count.
        self._admitted += 1
        try:
            yield
        finally:
            self._admitted -= 1

    async def encode(self, pixels: Pixels) -> Encoded:
        """Tokens of a picture.

        Args:
            pixels: uint8 [S, S, 3].

        Raises:
            EngineStoppedError: the device thread has ended.
        """

        def run(waited: float) -> Encoded:
            begin = time.perf_counter()
            (tokens,) = self._codec.tokenize(pixels[None])
            return Encoded(
                tokens=tokens, timings=Timings(queue=waited, run=time.perf_counter() - begin)
            )

        return await self._submit(_Job(run))

    async def decode(self, tokens: Tokens, options: DecodeOptions) -> Decoded:
        """The picture of a token set.

        Args:
            tokens: of the codec's model.
            options: seed and sampler.

        Raises:
            model.errors.TokenError: tokens of another shape.
            EngineStoppedError: the device thread has ended.
        """
        abandoned = threading.Event()

        def run(waited: float) -> Decoded:
            stamps = [time.perf_counter()]

            def observe(_: "Preview") -> None:
                stamps.append(time.perf_counter())
                if abandoned.is_set():
                    raise _AbandonedError

            (pixels,) = self._codec.detokenize(
                [tokens], seeds=[options.seed], sampler=options.sampler, observer=observe
            )
            steps = tuple(b - a for a, b in pairwise(stamps))
            run_time = time.perf_counter() - stamps[0]
            return Decoded(pixels=pixels, timings=Timings(queue=waited, run=run_time, steps=steps))

        return await self._submit(_Job(run, abandoned=abandoned))

    async def _submit(self, job: _Job[T]) -> T:
        self._queue.put(job)
        if self._stopped.is_set():
            self._refuse_waiting()
        try:
            return await asyncio.wrap_future(job.future)
        except asyncio.CancelledError:
            job.abandoned.set()
            raise

    def _work(self) -> None:
        """The device thread."""
        try:
            self._codec.warm_up()
            self._warm.set()
            while (job := self._queue.get()) is not None:
                self._run(job)
        except Exception:
            logger.exception("warm-up failed; the server stays unready")
        finally:
            # In this order, so that a submission sees the event or is seen here.
            self._stopped.set()
            self._refuse_waiting()

    def _run(self, job: _Job[Any]) -> None:
        if not job.future.set_running_or_notify_cancel():
            return
        begin = time.perf_counter()
        try:
            result = job.run(begin - job.submitted)
        except BaseException as error:  # noqa: BLE001
            # A failure is its own request's affair; the thread serves the next one.
            job.future.set_exception(error)
        else:
            seconds = time.perf_counter() - begin
            self._mean_run += _SMOOTHING * (seconds - self._mean_run) if self._mean_run else seconds
            job.future.set_result(result)

    def _refuse_waiting(self) -> None:
        while True:
            try:
                job = self._queue.get_nowait()
            except Empty:
                return
            if job is not None and job.future.set_running_or_notify_cancel():
                job.future.set_exception(
                    EngineStoppedError("the device thread has ended; the server must be restarted")
                )
