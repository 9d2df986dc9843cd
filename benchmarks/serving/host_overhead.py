"""What the decoder's engine itself costs: a tick of a network that takes no time.

    python -m benchmarks.serving.host_overhead --out benchmarks/results/serving/host_overhead.json \
        --before ../other-checkout

measures host microseconds a tick at 1, 8 and 32 rows, with pictures so small that nothing but calls
counts, and of 256 x 256, whose copies count on a CPU; and how long it takes to admit a decode that
may be degraded behind 255 others. With ``--before`` the engine of another checkout is measured too,
in turns with this one's. Of a tick the time of the device's thread on a processor is told, too,
which others on the same machine disturb less.
"""

import argparse
import asyncio
import contextlib
import itertools
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.environment import environment
from flowmo.imaging.reading import Pixels
from flowmo.model.config import FlowMoConfig, SamplerConfig, TransformerConfig
from flowmo.model.tokens import Tokens
from flowmo.service.engine.calls import Call, DecodeOptions
from flowmo.service.engine.local import LocalEngines
from flowmo.service.engine.model_info import ModelInfo
from flowmo.service.engine.schedule import BucketTimes
from flowmo.service.errors import DeadlineUnreachableError
from flowmo.training.json_report import write_json

ROWS = (1, 8, 32)
SIZES = (32, 256)
# What a batch is said to take, whatever its size, while the engine measures it.
_WARM_SECONDS = 0.002


class FreeRunner:
    """Computes nothing: every velocity is the same zeros."""

    def __init__(self, size: int) -> None:
        half = TransformerConfig(width=48, depth=1, heads=4)
        config = FlowMoConfig(
            name="free",
            image_size=size,
            patch_size=8,
            encoder=half,
            decoder=half,
            code_length=16,
            token_bits=12,
            group_bits=4,
        )
        self.info = ModelInfo(fingerprint="0" * 32, config=config, device="cpu", dtype="float32")
        self.buckets = (1, 2, 4, 8, 16, 32)
        self.device = torch.device("cpu")
        self.ticks: list[tuple[int, float, float]] = []
        self.free = False
        self.gate = threading.Event()
        self._zeros = torch.zeros(self.buckets[-1], 3, size, size)

    def synchronize(self) -> None:
        """See :class:`RunnerBase`."""

    def record(self) -> None:
        """See :class:`DecoderRunner`."""

    def encode(self, pixels: Pixels) -> list[Tokens]:
        """See :class:`EncoderRunner`."""
        return [_tokens()] * len(pixels)

    def check(self, tokens: Tokens) -> None:
        """See :class:`DecoderRunner`."""

    def begin(self, tokens: Tokens, seed: int) -> tuple[Tensor, Tensor]:  # noqa: ARG002
        """See :class:`DecoderRunner`."""
        size = self.info.image_size
        return torch.zeros(3, size, size), torch.zeros(16, 13)

    def condition(self, tokens: Tokens) -> Tensor:
        """See :class:`DecoderRunner`."""
        return torch.zeros(tokens.tile_count, 16, 13)

    def velocity(self, x: Tensor, times: Sequence[float], condition: Tensor) -> Tensor:  # noqa: ARG002
        """See :class:`DecoderRunner`."""
        if not self.free:
            time.sleep(_WARM_SECONDS)
        else:
            self.gate.wait()
        self.ticks.append((len(x), time.perf_counter(), time.thread_time()))
        return self._zeros[: len(x)]

    def pixels(self, x: Tensor) -> Pixels:
        """See :class:`DecoderRunner`."""
        return np.zeros((len(x), x.shape[-2], x.shape[-1], 3), np.uint8)


def _tokens() -> Tokens:
    return Tokens(ids=np.zeros((16, 3), np.int32), group_bits=4)


def measure() -> dict[str, Any]:
    """Measure the engine that this process imports; microseconds."""
    ticks = {
        str(size): {
            **{str(rows): asyncio.run(_tick(size, rows, guidance=1.0)) for rows in ROWS},
            # 8 decodes whose every step is two rows
            "16 guided": asyncio.run(_tick(size, 8, guidance=2.0)),
        }
        for size in SIZES
    }
    return {"tick": ticks, "admission": asyncio.run(_admission())}


