"""Scaling decoders by requests beside scaling them by seconds of work.

    python -m benchmarks.serving.autoscaling --out benchmarks/results/serving/autoscaling

runs the same loads against a Ray cluster of this machine's own once with each signal, and writes
OUT.json and OUT.png. Decoders are emulated (``emulated.py``), so that more of them do more on any
machine: what is compared is how soon the signal sees that more are needed, and how many are kept.
"""

import argparse
import asyncio
import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from benchmarks.environment import environment
from benchmarks.serving.arrivals import poisson_arrivals
from benchmarks.serving.emulated import ROW_SECONDS
from benchmarks.serving.load import Outcome, connect, open_loop
from benchmarks.serving.summary import spread
from benchmarks.serving.workload import Kind, look_at
from flowmo.cli.server_process import ServerProcess
from flowmo.training.json_report import write_json

Signal = Literal["requests", "backlog"]
SIGNALS: tuple[Signal, ...] = ("requests", "backlog")
_ROOT = Path(__file__).resolve().parents[2]
_LIGHT = Kind(name="light", steps=4, guidance=1.0, accept="image/jpeg")
_HEAVY = Kind(name="heavy", steps=100, guidance=1.0, accept="image/jpeg")
_DEADLINE = 30.0
_MOST = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class Phase:
    """A load.

    Attributes:
        kind: of the requests.
        load: in full decoders.
        seconds: that it lasts.
    """

    kind: Kind
    load: float
    seconds: float

    @property
    def rate(self) -> float:
        """Requests a second."""
        assert self.kind.steps is not None
        return self.load / (ROW_SECONDS * self.kind.steps)


PHASES = (
    Phase(kind=_LIGHT, load=0.6, seconds=45.0),
    Phase(kind=_HEAVY, load=0.6, seconds=45.0),
    Phase(kind=_HEAVY, load=2.4, seconds=90.0),
    Phase(kind=_LIGHT, load=0.6, seconds=60.0),
)


@dataclass(kw_only=True, slots=True)
class Count:
    """How many decoders there are, looked at once a second; seconds from the start of the load."""

    at: list[float] = field(default_factory=list)
    decoders: list[int] = field(default_factory=list)

    def mean(self, begin: float, end: float) -> float:
        """In an interval of time."""
        seen = [n for t, n in zip(self.at, self.decoders, strict=True) if begin <= t < end]
        return sum(seen) / max(1, len(seen))


def config(checkpoint: Path, signal: Signal) -> dict[str, Any]:
    """What runs on the cluster: alike but for the signal."""
    decoder: dict[str, Any] = {
        "num_cpus": 0.1,
        "max_replicas": _MOST,
        "upscale_delay_seconds": 5,
        "downscale_delay_seconds": 20,
    }
    if signal == "backlog":
        decoder["target_backlog_seconds"] = 1.0
    model = {
        "checkpoint": str(checkpoint),
        "device": "cpu",
        "threads": 1,
        "max_batch": 16,
        "runner": "benchmarks.serving.emulated:make",
        "encoder": {"num_cpus": 0.1},
        "decoder": decoder,
    }
    settings = {"cache_bytes": 0, "default_deadline_seconds": _DEADLINE}
    return {"models": {"model": model}, "gateway": {"num_cpus": 0.1}, "settings": settings}


async def offer(
    url: str, phases: Sequence[Phase], *, seed: int
) -> tuple[list[list[Outcome]], Count]:
    """Offer one load after the other; what became of the requests, and the decoders."""
    served = look_at(url)
    count = Count()
    begin = time.monotonic()

    async def look() -> None:
        while True:
            count.at.append(time.monotonic() - begin)
            count.decoders.append(decoders())
            await asyncio.sleep(1.0)

    looking = asyncio.create_task(look())
    answers: list[asyncio.Task[list[Outcome]]] = []
    async with connect(url) as client, asyncio.TaskGroup() as group:
        end = begin
        for number, phase in enumerate(phases):
            arrivals = poisson_arrivals(phase.rate, phase.seconds, seed=seed + number)
            asks = served.workload([phase.kind]).draw(len(arrivals), seed=seed + number)
            # What is still inside of one phase is not waited for.
            answers.append(group.create_task(open_loop(client, asks, arrivals)))
            end += phase.seconds
            await asyncio.sleep(end - time.monotonic())
    looking.cancel()
    return [task.result() for task in answers], count


