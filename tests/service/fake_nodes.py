"""A Ray cluster whose further nodes, with a GPU each, are processes of this machine.

Ray's own stand-in for a cloud provider starts and ends them as the autoscaler asks for.
"""

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ray.util import get_node_ip_address

# As Ray's provider names its head node.
_HEAD = "fffffffffffffffffffffffffffffffffffffffffffffffffff00000"


@contextmanager
def cluster_of_fake_nodes(folder: Path, *, cpus: int, gpu_nodes: int) -> Iterator[dict[str, str]]:
    """Start one.

    Args:
        folder: for its config; short, because sockets lie under it.
        cpus: The CPUs of the head node; further nodes have 1 CPU and 1 GPU.
        gpu_nodes: most of them.

    Yields:
        Environment for drivers.
    """
    # Below the ports that Ray gives to its workers.
    port = _free_port(9000)
    gcs = f"{get_node_ip_address()}:{port}"  # type: ignore[no-untyped-call]
    config = {
        "cluster_name": "fake",
        "max_workers": gpu_nodes,
        "idle_timeout_minutes": 0.05,
        "provider": {
            "type": "external",
            "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
            "use_node_id_as_ip": True,
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
            "launch_multiple": True,
            "head_node_id": _HEAD,
            "gcs_address": gcs,
        },
        "auth": {},
        "file_mounts": {},
        "cluster_synced_files": [],
        "file_mounts_sync_continuously": False,
        "rsync_exclude": [],
        "rsync_filter": [],
        "docker": {},
        "upscaling_speed": 1.0,
        "initialization_commands": [],
        "setup_commands": [],
        "head_setup_commands": [],
        "worker_setup_commands": [],
        "head_start_ray_commands": [],
        "worker_start_ray_commands": [],
        "available_node_types": {
            "ray.head.default": {"resources": {"CPU": cpus}, "node_config": {}, "max_workers": 0},
            "gpu": {
                "resources": {"CPU": 1, "GPU": 1},
                "node_config": {},
                "min_workers": 0,
                "max_workers": gpu_nodes,
            },
        },
        "head_node_type": "ray.head.default",
    }
    path, temp = folder / "autoscaler.json", folder / "ray"
    path.write_text(json.dumps(config))
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    environment = os.environ | token
    head_environment = environment | {
        "RAY_FAKE_CLUSTER": "1",
        "RAY_enable_autoscaler_v2": "1",
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
        "RAY_CLOUD_INSTANCE_ID": _HEAD,
        "RAY_OVERRIDE_NODE_ID_FOR_TESTING": _HEAD,
    }
    command = [
        str(Path(sys.executable).with_name("ray")),
        "start",
        "--head",
        "--block",
        f"--autoscaling-config={path}",
        f"--port={port}",
        f"--num-cpus={cpus}",
        "--num-gpus=0",
        "--include-dashboard=false",
        f"--temp-dir={temp}",
    ]
    with (folder / "head.log").open("wb") as log:
        head = subprocess.Popen(command, env=head_environment, stdout=log, stderr=log)
    try:
        for _ in range(600):
            if b"Ray runtime started" in (folder / "head.log").read_bytes():
                break
            assert head.poll() is None, (folder / "head.log").read_text()
            threading.Event().wait(0.1)
        yield environment | {"RAY_ADDRESS": gcs}
    finally:
        head.terminate()
        with suppress(subprocess.TimeoutExpired):
            head.wait(5)
        _end_all(str(temp), gcs)
        head.kill()
        head.wait()


def _free_port(first: int) -> int:
    for port in range(first, first + 500):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)):
                return port
    raise AssertionError("no free port")


def _end_all(*marks: str) -> None:
    """End every process that names one of the marks: fake nodes outlive their head."""
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit() or int(folder.name) == os.getpid():
            continue
        with suppress(OSError):
            command = (folder / "cmdline").read_bytes().decode(errors="replace")
            if any(mark in command for mark in marks) and "ray" in command:
                os.kill(int(folder.name), signal.SIGKILL)