async def _engines(runner: FreeRunner) -> LocalEngines:
    engines = LocalEngines(runner, runner)
    engines.start()
    while not engines.ready:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    # Measured times are noise here, and would choose the batches by chance.
    times = BucketTimes({bucket: 1e-3 * bucket**0.5 for bucket in runner.buckets})
    if (ticks := getattr(engines.decoder, "_ticks", None)) is not None:
        ticks.times = times
    else:  # of another checkout
        setattr(engines.decoder, "_times", times)  # noqa: B010
    runner.free = True
    runner.ticks.clear()
    return engines


async def _tick(size: int, decodes: int, *, guidance: float) -> dict[str, float]:
    """The median times from one tick to the next of full batches: on the clock, on a processor."""
    runner = FreeRunner(size)
    engines = await _engines(runner)
    steps = 1000 if size <= 64 else 200
    sampler = SamplerConfig(steps=steps, guidance=guidance, guidance_interval=(0.0, 1e17))
    options = [DecodeOptions(seed=seed, sampler=sampler) for seed in range(decodes)]
    tasks = [
        asyncio.create_task(engines.decoder.decode(_tokens(), each, Call())) for each in options
    ]
    while engines.decoder.queue_depth < decodes:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    runner.gate.set()
    await asyncio.gather(*tasks)
    await engines.close()
    rows = decodes * (2 if guidance != 1.0 else 1)
    full = [(at, busy) for size, at, busy in runner.ticks if size == rows]
    between = [(b[0] - a[0], b[1] - a[1]) for a, b in itertools.pairwise(full)]
    wall, busy = (1e6 * statistics.median(times) for times in zip(*between, strict=True))
    return {"wall": round(wall, 1), "processor": round(busy, 1)}


async def _admission() -> dict[str, float]:
    """The longest and the median time that the event loop is held by one admission."""
    runner = FreeRunner(32)
    engines = await _engines(runner)
    sampler = SamplerConfig(steps=1000, guidance=2.0)
    tasks = [
        asyncio.create_task(
            engines.decoder.decode(_tokens(), DecodeOptions(seed=seed, sampler=sampler), Call())
        )
        for seed in range(255)
    ]
    while engines.decoder.queue_depth < 255:  # noqa: ASYNC110
        await asyncio.sleep(0.001)
    seconds = []
    for seed in range(20):
        # Fewer steps must be tried: of another grid each time, as nothing is known of them.
        wish = SamplerConfig(steps=900 + seed, guidance=2.0)
        options = DecodeOptions(seed=seed, sampler=wish, degrade=True)
        begin = time.perf_counter()
        with engines.device.changed, contextlib.suppress(DeadlineUnreachableError):
            engines.decoder._admit(options, Call(deadline=time.monotonic() + 3.0))
        seconds.append(1e6 * (time.perf_counter() - begin))
    for task in tasks:
        task.cancel()
    runner.gate.set()
    await asyncio.gather(*tasks, return_exceptions=True)
    await engines.close()
    return {"median": round(statistics.median(seconds), 1), "largest": round(max(seconds), 1)}


def _measure_in(checkout: Path) -> dict[str, Any]:
    """Measure the engine of a checkout, in a process of its own."""
    result = subprocess.run(  # noqa: S603
        [sys.executable, str(Path(__file__).resolve()), "--once"],
        env=os.environ | {"PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"},
        cwd=checkout,
        check=True,
        stdout=subprocess.PIPE,
    )
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def _least(found: Sequence[Any]) -> Any:
    """The least of each figure of several measurements: what disturbs only ever adds."""
    if isinstance(found[0], dict):
        return {key: _least([each[key] for each in found]) for key in found[0]}
    return min(found)


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line and measure."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving.host_overhead")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--before", type=Path, help="another checkout to measure in turns with")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--once", action="store_true", help="measure here, print JSON")
    options = parser.parse_args(arguments)
    if options.once:
        print(json.dumps(measure()))
        return
    here = Path(__file__).resolve().parents[2]
    checkouts = {"before": options.before, "after": here}
    found: dict[str, list[Any]] = {name: [] for name, path in checkouts.items() if path is not None}
    for _ in range(options.rounds):
        for name, rounds in found.items():
            rounds.append(_measure_in(checkouts[name].resolve()))
    report = {"unit": "microseconds", "rounds": options.rounds, "environment": environment()}
    report |= {name: _least(rounds) for name, rounds in found.items()}
    print(json.dumps({name: report[name] for name in found}, indent=2))
    if options.out is not None:
        write_json(options.out, report)


if __name__ == "__main__":
    main()