def decoders() -> int:
    """Decoder replicas there are on this machine, of whatever cluster."""
    found = 0
    for folder in Path("/proc").iterdir():
        try:
            title = (folder / "cmdline").read_bytes()
        except OSError:
            continue
        found += title.startswith(b"ray::ServeReplica:flowmo:decoder-")
    return found


def summary(phases: Sequence[Phase], outcomes: Sequence[list[Outcome]], count: Count) -> Any:
    """Figures of each phase."""
    rows, begin = [], 0.0
    for phase, phase_outcomes in zip(phases, outcomes, strict=True):
        answered = [outcome.latency for outcome in phase_outcomes if outcome.is_answer]
        rows.append(
            {
                "kind": phase.kind.name,
                "load": phase.load,
                "seconds": phase.seconds,
                "requests": len(phase_outcomes),
                "answered": len(answered),
                "latency": asdict(spread(answered)) if answered else None,
                "mean_decoders": count.mean(begin, begin + phase.seconds),
            }
        )
        begin += phase.seconds
    return rows


def measure(checkpoint: Path, out: Path, phases: Sequence[Phase], *, seed: int) -> None:
    """Run everything and write OUT.json and OUT.png."""
    report: dict[str, Any] = {
        "row_seconds": ROW_SECONDS,
        "most_decoders": _MOST,
        "seed": seed,
        "signals": {},
        "environment": environment(),
    }
    for signal in SIGNALS:
        with tempfile.TemporaryDirectory(prefix="fm") as folder:
            path = Path(folder) / "serve.yaml"
            content = {"applications": [{"name": "flowmo", "args": config(checkpoint, signal)}]}
            path.write_text(json.dumps(content))
            log = Path(folder) / "server.log"
            with ServerProcess([f"--ray-config={path}"], log=log) as server:
                outcomes, count = asyncio.run(offer(server.url, phases, seed=seed))
        report["signals"][signal] = {
            "phases": summary(phases, outcomes, count),
            "decoders": {"at": [round(t, 1) for t in count.at], "number": count.decoders},
        }
    write_json(out.with_suffix(".json"), report)
    draw(report, out.with_suffix(".png"))
    print(table(report))


def table(report: dict[str, Any]) -> str:
    """Markdown."""
    lines = [
        "| signal | load, in decoders | requests | answered | p50 (s) | p95 (s) | decoders |",
        "|---|---|---|---|---|---|---|",
    ]
    for signal, result in report["signals"].items():
        for row in result["phases"]:
            times = row["latency"]
            p50, p95 = (f"{times[name]:.2f}" if times else "-" for name in ("p50", "p95"))
            lines.append(
                f"| {signal} | {row['load']} {row['kind']} | {row['requests']} | "
                f"{row['answered']} | {p50} | {p95} | {row['mean_decoders']:.1f} |"
            )
    return "\n".join(lines)


def draw(report: dict[str, Any], out: Path) -> None:
    """Decoders over time, one line a signal."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(7, 2.8))
    begin = 0.0
    for row in report["signals"][SIGNALS[0]]["phases"]:
        axis.axvline(begin, color="grey", linewidth=0.6, linestyle=":")
        axis.text(begin + 1, 0.1, f"{row['load']} {row['kind']}", fontsize=8)
        begin += row["seconds"]
    for signal, result in report["signals"].items():
        decoders = result["decoders"]
        axis.step(decoders["at"], decoders["number"], where="post", label=f"by {signal}")
    axis.set_ylim(0, report["most_decoders"] + 0.5)
    axis.set_xlabel("seconds")
    axis.set_ylabel("decoders")
    axis.legend()
    figure.tight_layout()
    figure.savefig(out, dpi=90)
    plt.close(figure)


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line and measure."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving.autoscaling")
    parser.add_argument("--checkpoint", type=Path, default=_ROOT / "checkpoints" / "tiny")
    parser.add_argument("--out", type=Path, required=True, help="path of the report, no suffix")
    parser.add_argument("--seed", type=int, default=0, help="of arrivals and requests")
    options = parser.parse_args(arguments)
    measure(options.checkpoint, options.out, PHASES, seed=options.seed)


if __name__ == "__main__":
    main()
