"""A worker's pod ends while requests longer than Ray's own grace are inside it.

    python -m benchmarks.chaos.pod_ends --out benchmarks/results/chaos/pod_ends.json

On a local Ray cluster of a head and two nodes with a replica of each kind. Requests are sent
whose decodes take some forty seconds; then one node gets what a pod of k8s/base gets at its end:
once SIGTERM alone, once the hook before it (service/cluster/leaving.py). Counted is what became of
the requests.
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import yaml

from benchmarks.chaos.processes import titles
from benchmarks.environment import environment
from flowmo.cli.server_process import ServerProcess
from flowmo.photographs import photograph_paths
from flowmo.training.json_report import write_json

_CLUSTER = """
import sys
from ray.cluster_utils import Cluster

cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
for _ in range(2):
    cluster.add_node(num_cpus=2)
print(cluster.address, flush=True)
sys.stdin.read()
cluster.shutdown()
"""
# Above Ray's half minute.
_SECONDS = 42.0
# The first number of requests with which the most steps that are allowed last long enough.
_REQUESTS = (12, 24, 48)
_TRIAL_STEPS = 100
_MAX_STEPS = 1000


def _config(folder: Path) -> Path:
    # On two of the three nodes there is room for all: those of the third can move there.
    scaling = {"num_cpus": 0.3, "min_replicas": 2, "max_replicas": 2}
    model = {"checkpoint": "tiny", "device": "cpu", "threads": 1}
    model |= {"encoder": scaling, "decoder": scaling}
    settings = {"max_deadline_seconds": 90, "default_deadline_seconds": 90, "cache_bytes": 0}
    settings |= {"max_steps": _MAX_STEPS, "max_concurrent_requests": max(_REQUESTS)}
    args = {"models": {"tiny": model}, "gateway": scaling, "settings": settings}
    path = folder / "serve.yaml"
    path.write_text(yaml.safe_dump({"applications": [{"name": "flowmo", "args": args}]}))
    return path


def _ask(url: str, steps: int, seed: int) -> tuple[int, float]:
    picture = photograph_paths()[0].read_bytes()
    begin = time.monotonic()
    try:
        answer = httpx.post(
            f"{url}/v1/reconstruct",
            content=picture,
            params={"steps": steps, "seed": seed, "fit": "crop"},  # one square, one row
            headers={"Content-Type": "image/jpeg"},
            timeout=120,
        )
    except httpx.HTTPError:
        return 0, time.monotonic() - begin
    return answer.status_code, time.monotonic() - begin


@dataclass(frozen=True, slots=True)
class _Work:
    requests: int
    steps: int


def _together(url: str, work: _Work, meanwhile: threading.Event) -> list[tuple[int, float]]:
    with ThreadPoolExecutor(work.requests) as pool:
        asked = [pool.submit(_ask, url, work.steps, seed) for seed in range(work.requests)]
        meanwhile.set()
        return [one.result() for one in asked]


def _long_work(url: str) -> _Work:
    """Requests that take long enough on this machine, as busy as it is.

    Raises:
        RuntimeError: A request failed, or not even the most of them take so long.
    """
    for _ in range(4):  # what is done at the first calls only is over then
        _together(url, _Work(_REQUESTS[0], 10), threading.Event())
    for requests in _REQUESTS:
        tried = _together(url, _Work(requests, _TRIAL_STEPS), threading.Event())
        if failed := [status for status, _ in tried if status != 200]:
            raise RuntimeError(f"requests failed before anything was broken: {failed}")
        steps = int(_TRIAL_STEPS * _SECONDS / max(seconds for _, seconds in tried))
        if steps <= _MAX_STEPS:
            return _Work(requests, steps)
    raise RuntimeError(
        f"{_REQUESTS[-1]} requests of {_MAX_STEPS} steps take less than {_SECONDS} s"
    )


def _one(*, hook: bool, folder: Path) -> dict[str, Any]:
    with subprocess.Popen(  # noqa: S603
        [sys.executable, "-c", _CLUSTER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as cluster:
        assert cluster.stdin is not None
        assert cluster.stdout is not None
        address = cluster.stdout.readline().strip()
        if not address:
            raise RuntimeError("the cluster did not start; what it says is above")
        variables = os.environ | {"RAY_ADDRESS": address}
        arguments = ["--ray-config", str(_config(folder))]
        log = folder / "server.log"
        with ServerProcess(arguments, log=log, environment=variables, start_seconds=600) as server:
            begun = threading.Event()
            work = _long_work(server.url)
            victim = _victim(cluster.pid)
            with ThreadPoolExecutor(1) as pool:
                load = pool.submit(_together, server.url, work, begun)
                begun.wait()
                time.sleep(3)  # they are in the decoders
                lost = _serving(victim)
                begin = time.monotonic()
                left = _leave(victim, begin) if hook else {}
                paused = time.monotonic() - begin
                os.kill(victim, signal.SIGTERM)
                answers = load.result()
            after = [_ask(server.url, 4, seed) for seed in range(8)]
        cluster.stdin.close()
    return {
        "hook": hook,
        "on_the_node": sorted(lost),
        "left_after_seconds": left,
        "steps": work.steps,
        "seconds_before_sigterm": round(paused, 1),
        "requests": [{"status": status, "seconds": round(took, 1)} for status, took in answers],
        "failed": sum(status != 200 for status, _ in answers),
        "failed_afterwards": sum(status != 200 for status, _ in after),
    }


def _leave(raylet: int, begin: float) -> dict[str, float | None]:
    """Run the hook, and look when each process left; None for one that is still there then."""
    left: dict[str, float | None] = {}
    module = [sys.executable, "-m", "flowmo.service.cluster.leaving"]
    with subprocess.Popen([*module, "100", str(raylet)]) as hook:  # noqa: S603
        while hook.poll() is None:
            there = _serving(raylet)
            left |= dict.fromkeys(there)
            for name, seconds in left.items():
                if name not in there and seconds is None:
                    left[name] = round(time.monotonic() - begin, 1)
            time.sleep(0.5)
    if hook.returncode:
        raise RuntimeError(f"the hook ended with {hook.returncode}")
    return left


def _serving(raylet: int) -> list[str]:
    """The replicas and proxies of a node."""
    found = (title.split("\0")[0] for pid, title in titles(raylet) if pid != raylet)
    return [name for name in found if "ServeReplica" in name or "Proxy" in name]


def _victim(cluster: int) -> int:
    """The raylet of the node with most decoders."""
    raylets = [pid for pid, title in titles(cluster) if title.split("\0")[0].endswith("/raylet")]
    found = {pid: sum("decoder" in name for name in _serving(pid)) for pid in raylets}
    most = max(found, key=lambda pid: found[pid])
    if not found[most]:
        raise RuntimeError(f"no node has a decoder: {found}")
    return most


def main() -> int:
    """The command; 1 if a request failed in spite of the hook."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.chaos.pod_ends")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    runs = []
    for hook in (False, True):
        with tempfile.TemporaryDirectory() as folder:
            runs.append(_one(hook=hook, folder=Path(folder)))
        print(runs[-1], flush=True)
    if options.out is not None:
        write_json(options.out, {"runs": runs, "environment": environment()})
    return int(bool(runs[-1]["failed"] or runs[-1]["failed_afterwards"]))


if __name__ == "__main__":
    sys.exit(main())
