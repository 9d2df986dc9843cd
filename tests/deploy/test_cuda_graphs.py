"""How graphs are captured and replayed, on a device that is played by this file."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor

from flowmo.deploy import whole_decodes
from flowmo.deploy.cuda_graphs import CudaGraphs
from flowmo.deploy.graphs import example, graph_of
from flowmo.deploy.whole_decodes import WholeDecodes
from flowmo.model.config import SamplerConfig
from flowmo.model.decoding import decode_modulated
from flowmo.model.inference import InferenceModel


class Stream:
    def __init__(self, device: torch.device | None = None) -> None:
        self.device = device
        self.waited_for: list[Stream] = []

    def wait_stream(self, other: "Stream") -> None:
        self.waited_for.append(other)


class Graph:
    """What is captured: a function that fills the output again from the same inputs."""

    def __init__(self) -> None:
        self.again: Callable[[], object] = lambda: None

    def replay(self) -> None:
        self.again()

    def pool(self) -> str:
        return "pool"


class Device:
    """What PyTorch says of a GPU, and a record of the captures."""

    def __init__(self) -> None:
        self.main = Stream()
        self.captures: list[tuple[object, Stream, str]] = []
        self.devices: list[torch.device] = []
        self.capturing: Graph | None = None
        self.meanwhile: Callable[[], None] = lambda: None

    @contextmanager
    def graph(
        self, graph: Graph, *, pool: object, stream: Stream, capture_error_mode: str
    ) -> Iterator[None]:
        assert self.capturing is None
        self.captures.append((pool, stream, capture_error_mode))
        self.capturing = graph
        yield
        self.meanwhile()
        self.capturing = None

    def enter(self, device: torch.device) -> "nullcontext[None]":
        self.devices.append(device)
        return nullcontext()

    def recorded(self, compute: Callable[..., Tensor]) -> Callable[..., Tensor]:
        """A function whose calls inside a capture are what its graph does again."""

        def call(*inputs: Any, **options: Any) -> Tensor:
            output = compute(*inputs, **options)
            if self.capturing is not None:
                self.capturing.again = lambda: output.copy_(compute(*inputs, **options))
            return output

        return call

    def twice_the_sum(self, a: Tensor, b: Tensor) -> Tensor:
        return self.recorded(lambda a, b: 2 * (a + b))(a, b)


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Device:
    made = Device()
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda _: nullcontext())
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _=None: made.main)
    monkeypatch.setattr(torch.cuda, "device", made.enter)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", made.graph)
    return made


def test_outputs_stay_what_they_are_through_later_replays(device: Device) -> None:
    graphs = CudaGraphs(device.twice_the_sum)
    kept = []
    for rows in (1, 4, 1, 4, 1):
        a, b = torch.randn(2, rows, 3)
        kept.append((graphs(a, b), 2 * (a + b)))
    assert len(device.captures) == 2  # one a batch size
    assert all(torch.equal(output, expected) for output, expected in kept)


def test_captures_share_memory_and_leave_other_threads_alone(device: Device) -> None:
    graphs = CudaGraphs(device.twice_the_sum)
    for rows in (1, 2, 4):
        graphs(torch.ones(rows, 1), torch.ones(rows, 1))
    (first, *pools), streams, modes = zip(*device.captures, strict=True)
    assert first is None
    assert pools == ["pool", "pool"]
    # Memory of a pool is used again by captures on the same stream only.
    assert len(set(map(id, streams))) == 1
    assert set(modes) == {"thread_local"}
    assert device.main in streams[0].waited_for
    assert set(device.devices) == {torch.device("cpu")}  # the inputs', not the first GPU


def test_one_capture_at_a_time_in_the_process(device: Device) -> None:
    begun = threading.Event()
    waiting: list[Future[Tensor]] = []

    def second() -> Tensor:
        begun.set()
        return CudaGraphs(device.twice_the_sum)(torch.ones(1), torch.ones(1))

    def meanwhile() -> None:
        device.meanwhile = lambda: None
        waiting.append(pool.submit(second))
        assert begun.wait(60)  # the device above refuses it until this capture has ended

    device.meanwhile = meanwhile
    with ThreadPoolExecutor(1) as pool:
        CudaGraphs(device.twice_the_sum)(torch.ones(1), torch.ones(1))
        assert waiting[0].result() == 4
    assert len(device.captures) == 2


def test_a_whole_decode_is_one_graph_a_sampler(
    device: Device, small: InferenceModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(whole_decodes, "decode_modulated", device.recorded(decode_modulated))
    samplers = [SamplerConfig(steps=2), SamplerConfig(steps=3, guidance=1.0)]
    step = graph_of(small, "decoder")
    graphs, eager = (
        WholeDecodes(step, small, samplers, cuda_graphs=captured) for captured in (True, False)
    )
    kept = []
    for seed, sampler in enumerate([*samplers, *samplers]):
        start, condition, _ = example(small, "decoder", 1, seed=seed)
        kept.append((graphs(start, condition, sampler), start, condition, sampler))
    assert len(device.captures) == 2
    for output, start, condition, sampler in kept:
        with torch.inference_mode():
            assert torch.equal(output, eager(start, condition, sampler))
