"""A real Prometheus as a child process, with the project's rules and its HTTP API."""

import json
import shutil
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

RULES = Path(__file__).resolve().parents[1] / "deploy" / "prometheus" / "rules"
_START_SECONDS = 30.0


class PrometheusError(Exception):
    """It is not installed, did not start, or refused a query."""


def find_tool(name: str) -> str:
    """Path of ``prometheus``, ``promtool`` or ``amtool``.

    Raises:
        PrometheusError: it is not installed.
    """
    if (path := shutil.which(name)) is None:
        raise PrometheusError(
            f"{name} is not installed; on Debian and Ubuntu: apt-get install "
            f"--no-install-recommends prometheus prometheus-alertmanager (apt-packages.txt)"
        )
    return path


class Prometheus:
    """Scrapes some targets and evaluates the rules every second or so, as a context manager.

    Args:
        targets: ``host:port`` by job; two jobs are two environments to the rules.
        folder: for its files.
        seconds: between scrapes, and between evaluations.
    """

    def __init__(
        self, targets: Mapping[str, Sequence[str]], folder: Path, *, seconds: float = 1.0
    ) -> None:
        self._folder = folder
        interval = f"{round(seconds * 1000)}ms"
        self._config = {
            "global": {"scrape_interval": interval, "evaluation_interval": interval},
            "rule_files": [f"{RULES}/*.yml"],
            "scrape_configs": [
                {"job_name": job, "static_configs": [{"targets": list(addresses)}]}
                for job, addresses in targets.items()
            ],
        }

    def __enter__(self) -> Self:
        self._folder.mkdir(parents=True, exist_ok=True)
        config = self._folder / "prometheus.yml"
        config.write_text(json.dumps(self._config))  # JSON is YAML, too
        address = f"127.0.0.1:{_free_port()}"
        command = [
            find_tool("prometheus"),
            f"--config.file={config}",
            f"--storage.tsdb.path={self._folder / 'data'}",
            f"--web.listen-address={address}",
            "--log.level=warn",
            "--enable-feature=exemplar-storage",
        ]
        with (self._folder / "prometheus.log").open("wb") as log:
            self._process = subprocess.Popen(  # noqa: S603
                command, stdout=log, stderr=log, stdin=subprocess.DEVNULL
            )
        self._client = httpx.Client(base_url=f"http://{address}", timeout=30.0, trust_env=False)
        try:
            self._wait()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop()

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The series of an expression now: ``metric`` and ``value``.

        Raises:
            PrometheusError: it cannot be evaluated.
        """
        return self._ask("/api/v1/query", query=expression)

    def query_range(
        self, expression: str, *, start: float, end: float, step: float
    ) -> list[dict[str, Any]]:
        """The series of an expression over a time: ``metric`` and ``values``.

        Args:
            expression: PromQL.
            start: in Unix time.
            end: in Unix time.
            step: in seconds.

        Raises:
            PrometheusError: it cannot be evaluated.
        """
        return self._ask("/api/v1/query_range", query=expression, start=start, end=end, step=step)

    def exemplar_traces(self, series: str) -> set[str]:
        """The ids of the traces that series of the last hour lead to.

        Args:
            series: PromQL that selects them.
        """
        now = time.time()
        found = self._ask("/api/v1/query_exemplars", query=series, start=now - 3600, end=now)
        return {one["labels"]["trace_id"] for entry in found for one in entry["exemplars"]}

    def rule_problems(self) -> dict[str, str]:
        """What went wrong with rules, by their name; empty if all are well."""
        answer = self._client.get("/api/v1/rules").raise_for_status().json()
        rules = [rule for group in answer["data"]["groups"] for rule in group["rules"]]
        return {rule["name"]: rule["lastError"] for rule in rules if rule.get("lastError")}

    def _ask(self, path: str, **params: str | float) -> list[dict[str, Any]]:
        answer = self._client.post(path, data=params).json()
        if answer["status"] != "success":
            raise PrometheusError(f"{params['query']}: {answer['error']}")
        data = answer["data"]
        result: list[dict[str, Any]] = data if isinstance(data, list) else data["result"]
        return result

    def _wait(self) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                if self._client.get("/-/ready").is_success:
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.1)
        log = (self._folder / "prometheus.log").read_text(errors="replace")
        raise PrometheusError(f"prometheus did not start:\n{log[-2000:]}")

    def _stop(self) -> None:
        self._client.close()
        self._process.terminate()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
