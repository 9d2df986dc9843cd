"""An emulated GPU: every tick takes as long as an H100 would at least take, and computes nothing.

A tick of B rows takes the roofline's time of one forward (:meth:`flowmo.deploy.cost.Cost.seconds`:
the slower of computing and moving) and, before it, what its kernels take however little each has to
do. So a batch of 16 costs little more than one row of a model whose rows are small, and 13 times as
much of Lo, one row of which fills the machine. It is a model, not a measurement: kernels that fill
the machine's last wave badly, and efficiencies below the roofline, are not in it.

Time is virtual: the engine's own code chooses, forms and ends ticks, and its clock is moved by this
device instead of waiting for it. So results are exact, repeat, and do not depend on this machine.
"""

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor

from flowmo.deploy.cost import GPUS, Gpu, cost_of
from flowmo.imaging.reading import Pixels
from flowmo.model.config import FlowMoConfig, SamplerConfig, TransformerConfig
from flowmo.model.tokens import Tokens
from flowmo.service.engine.calls import NO_DEADLINE, Batching, Call, DecodeOptions
from flowmo.service.engine.decode_work import DecodeWork
from flowmo.service.engine.decoder import DecoderEngine
from flowmo.service.engine.device import DeviceThread
from flowmo.service.engine.fairness import FairQueue
from flowmo.service.engine.model_info import ModelInfo
from flowmo.service.engine.observer import NullObserver
from flowmo.service.engine.schedule import BucketTimes, worthwhile

# Of one block of the compiled network: 14 fused kernels, 8 products, 1 attention (counted in
# Inductor's code for an H100); and the least that one takes in a CUDA graph. The second is an
# assumption.
KERNELS_A_BLOCK = 23
KERNEL_SECONDS = 3e-6
# What the engine takes between two ticks while the device computes: host_overhead.json, 16 rows.
HOST_SECONDS = 150e-6
BUCKETS = (1, 2, 4, 8, 16)


def tick_seconds(config: FlowMoConfig, rows: int, gpu: Gpu = GPUS["h100"]) -> float:
    """The seconds of one forward of the decoder.

    Args:
        config: The model.
        rows: The rows of the batch, at least 1.
        gpu: What computes.
    """
    kernels = KERNELS_A_BLOCK * config.decoder.depth
    return kernels * KERNEL_SECONDS + cost_of(config, rows).seconds("decoder", gpu)


def bucket_seconds(config: FlowMoConfig) -> dict[int, float]:
    """The seconds of a tick by the size of its batch."""
    return {bucket: tick_seconds(config, bucket) for bucket in BUCKETS}


class VirtualClock:
    """A clock that somebody moves.

    Attributes:
        now: The time, in seconds from 0.
        arrivals: What comes at which time, ascending; each is called when the clock comes to it.
    """

    def __init__(self) -> None:
        self.now = 0.0
        self.arrivals = deque[tuple[float, Callable[[], None]]]()

    def __call__(self) -> float:
        """The time, as :func:`time.monotonic` would say it."""
        return self.now

    def wait_until(self, time: float) -> None:
        """Move on to a time, with everything that comes until then; a past one changes nothing."""
        while self.arrivals and self.arrivals[0][0] <= time:
            at, come = self.arrivals.popleft()
            self.now = max(self.now, at)
            come()
        self.now = max(self.now, time)


@dataclass(frozen=True, slots=True)
class _End:
    """The end of what the device was given so far."""

    clock: VirtualClock
    at: float

    def synchronize(self) -> None:
        """See :class:`Marker`."""
        self.clock.wait_until(self.at)


