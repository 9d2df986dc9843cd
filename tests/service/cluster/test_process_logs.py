"""Lines of a node's processes come out where the node's own output does."""

import json
import os
import subprocess
import sys
from pathlib import Path

from flowmo.service.cluster.logs import FILE_VARIABLE

REPLICA = """
from flowmo.service.cluster.logs import configure_process_logs
from flowmo.service.telemetry import logs

configure_process_logs()
logs.request_id.set("mine")
headers = {"flowmo-model": "lo", "flowmo-fingerprint": "ab12", "server-timing": "queue;dur=1.5"}
logs.log_answer(
    method="POST", path="/v1/tokenize", route="/v1/tokenize", status=200, seconds=0.25, key="team",
    headers=headers,
)
"""


def node(script: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    """A shell in the place of a pod's first process; what it starts has an output of its own."""
    return subprocess.run(
        ["bash", "-c", script, "bash", sys.executable, REPLICA],
        env=os.environ | {"FLOWMO_LOG_FORMAT": "json"} | variables,
        capture_output=True, text=True, check=True,
    )  # fmt: skip


def test_what_replicas_log_is_the_output_of_the_nodes_first_process() -> None:
    """As kubectl logs shows it: /proc/1/fd/1 in a pod, whose first process the shell is here."""
    each = f'{FILE_VARIABLE}=/proc/$$/fd/1 "$1" -c "$2" >/dev/null 2>&1'
    lines = node(f"{each} & {each} & wait").stdout.splitlines()
    assert len(lines) == 2
    for line in map(json.loads, lines):
        assert (line["logger"], line["request_id"], line["key"]) == (
            "flowmo.access",
            "mine",
            "team",
        )
        assert (line["status"], line["outcome"], line["model"]) == (200, "ok", "lo")
        assert (line["fingerprint"], line["stages_ms"]) == ("ab12", {"queue": 1.5})


def test_a_file_that_cannot_be_written_is_said_and_costs_no_line(tmp_path: Path) -> None:
    file = tmp_path / "none" / "log"
    ended = node('"$1" -c "$2"', **{FILE_VARIABLE: str(file)})
    complaint, access = map(json.loads, ended.stderr.splitlines())
    assert f"{FILE_VARIABLE}={file} cannot be written" in complaint["message"]
    assert access["key"] == "team"


RAYS = """
import logging, sys
from logging.handlers import MemoryHandler, RotatingFileHandler
from flowmo.service.cluster.logs import configure_process_logs

rays = logging.getLogger("ray.serve")
rays.addHandler(MemoryHandler(10, target=RotatingFileHandler(sys.argv[1])))
rays.error("before")
configure_process_logs()
rays.error("after")
"""


def test_rays_own_log_goes_on_in_its_file(tmp_path: Path) -> None:
    """To configure logging closes all handlers, and Ray's proxy does not start without this one."""
    file = tmp_path / "proxy.log"
    subprocess.run([sys.executable, "-c", RAYS, str(file)], check=True, capture_output=True)
    assert file.read_text().split() == ["before", "after"]
