"""Real Ray clusters on this machine, and what tests do to them."""

import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from benchmarks.chaos.processes import titles

SMALL = {"num_cpus": 0.1, "min_replicas": 2, "max_replicas": 2}


def config_of(checkpoint: Path, **settings: Any) -> dict[str, Any]:
    """A cluster config with two replicas of each half, for two cores."""
    model = {
        "checkpoint": str(checkpoint),
        "device": "cpu",
        "threads": 1,
        "max_queued_requests": 64,
        "encoder": SMALL,
        "decoder": SMALL,
    }
    return {
        "models": {"nano": model},
        "gateway": {"num_cpus": 0.1},
        "settings": {"cache_bytes": 0, "max_deadline_seconds": 60.0, **settings},
    }


def write_config(folder: Path, config: dict[str, Any]) -> Path:
    """The config as a ``serve deploy`` file; JSON is YAML, too."""
    path = folder / "serve.yaml"
    path.write_text(json.dumps({"applications": [{"name": "flowmo", "args": config}]}))
    return path


def scrape(ancestor: int) -> str:
    """What Ray's agent of the one node of such a cluster exports."""
    url = f"http://{metrics_target(ancestor)}/metrics"
    return httpx.get(url, timeout=30).raise_for_status().text


def metrics_target(ancestor: int) -> str:
    """Address of the agent of the one node of such a cluster, for Prometheus."""
    for _, title in titles(ancestor):
        command = title.split("\0")
        if command[0].endswith("/raylet"):
            options = dict(
                word[2:].partition("=")[::2] for word in command if word.startswith("--")
            )
            session = Path(options["raylet_socket_name"]).parents[1]
            port = (session / f"metrics_export_port_{options['node_id']}").read_text().strip()
            return f"127.0.0.1:{port}"
    raise AssertionError("no raylet")


def wait_until(condition: Callable[[], bool], seconds: float = 90.0) -> None:
    for _ in range(round(seconds / 0.1)):
        if condition():
            return
        threading.Event().wait(0.1)
    pytest.fail("it did not come to pass")


def client_of(url: str, key: str | None) -> httpx.Client:
    """A client of a server, with a key if it asks for one."""
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    return httpx.Client(base_url=url, headers=headers, timeout=120)


@contextmanager
def load(
    url: str,
    request: Callable[[httpx.Client, int], httpx.Response],
    *,
    clients: int = 4,
    key: str | None = None,
) -> Iterator[list[httpx.Response]]:
    """Requests without a pause, of several clients, while the block runs.

    Yields:
        The answers, complete at the end of the block.
    """
    answers: list[httpx.Response] = []
    done = threading.Event()

    def work(number: int) -> None:
        with client_of(url, key) as client:
            while not done.is_set():
                answers.append(request(client, number))

    with ThreadPoolExecutor(clients) as pool:
        workers = [pool.submit(work, number) for number in range(clients)]
        try:
            wait_until(lambda: len(answers) >= clients)
            yield answers
            # Whatever was done in the block has its effect on requests to come.
            so_far = len(answers)
            wait_until(lambda: len(answers) >= so_far + 2 * clients)
        finally:
            done.set()
        for worker in workers:
            worker.result()
