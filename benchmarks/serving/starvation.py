"""What small decodes wait while a picture of 60 tiles is decoded, on an emulated H100.

    python -m benchmarks.serving.starvation [--out PATH]

The engine's own queue and batches (:mod:`flowmo.service.engine`) in virtual time: exact, the same
on every machine. Small decodes of 4 steps come at random, as many as a share of what the device can
do with them alone; the same ones without the picture, and while a decode of 60 tiles and 25 steps,
guided as the model's own sampler is, is always inside. A tick takes what the cost model of
``flowmo cost`` says of Lo on an H100, and in a second run at least 36 ms, what 8 rows take: such a
device computes up to 8 rows in the time of one. HTTP is not in it. The report is
``benchmarks/results/native/starvation.json``.
"""

import argparse
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.environment import environment
from benchmarks.serving.arrivals import poisson_arrivals
from benchmarks.serving.summary import Spread, spread
from flowmo.deploy.cost import GPUS, cost_of
from flowmo.model.config import FlowMoConfig, SamplerConfig, preset
from flowmo.model.layout import PictureLayout
from flowmo.model.pictures import part_of
from flowmo.model.sampler import time_grid
from flowmo.model.tokens import Tokens
from flowmo.service.engine.calls import NO_DEADLINE, DecodeOptions
from flowmo.service.engine.decode_work import DecodeWork, rows_of
from flowmo.service.engine.fairness import FairQueue
from flowmo.service.engine.picture_work import PictureWork
from flowmo.service.engine.schedule import BucketTimes
from flowmo.service.engine.step_batches import StepBatches
from flowmo.training.json_report import write_json

REPORT = Path(__file__).parents[1] / "results" / "native" / "starvation.json"
GPU = "h100"
BUCKETS = (1, 2, 4, 8, 16, 32)
SMALL = SamplerConfig(steps=4, guidance=1.0)
LARGE = SamplerConfig(steps=25)
REQUESTS = 2000
LOADS = (0.3, 0.5, 0.7)
FREE_ROWS = (1, 8)


def bucket_seconds(config: FlowMoConfig, free_rows: int) -> dict[int, float]:
    """The seconds of a batch of each size by the cost model, at least those of ``free_rows``."""
    gpu = GPUS[GPU]
    return {rows: cost_of(config, max(rows, free_rows)).seconds("decoder", gpu) for rows in BUCKETS}


def small(at: float) -> DecodeWork:
    """A decode of one square."""
    return DecodeWork(**_common(SMALL, at))


def picture(at: float, layout: PictureLayout) -> PictureWork:
    """A decode of many tiles; nothing is computed, so it has no state."""
    return PictureWork(
        **_common(LARGE, at),
        part=part_of(layout, None),
        box=(slice(0), slice(0)),
        x=None,
        conditions=None,
    )


def _common(sampler: SamplerConfig, at: float) -> dict[str, Any]:
    return {
        "call": NO_DEADLINE,
        "submitted": at,
        "tokens": Tokens(ids=np.zeros((1, 1), np.int32), group_bits=1),
        "options": DecodeOptions(seed=0, sampler=sampler),
        "watch": None,
        "loop": None,
        "times": time_grid(sampler),
        "rows": rows_of(sampler),
    }


def serve(
    arrivals: Sequence[float], seconds: Mapping[int, float], layout: PictureLayout | None
) -> tuple[list[float], list[float]]:
    """Serve small decodes, beside one picture at any time if there is a layout.

    Returns:
        The latencies of the small ones, and of the pictures that ended, in seconds.
    """
    times, queue = BucketTimes(seconds), FairQueue[DecodeWork]()
    batches = StepBatches(queue, "step")
    now, coming = 0.0, 0
    latencies: list[float] = []
    pictures: list[float] = []
    if layout is not None:
        queue.add(picture(now, layout))
    while len(latencies) < len(arrivals):
        while coming < len(arrivals) and arrivals[coming] <= now:
            queue.add(small(arrivals[coming]))
            coming += 1
        jobs, bucket = batches.next(times)
        if not jobs:
            now = arrivals[coming]
            continue
        now += seconds[bucket]
        for work in _made(jobs):
            queue.remove(work)
            if isinstance(work, PictureWork):
                pictures.append(now - work.submitted)
                assert layout is not None
                queue.add(picture(now, layout))
            else:
                latencies.append(now - work.submitted)
    return latencies, pictures


def _made(jobs: Sequence[DecodeWork]) -> list[DecodeWork]:
    """Take the steps of a tick; those that have none left."""
    done = []
    for work in jobs:
        if isinstance(work, PictureWork):
            work.tile += 1
            if work.ready_parts:
                continue
            work.tile = 0
        work.step += 1
        if not work.steps_left:
            done.append(work)
    return done


def capacity(seconds: Mapping[int, float]) -> float:
    """Small decodes a second of a device that always has enough of them."""
    most = max(seconds)
    return most / seconds[most] / SMALL.steps


def measure(config: FlowMoConfig, layout: PictureLayout) -> list[dict[str, Any]]:
    """Every load, without the picture and with it."""
    rows = []
    for free_rows, load, tiled in itertools.product(FREE_ROWS, LOADS, (None, layout)):
        seconds = bucket_seconds(config, free_rows)
        rate = load * capacity(seconds)
        latencies, pictures = serve(poisson_arrivals(rate, REQUESTS / rate, seed=0), seconds, tiled)
        found: Spread = spread(latencies)
        rows.append(
            {
                "free_rows": free_rows,
                "load": load,
                "tiles_of_the_picture": 0 if tiled is None else tiled.tiles,
                "small_latency_ms": {name: 1e3 * value for name, value in asdict(found).items()},
                "pictures_done": len(pictures),
                "picture_seconds": sum(pictures) / len(pictures) if pictures else None,
            }
        )
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, write the report, print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving.starvation")
    parser.add_argument("--out", type=Path, default=REPORT)
    options = parser.parse_args(arguments)
    config = preset("lo")
    layout = PictureLayout(width=2272, height=1376, tile_size=config.image_size, overlap=32)
    rows = measure(config, layout)
    report = {
        "command": "python -m benchmarks.serving.starvation",
        "model": config.name,
        "gpu": f"{GPU}, emulated",
        "requests": REQUESTS,
        "picture": {"width": layout.width, "height": layout.height, "steps": LARGE.steps},
        "tick_seconds": {str(n): bucket_seconds(config, n) for n in FREE_ROWS},
        "environment": environment(),
        "rows": rows,
    }
    write_json(options.out, report)
    for row in rows:
        latency = row["small_latency_ms"]
        beside = f"{row['tiles_of_the_picture']} tiles beside"
        print(
            f"{row['free_rows']} rows free, load {row['load']:g}, {beside}: "
            f"p50 {latency['p50']:.1f} ms, p95 {latency['p95']:.1f} ms"
        )


if __name__ == "__main__":
    main()
