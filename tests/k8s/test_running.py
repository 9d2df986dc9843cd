"""What the manifests would start, started here: the same commands, variables and Serve config."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from benchmarks.chaos.processes import replicas
from flowmo.cli.server_process import ServerProcess
from flowmo.deploy.buckets import profile_of
from flowmo.service.cluster.proxy import CALLBACK, CALLBACK_VARIABLE
from flowmo.service.http.keys import digest_of
from flowmo.service.loader import buckets_of
from tests.k8s.manifests import K8S, of_kind, ray_service, render, serve_config
from tests.service.pictures import as_file, gradient

PNG = as_file(gradient())
RAW = {"Content-Type": "image/png"}
PARTS = ("gateway", "encoder", "decoder")


# In a process of its own: it leaves files open.
_CLUSTER = """
import json, sys
from ray.cluster_utils import Cluster

cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
for labels in json.loads(sys.argv[1]):
    cluster.add_node(num_cpus=1, labels=labels)
print(cluster.address, flush=True)
sys.stdin.read()
cluster.shutdown()
"""


@pytest.fixture
def labelled(tmp_path: Path) -> Iterator[str]:
    """Address of a cluster like that of k8s/base: a head without work, a node a part."""
    spec = ray_service(render(K8S / "overlays" / "cpu-dev"))
    assert spec is not None
    labels = [group["labels"] for group in spec["rayClusterConfig"]["workerGroupSpecs"]]
    with subprocess.Popen(
        [sys.executable, "-c", _CLUSTER, json.dumps(labels)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env=os.environ | {
            "FLOWMO_LOG_FILE": str(tmp_path / "pods.log"), "FLOWMO_LOG_FORMAT": "json",
            CALLBACK_VARIABLE: CALLBACK, "FLOWMO_API_KEYS": f"team:{digest_of('secret')}",
        },
    ) as process:  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        yield process.stdout.readline().strip()
        process.stdin.close()


def _raylet(pid: int) -> str:
    """The command line of the node that a process belongs to."""
    while pid > 1:
        command = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
        if command.partition("\0")[0].endswith("/raylet"):
            return command
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    raise AssertionError("no raylet")


def test_replicas_go_to_the_pods_of_their_part(
    labelled: str, checkpoint: Path, tmp_path: Path
) -> None:
    config = serve_config(render(K8S / "overlays" / "cpu-dev"))
    (application,) = config["applications"]
    application["args"]["models"]["tiny"]["checkpoint"] = str(checkpoint)
    path = tmp_path / "serve.yaml"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    log = tmp_path / "server.log"
    environment = os.environ | {"RAY_ADDRESS": labelled}
    with ServerProcess(
        ["--ray-config", str(path)], log=log, environment=environment, start_seconds=240
    ) as server:
        headers = RAW | {"Authorization": "Bearer secret", "X-Request-ID": "mine"}
        answer = httpx.post(
            f"{server.url}/v1/reconstruct", content=PNG, headers=headers, timeout=60
        )
        assert answer.status_code == 200, answer.text
        assert httpx.get(f"{server.url}/v1/models", timeout=60).status_code == 401
        # The operator asks this of a worker before it gets requests.
        assert httpx.get(f"{server.url}/-/healthz", timeout=60).text == "success"
        for part, name in zip(PARTS, ("gateway", "encoder-tiny", "decoder-tiny"), strict=True):
            (pid,) = replicas(name, os.getpid())
            assert f'"part":"{part}"' in _raylet(pid).replace(" ", "")
    check_access_log(tmp_path / "pods.log", answer.headers["Flowmo-Fingerprint"])


def check_access_log(path: Path, fingerprint: str) -> None:
    """What ``kubectl logs`` would show has a line of each request, with all that an audit asks."""
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    served, refused = (line for line in lines if line["logger"] == "flowmo.access")
    assert served["key"] == "team"
    assert (served["request_id"], served["status"], served["outcome"]) == ("mine", 200, "ok")
    assert served["fingerprint"] == fingerprint
    assert {"queue", "encode", "sample"} <= set(served["stages_ms"])
    assert (refused["status"], refused["outcome"]) == (401, "unauthorized")
    assert "secret" not in path.read_text(encoding="utf-8")


def _deployment() -> dict[str, Any]:
    (deployment,) = of_kind(render(K8S / "single"), "Deployment")
    spec: dict[str, Any] = deployment["spec"]["template"]["spec"]
    return spec


def test_the_one_process_of_a_pod(checkpoint: Path, tmp_path: Path) -> None:
    """Its probes pass, it asks for keys, and SIGTERM lets it finish what it has begun."""
    spec = _deployment()
    (container,) = spec["containers"]
    variables = {entry["name"]: entry["value"] for entry in container["env"]}
    keys = tmp_path / "keys.toml"
    keys.write_text(f'[team]\nsha256 = "{digest_of("secret")}"\n', encoding="utf-8")
    assert variables["FLOWMO_API_KEYS_FILE"] == "/keys/keys.toml"
    variables |= {"FLOWMO_API_KEYS_FILE": str(keys), "FLOWMO_CHECKPOINT": str(checkpoint)}
    with (
        ServerProcess(
            container["args"][1:], log=tmp_path / "log", environment=os.environ | variables
        ) as server,
        httpx.Client(base_url=server.url, timeout=60) as client,
    ):
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            asked = container[probe]["httpGet"]["path"]
            assert client.get(asked).status_code == 200
        assert client.post("/v1/reconstruct", content=PNG, headers=RAW).status_code == 401
        headers = RAW | {"Authorization": "Bearer secret"}
        answers: list[httpx.Response] = []

        def ask() -> None:
            answers.append(
                client.post("/v1/reconstruct", content=PNG, headers=headers, params={"steps": 500})
            )

        begun = threading.Thread(target=ask)
        begun.start()
        in_flight = "flowmo_requests_admitted 1.0"
        while in_flight not in httpx.get(f"{server.url}/metrics").text:
            assert begun.is_alive()
        os.kill(server.pid, signal.SIGTERM)
        begun.join(60)
        assert [answer.status_code for answer in answers] == [200]
        server.wait(spec["terminationGracePeriodSeconds"])
    assert "Finished server process" in (tmp_path / "log").read_text(encoding="utf-8")


@pytest.mark.parametrize("field", ["checkpoint", "prior"])
def test_the_job_builds_what_the_replicas_load(field: str) -> None:
    """The command, its options, the folder, and the batch sizes of the engines."""
    manifests = render(K8S / "overlays" / "h100-prior")
    (job,) = of_kind(manifests, "Job")
    spec = job["spec"]["template"]["spec"]
    container = {"checkpoint": spec["containers"][0], "prior": spec["initContainers"][2]}[field]
    command, checkpoint, *rest = container["args"]
    usage = subprocess.run(
        [sys.executable, "-m", "flowmo", command, "--help"],
        capture_output=True, text=True, check=True, env=os.environ | {"COLUMNS": "200"},
    ).stdout  # fmt: skip
    options = dict(zip(rest[::2], rest[1::2], strict=True))
    assert all(option in usage for option in options)
    (application,) = serve_config(manifests)["applications"]
    model = application["args"]["models"]["lo"]
    assert (model[field], model["engine_cache"]) == (checkpoint, options["--out"])
    assert profile_of(options["--profile"]) == buckets_of("cuda", model.get("max_batch"))
