r"""Images a second that training takes in, by number of processes and by how they share weights.

    python -m benchmarks.train_speed tiny --processes 1 2 --out OUT.json
    python -m benchmarks.train_speed lo --processes 1 2 4 8 --share 16 --precision bf16 --compile \
        --threads 8 --steps 50 --out OUT.json                         # one machine with eight GPUs

Protocol: the real loop on generated pictures that lie decoded in memory, the same number of images
a process whatever their number (weak scaling), every variant in turns for some rounds; of each the
median and the range of the second half of its steps. The efficiency is images a second and process
beside those of one process in the same run. Logs, samples and checkpoints are left out.
"""

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image
from rich.console import Console

from benchmarks.environment import environment
from flowmo.model.config import preset
from flowmo.training import DataConfig, TrainConfig, train
from flowmo.training.json_report import write_json

_PICTURES = 64


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """Of one variant; ``images_per_second`` is the median over the rounds, of all processes."""

    processes: int
    parallel: str
    images_per_second: float
    slowest: float
    fastest: float
    efficiency: float


def write_pictures(folder: Path, size: int) -> None:
    """Some pictures of noise, JPEGs of a little more than the model's size."""
    generator = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(_PICTURES):
        pixels = generator.integers(0, 256, (size + 8, size + 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i:02d}.jpg")


def images_per_second(config: TrainConfig, processes: int, threads: int) -> float:
    """Train in new processes; the speed of the second half of the steps, of all together.

    Raises:
        RuntimeError: a process failed; the message is what it said.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    common = os.environ | {
        "WORLD_SIZE": str(processes),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": str(threads),
    }
    command = [sys.executable, "-m", "benchmarks.train_speed", "--work"]
    children = [
        subprocess.Popen(  # noqa: S603
            [*command, json.dumps(config.to_dict())],
            env=common | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(processes)
    ]
    errors = [child.communicate()[1] for child in children]
    if any(child.returncode for child in children):
        raise RuntimeError(f"training failed: {''.join(errors)[-2000:]}")
    lines = (Path(config.output) / "log.jsonl").read_text(encoding="utf-8").splitlines()
    speed: float = json.loads(lines[-1])["images_per_second"]
    return speed


def measure(
    base: TrainConfig, processes: Sequence[int], *, share: int, rounds: int, threads: int
) -> list[Row]:
    """Speeds of one process, and of each number of them with whole copies and with shards.

    Args:
        base: the run; batch, sharing and output are set here.
        processes: numbers of processes; 1 is among them.
        share: images a process and step.
        rounds: turns of all variants.
        threads: CPU threads a process.
    """
    variants = [(n, kind) for n in processes for kind in (["ddp", "fsdp"] if n > 1 else ["auto"])]
    found: dict[tuple[int, str], list[float]] = {variant: [] for variant in variants}
    for _ in range(rounds):
        for count, kind in variants:
            with tempfile.TemporaryDirectory() as folder:
                config = TrainConfig.from_dict(
                    base.to_dict()
                    | {"batch_size": share * count, "parallel": kind, "output": f"{folder}/run"}
                )
                found[count, kind].append(images_per_second(config, count, threads))
    alone = statistics.median(found[1, "auto"])
    return [
        Row(
            processes=count,
            parallel="none" if kind == "auto" else kind,
            images_per_second=statistics.median(speeds),
            slowest=min(speeds),
            fastest=max(speeds),
            efficiency=statistics.median(speeds) / count / alone,
        )
        for (count, kind), speeds in found.items()
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("preset", nargs="?", default="tiny")
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--share", type=int, default=8, help="images a process and step")
    parser.add_argument("--steps", type=int, default=20, help="of each variant, half of it timed")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1, help="CPU threads a process")
    parser.add_argument("--precision", choices=["float32", "tf32", "bf16"], default="bf16")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--work", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.work is not None:
        train(TrainConfig.from_dict(json.loads(options.work)), console=Console(quiet=True))
        return
    model = preset(options.preset)
    with tempfile.TemporaryDirectory() as folder:
        write_pictures(Path(folder), model.image_size)
        base = TrainConfig(
            model=model,
            data=DataConfig(paths=(folder,), cache="memory", workers=0),
            steps=2 * max(1, options.steps // 2),
            precision=options.precision,
            compile=options.compile,
            device=options.device,
            log_interval=max(1, options.steps // 2),
            sample_interval=0,
            sample_count=1,
            checkpoint_interval=0,
            tensorboard=False,
        )
        base = replace(base, batch_size=options.share)
        rows = measure(
            base,
            sorted({1, *options.processes}),
            share=options.share,
            rounds=options.rounds,
            threads=options.threads,
        )
    for row in rows:
        print(
            f"{row.processes} x {row.parallel:5}{row.images_per_second:9.2f} images/s "
            f"({row.slowest:.2f} ... {row.fastest:.2f})   efficiency {row.efficiency:.2f}"
        )
    if options.out is not None:
        settings = {
            name: getattr(options, name)
            for name in ("preset", "share", "steps", "rounds", "threads", "precision", "compile")
        }
        report = {"settings": settings, "rows": [asdict(row) for row in rows]}
        write_json(options.out, report | {"environment": environment()})


if __name__ == "__main__":
    main()