class RooflineRunner:
    """A decoder's runner whose device is busy for as long as a GPU would be.

    Its pictures are of 8 x 8 pixels, whatever the model whose times it takes: they are nothing.

    Args:
        seconds: The time of a batch, by its size.
        clock: Is moved on to the end of a tick by whoever waits for it.
    """

    def __init__(self, seconds: Mapping[int, float], clock: VirtualClock) -> None:
        half = TransformerConfig(width=48, depth=1, heads=4)
        config = FlowMoConfig(
            name="emulated",
            image_size=8,
            patch_size=8,
            encoder=half,
            decoder=half,
            code_length=4,
            token_bits=12,
            group_bits=4,
        )
        self.info = ModelInfo(
            fingerprint="0" * 32, config=config, device="emulated", dtype="bfloat16"
        )
        self.buckets = tuple(sorted(seconds))
        self.device = torch.device("cpu")
        self.rows = 0
        self.ticks = 0
        self._seconds, self._clock, self._free_at = dict(seconds), clock, 0.0
        self._zeros = torch.zeros(self.buckets[-1], 3, 8, 8)
        self._noise = torch.zeros(3, 8, 8), torch.zeros(4, 13)

    def synchronize(self) -> None:
        """See :class:`RunnerBase`."""
        self._clock.wait_until(self._free_at)

    def record(self) -> _End:
        """See :class:`DecoderRunner`."""
        return _End(self._clock, self._free_at)

    def check(self, tokens: Tokens) -> None:
        """See :class:`DecoderRunner`."""

    def begin(self, tokens: Tokens, seed: int) -> tuple[Tensor, Tensor]:  # noqa: ARG002
        """See :class:`DecoderRunner`."""
        return self._noise

    def condition(self, tokens: Tokens) -> Tensor:
        """See :class:`DecoderRunner`."""
        return torch.zeros(tokens.tile_count, 4, 13)

    def velocity(self, x: Tensor, times: Sequence[float], condition: Tensor) -> Tensor:  # noqa: ARG002
        """See :class:`DecoderRunner`."""
        self._free_at = max(self._free_at, self._clock.now) + self._seconds[len(x)]
        self.ticks += 1
        return self._zeros[: len(x)]

    def pixels(self, x: Tensor) -> Pixels:
        """See :class:`DecoderRunner`."""
        return np.zeros((len(x), 8, 8, 3), np.uint8)


class OldestFirst(FairQueue[DecodeWork]):
    """Gives every tick to the oldest decodes, as the engine did before it shared them."""

    def order(self) -> Iterator[DecodeWork]:
        """See :meth:`FairQueue.order`."""
        for job in self:
            for _ in range(job.ready_parts):
                yield job


@dataclass(frozen=True, kw_only=True, slots=True)
class Arrival:
    """A decode that will be asked for.

    Attributes:
        at: When it comes, in seconds.
        sampler: Its steps.
        call: Whose it is.
    """

    at: float
    sampler: SamplerConfig
    call: Call = NO_DEADLINE


@dataclass(frozen=True, kw_only=True, slots=True)
class Served:
    """What became of decodes.

    Attributes:
        latencies: The seconds from each decode's arrival to its picture, in the order of arrival.
        seconds: When the last was done.
        ticks: The ticks that were made.
    """

    latencies: list[float]
    seconds: float
    ticks: int


def serve(
    arrivals: Sequence[Arrival],
    seconds: Mapping[int, float],
    *,
    batching: Batching = "step",
    oldest_first: bool = False,
) -> Served:
    """Let the decoder's engine serve decodes on an emulated device.

    Args:
        arrivals: The decodes, by the time that they come.
        seconds: The time of a batch, by its size.
        batching: See :class:`DecoderEngine`.
        oldest_first: Whether the oldest decodes go first, instead of sharing ticks fairly.
    """
    clock = VirtualClock()
    runner = RooflineRunner(seconds, clock)
    device = DeviceThread()  # its lock is wanted; the ticks are made here
    engine = DecoderEngine(
        runner,
        device,
        NullObserver(),
        max_queued_requests=len(arrivals) + 1,
        batching=batching,
        clock=clock,
        queue=OldestFirst() if oldest_first else None,
    )
    engine._ticks.times = BucketTimes(worthwhile(seconds, keep=2))
    tokens = Tokens(ids=np.zeros((4, 3), np.int32), group_bits=4)
    ended: list[float | None] = [None] * len(arrivals)

    def come(index: int) -> None:
        def done(_: object) -> None:
            ended[index] = clock.now

        arrival = arrivals[index]
        work = engine.submit(
            tokens, DecodeOptions(seed=index, sampler=arrival.sampler), arrival.call
        )
        work.future.add_done_callback(done)

    for index, arrival in enumerate(arrivals):
        clock.arrivals.append((arrival.at, lambda index=index: come(index)))  # type: ignore[misc]
    while clock.arrivals or engine.queue_depth:
        with device.changed:
            is_due = engine.due() is not None
        if is_due:
            clock.wait_until(clock.now + HOST_SECONDS)
            engine.run()
        else:
            clock.wait_until(clock.arrivals[0][0])
    with device.changed:
        engine.abandon()
    latencies = [
        end - arrival.at for arrival, end in zip(arrivals, ended, strict=True) if end is not None
    ]
    assert len(latencies) == len(arrivals)
    return Served(latencies=latencies, seconds=clock.now, ticks=runner.ticks)


@cache
def alone_seconds(sampler: SamplerConfig, seconds: tuple[tuple[int, float], ...]) -> float:
    """The latency of a decode that nobody else is beside.

    Args:
        sampler: Its steps.
        seconds: The time of a batch by its size, as pairs.
    """
    return serve([Arrival(at=0.0, sampler=sampler)], dict(seconds)).latencies[0]
