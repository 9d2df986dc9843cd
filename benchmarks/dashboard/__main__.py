"""A picture of the dashboards during a load, for the documentation.

    python -m benchmarks.dashboard checkpoints/tiny --out docs/images/dashboard.png     # 6 minutes

starts a server and a real Prometheus, measures the server's capacity, offers it a half, all and
twice of that, and draws panels from the expressions that Grafana would evaluate.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path
from urllib.parse import urlsplit

from benchmarks.dashboard.draw import draw
from benchmarks.dashboard.visitors import visitors
from benchmarks.prometheus import Prometheus
from benchmarks.serving.runs import run_load, saturate
from benchmarks.serving.server import Server
from benchmarks.serving.workload import MIX, look_at
from tools.grafana.__main__ import DASHBOARDS
from tools.grafana.panels import Panel

# What is drawn, by the pages' titles.
TITLES = (
    "Answers by status",
    "Latency of detokenize",
    "Where the time goes",
    "Problems by code",
    "Refused for want of capacity",
    "Requests inside",
    "Rows a tick",
    "Duration of a tick",
    "Steps of pictures",
    "Work inside",
    "Steps saved",
    "Latency: burn rate",
)
LOADS = (0.5, 1.0, 2.0)
# Of a good answer, in seconds: what cannot be done in so long is refused.
DEADLINE = 4.0
RATE_INTERVAL = "20s"
_SCRAPE_SECONDS = 2.0


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="PNG file to write")
    parser.add_argument("--seconds", type=float, default=80.0, help="of each load")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    panels = {panel.title: panel for page in DASHBOARDS for panel in page.panels}
    measure(
        arguments.checkpoint,
        arguments.out,
        [panels[title] for title in TITLES],
        seconds=arguments.seconds,
        seed=arguments.seed,
    )


def measure(checkpoint: Path, out: Path, panels: list[Panel], *, seconds: float, seed: int) -> None:
    """Load a server, and draw what Prometheus has seen.

    Args:
        checkpoint: what is served.
        out: PNG file to write; its folder is made.
        panels: what is drawn.
        seconds: The length of each load in seconds.
        seed: The seed of arrivals and requests.
    """
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        with Server(checkpoint, batching="step", threads=2, log=folder / "server.log") as server:
            mix = look_at(server.url).workload(MIX)
            saturated = saturate(server, mix, concurrency=16, ramp=3.0, seconds=12.0, seed=seed)
            capacity = saturated.computed.rows_a_second / mix.mean_rows
            _tell(f"capacity: {capacity:.2f} requests/s")
            target = {"flowmo": [urlsplit(server.url).netloc]}
            with (
                Prometheus(target, folder / "prometheus", seconds=_SCRAPE_SECONDS) as prometheus,
                visitors(server.url),
            ):
                time.sleep(2 * _SCRAPE_SECONDS)
                start = time.time()
                phases = []
                for load in LOADS:
                    begin = time.time()
                    run_load(
                        server,
                        mix,
                        rate=load * capacity,
                        ramp=0.0,
                        seconds=seconds,
                        seed=seed,
                        deadline=DEADLINE,
                    )
                    phases.append((begin, f"{load:g} × capacity"))
                    _tell(f"load {load:g} done")
                out.parent.mkdir(parents=True, exist_ok=True)
                draw(
                    prometheus,
                    panels,
                    out,
                    start=start,
                    end=time.time(),
                    phases=phases,
                    rate_interval=RATE_INTERVAL,
                )


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
