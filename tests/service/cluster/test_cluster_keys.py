"""API keys on Ray in every form of start: what is checked is what is served."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from ray.util import get_node_ip_address

from flowmo.cli.server_process import ServerProcess
from flowmo.service.http.keys import digest_of
from tests.flowmo.test_cli import flowmo
from tests.service.clusters import config_of, wait_until, write_config

ROOT = Path(__file__).parents[3]
KEY = "fmk_a-key-of-this-test"

_CLUSTER = """
import sys
from ray.cluster_utils import Cluster

cluster = Cluster(
    initialize_head=True,
    head_node_args={
        "num_cpus": 2, "include_dashboard": True,
        "dashboard_host": "127.0.0.1", "dashboard_port": int(sys.argv[1]),
    },
)
print(cluster.address, flush=True)
sys.stdin.read()
cluster.shutdown()
"""


@dataclass(frozen=True, slots=True)
class RayCluster:
    """A running cluster: the variables of its drivers, and the address of its REST interface."""

    environment: dict[str, str]
    dashboard: str

    def serve(self, *arguments: str) -> None:
        """Run Ray's own ``serve`` command."""
        subprocess.run(
            [str(Path(sys.executable).with_name("serve")), *arguments, "-a", self.dashboard],
            check=True, env=self.environment, timeout=120,
        )  # fmt: skip


def _free_port(host: str = "127.0.0.1") -> int:
    with socket.socket() as found:
        found.bind((host, 0))
        port: int = found.getsockname()[1]
        return port


def _node() -> str:
    """This machine's address as other machines know it."""
    host: str = get_node_ip_address()  # type: ignore[no-untyped-call]
    return host


@pytest.fixture(scope="module")
def cluster() -> Iterator[RayCluster]:
    port = _free_port()
    with subprocess.Popen(
        [sys.executable, "-c", _CLUSTER, str(port)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        yield RayCluster(os.environ | {"RAY_ADDRESS": address}, f"http://127.0.0.1:{port}")
        process.stdin.close()


@pytest.fixture
def fresh(cluster: RayCluster) -> Iterator[RayCluster]:
    """The cluster; afterwards its proxies are gone, so that the next ones bind another port."""
    yield cluster
    cluster.serve("shutdown", "-y")


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    path = tmp_path / "keys.toml"
    path.write_text(f'[team]\nsha256 = "{digest_of(KEY)}"\n')
    return path


def _status(url: str, key: str | None = None) -> int:
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    return httpx.get(f"{url}/v1/models", headers=headers, timeout=60).status_code


def _small(checkpoint: Path, **settings: Any) -> dict[str, Any]:
    config = config_of(checkpoint, **settings)
    model = config["models"]["nano"]
    for half in ("encoder", "decoder"):
        model[half] = {"num_cpus": 0.1}
    return config


def test_serve_deploy_answers_other_machines_with_keys_alone(
    fresh: RayCluster, checkpoint: Path, tmp_path: Path, keys: Path
) -> None:
    config = yaml.safe_load((ROOT / "deploy" / "ray" / "serve.yaml").read_text())
    assert config["http_options"]["host"] == "0.0.0.0"
    config["http_options"]["port"] = port = _free_port("0.0.0.0")
    (application,) = config["applications"]
    settings = application["args"]["settings"]
    application["args"] = _small(checkpoint, **settings)
    path = tmp_path / "serve.yaml"
    here, beyond = (f"http://{host}:{port}" for host in ("127.0.0.1", _node()))

    def deployed(expected: int) -> None:
        path.write_text(yaml.safe_dump(config))
        fresh.serve("deploy", str(path))

        def answers() -> bool:
            try:
                return _status(here) == expected
            except httpx.TransportError:
                return False

        wait_until(answers, 180)

    del application["args"]["settings"]["api_keys_file"]
    deployed(200)  # this machine asks
    assert _status(beyond) == 401
    assert httpx.get(f"{beyond}/readyz", timeout=60).status_code == 200
    application["args"]["settings"]["api_keys_file"] = str(keys)
    deployed(401)
    for url in (here, beyond):
        assert (_status(url), _status(url, "another"), _status(url, KEY)) == (401, 401, 200)


def test_keys_of_the_command_line_are_those_that_are_served(
    fresh: RayCluster, checkpoint: Path, tmp_path: Path, keys: Path
) -> None:
    """Without a config; ``test_cluster`` has one."""
    arguments = ["--ray", f"--checkpoint={checkpoint}", "--threads=1"]
    with ServerProcess(
        [*arguments, f"--api-keys-file={os.path.relpath(keys)}"],
        log=tmp_path / "log", environment=fresh.environment, start_seconds=240,
    ) as server:  # fmt: skip
        assert (_status(server.url), _status(server.url, KEY)) == (401, 200)


def test_a_config_without_keys_is_not_served_to_other_machines(
    checkpoint: Path, tmp_path: Path
) -> None:
    path = write_config(tmp_path, _small(checkpoint))
    refused = flowmo("serve", "--ray-config", str(path), "--host", "0.0.0.0", "--port", "0")
    assert refused.returncode == 2
    assert "--api-keys-file" in refused.stderr


def test_keys_that_cannot_be_read_end_the_start(
    fresh: RayCluster, checkpoint: Path, tmp_path: Path
) -> None:
    path = write_config(tmp_path, _small(checkpoint, api_keys_file=str(tmp_path / "none.toml")))
    refused = subprocess.run(
        [sys.executable, "-m", "flowmo", "serve", "--ray-config", str(path), "--port", "0"],
        env=fresh.environment, capture_output=True, text=True, check=False, timeout=240,
    )  # fmt: skip
    assert refused.returncode != 0
    assert "listening" not in refused.stdout
