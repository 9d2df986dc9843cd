"""Each device thread computes on its runner's device and a stream of its own."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

from flowmo.service.engine.device import DeviceThread
from flowmo.service.engine.streams import own_stream


class Cuda:
    """What PyTorch keeps for each thread, here for one after the other."""

    def __init__(self) -> None:
        self.device, self.stream = torch.device("cuda:0"), "default"
        self.made = 0
        self.waits: list[tuple[str, str]] = []

    @contextmanager
    def enter_device(self, device: torch.device) -> Iterator[None]:
        before, self.device = self.device, device
        yield
        self.device = before

    @contextmanager
    def enter_stream(self, stream: "Stream") -> Iterator[None]:
        before, self.stream = self.stream, stream.name
        yield
        self.stream = before


class Stream:
    def __init__(self, cuda: Cuda, name: str) -> None:
        self.cuda, self.name = cuda, name

    def wait_stream(self, other: "Stream") -> None:
        self.cuda.waits.append((self.name, other.name))


class Worker:
    def __init__(self, cuda: Cuda) -> None:
        self.cuda = cuda
        self.warmed_on: tuple[str, str] | None = None

    def warm_up(self) -> float:
        self.warmed_on = str(self.cuda.device), self.cuda.stream
        return 0.0

    def due(self) -> float | None:
        return None

    def run(self) -> None:
        raise AssertionError

    def abandon(self) -> None:
        pass


def test_a_device_thread_has_its_device_and_its_own_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = Cuda()

    def stream(device: torch.device) -> Stream:
        cuda.made += 1
        return Stream(cuda, f"{device} number {cuda.made}")

    monkeypatch.setattr(torch.cuda, "device", cuda.enter_device)
    monkeypatch.setattr(torch.cuda, "stream", cuda.enter_stream)
    monkeypatch.setattr(torch.cuda, "Stream", stream)
    monkeypatch.setattr(torch.cuda, "default_stream", lambda device: Stream(cuda, f"{device}"))
    seen = []
    for _ in range(2):
        worker, thread = Worker(cuda), DeviceThread(own_stream(torch.device("cuda:1")))
        thread.start([worker])
        asyncio.run(thread.close(60))
        seen.append(worker.warmed_on)
    assert seen == [("cuda:1", "cuda:1 number 1"), ("cuda:1", "cuda:1 number 2")]
    # What loaded the weights used the default stream.
    assert cuda.waits == [("cuda:1 number 1", "cuda:1"), ("cuda:1 number 2", "cuda:1")]
    assert (str(cuda.device), cuda.stream) == ("cuda:0", "default")
