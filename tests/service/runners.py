"""A real runner behind gates, with a record of what ran."""

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import httpx
import numpy as np
import torch
from fastapi import FastAPI

from flowmo.imaging.reading import Pixels
from flowmo.model.prior.checkpoint import Prior
from flowmo.model.tokens import Tokens
from flowmo.service.engine.calls import DEFAULT_MAX_QUEUED_REQUESTS, Batching
from flowmo.service.engine.local import EngineSettings, LocalEngines
from flowmo.service.engine.model_info import ModelInfo
from flowmo.service.engine.observer import EngineKind, NullObserver, RefusalReason
from flowmo.service.engine.runner import Marker, Runner
from flowmo.service.engine.torch_generator import TorchGeneratorRunner
from flowmo.service.http.app import create_app
from flowmo.service.models import Models
from flowmo.service.settings import Settings
from flowmo.service.telemetry.instruments import PrometheusInstruments
from flowmo.service.telemetry.metrics import Metrics

if TYPE_CHECKING:
    from torch import Tensor


class Gated:
    """The runner with gates, errors on demand, and a list of the times of each batch."""

    def __init__(self, runner: Runner, *, buckets: Sequence[int] | None = None) -> None:
        self._runner = runner
        self.buckets = tuple(buckets or runner.buckets)
        self.warm_up_gate, self.gate = threading.Event(), threading.Event()
        self.warm_up_gate.set()
        self.gate.set()
        self.entered = threading.Event()
        self.error: Exception | None = None
        self.fail_after: int | None = None
        self.fits: int | None = None
        self.batches: list[tuple[float, ...]] = []
        self.encoded: list[int] = []
        self.begun: list[int] = []

    @property
    def info(self) -> ModelInfo:
        return self._runner.info

    def synchronize(self) -> None:
        self._runner.synchronize()

    def encode(self, pixels: Pixels) -> list[Tokens]:
        self.encoded.append(len(pixels))
        self._pass()
        self._allocate(len(pixels))
        return self._runner.encode(pixels)

    def check(self, tokens: Tokens) -> None:
        self._runner.check(tokens)

    @property
    def device(self) -> "torch.device":
        return self._runner.device

    def record(self) -> Marker | None:
        return self._runner.record()

    def begin(self, tokens: Tokens, seed: int) -> "tuple[Tensor, Tensor]":
        self.begun.append(seed)
        return self._runner.begin(tokens, seed)

    def condition(self, tokens: Tokens) -> "Tensor":
        return self._runner.condition(tokens)

    def velocity(self, x: "Tensor", times: Sequence[float], condition: "Tensor") -> "Tensor":
        assert len(x) == len(times) == len(condition)
        assert len(x) in self.buckets
        self.batches.append(tuple(times))
        if self.fail_after is not None:
            self.fail_after -= 1
            if self.fail_after < 0:
                raise RuntimeError("a kernel failed")
        self._pass()
        self._allocate(len(x))
        return self._runner.velocity(x, times, condition)

    def pixels(self, x: "Tensor") -> Pixels:
        return self._runner.pixels(x)

    def _pass(self) -> None:
        assert self.warm_up_gate.wait(60)
        self.entered.set()
        assert self.gate.wait(60)
        if self.error is not None:
            raise self.error

    def _allocate(self, rows: int) -> None:
        """Fail as PyTorch does where a batch of more than ``fits`` rows finds no memory."""
        if self.fits is not None and rows > self.fits:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    def forget(self) -> None:
        """Clear the record, of the warm-up for example."""
        self.batches.clear()
        self.encoded.clear()
        self.begun.clear()
        self.entered.clear()


class GatedPrior(TorchGeneratorRunner):
    """The prior with a gate, an error on demand, and the rows of each batch."""

    def __init__(self, prior: Prior) -> None:
        super().__init__(prior, buckets=(1, 2, 4, 8))
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()
        self.error: Exception | None = None
        self.fits = 8
        self.batches: list[Sequence[int]] = []

    def logits(self, ids: "Tensor", classes: Sequence[int]) -> "Tensor":
        assert len(ids) == len(classes)
        assert len(ids) in self.buckets
        self.entered.set()
        assert self.gate.wait(60)
        if self.error is not None:
            raise self.error
        if len(ids) > self.fits:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        self.batches.append(classes)
        return super().logits(ids, classes)


class Recorder(NullObserver):
    """An observer that remembers."""

    def __init__(self) -> None:
        self.batches: list[tuple[EngineKind, int, int]] = []
        self.refusals: list[tuple[EngineKind, RefusalReason]] = []
        self.saved: list[int] = []
        self.failures = 0
        self.degradations: list[int] = []

    def batch(self, engine: EngineKind, *, rows: int, bucket: int, seconds: float) -> None:
        assert seconds > 0
        self.batches.append((engine, rows, bucket))

    def refused(self, engine: EngineKind, reason: RefusalReason) -> None:
        self.refusals.append((engine, reason))

    def cancelled(self, engine: EngineKind, steps_saved: int) -> None:
        self.saved.append(steps_saved)

    def failed(self, engine: EngineKind, works: int, error: Exception) -> None:
        self.failures += works

    def degraded(self, steps_saved: int) -> None:
        self.degradations.append(steps_saved)


def app_of(
    runner: Runner,
    settings: Settings | None = None,
    *,
    max_queued_requests: int = DEFAULT_MAX_QUEUED_REQUESTS,
) -> FastAPI:
    """An application that serves a runner."""
    metrics = Metrics(PrometheusInstruments())
    name = runner.info.name

    def build() -> LocalEngines:
        engine_settings = EngineSettings(max_queued_requests=max_queued_requests)
        return LocalEngines(runner, runner, engine_settings, metrics.engines.observer(name))

    return create_app(Models({name: build}), metrics, settings)


@asynccontextmanager
async def client_of(
    runner: Runner,
    settings: Settings | None = None,
    *,
    wait: bool = True,
    max_queued_requests: int = DEFAULT_MAX_QUEUED_REQUESTS,
) -> AsyncIterator[httpx.AsyncClient]:
    """A client of an application in this process, warmed up unless ``wait`` is false."""
    app = app_of(runner, settings, max_queued_requests=max_queued_requests)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client,
    ):
        if wait:
            while (await client.get("/readyz")).status_code != 200:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            if isinstance(runner, Gated):
                runner.forget()
        yield client


def run(
    runner: Runner,
    work: Callable[[LocalEngines], Awaitable[None]],
    *,
    observer: Recorder | None = None,
    max_queued_requests: int = DEFAULT_MAX_QUEUED_REQUESTS,
    batching: Batching = "step",
) -> None:
    """``work`` with warmed-up engines, which are closed afterwards."""

    async def main() -> None:
        settings = EngineSettings(max_queued_requests=max_queued_requests, batching=batching)
        engines = LocalEngines(runner, runner, settings, observer)
        engines.start()
        await until(lambda: engines.ready)
        if isinstance(runner, Gated):
            runner.forget()
        try:
            await work(engines)
        finally:
            await engines.close()
        assert not engines.alive

    asyncio.run(main())


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110  (threads change it)
            await asyncio.sleep(0.002)


def some_tokens(value: int = 7) -> Tokens:
    return Tokens(ids=np.full((16, 3), value, np.int32), group_bits=4)
