"""Build the image, run it read-only and as its own user, and ask it what users ask.

    make image-test                      # as root, on Debian; some minutes
    python -m tests.image --out benchmarks/results/image/cpu.json --keep

Writes a report with --out: sizes, seconds, versions, and what each check found. The exit status is
1 if one failed.
"""

import argparse
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.environment import environment
from flowmo.service.cluster.proxy import CALLBACK, CALLBACK_VARIABLE
from flowmo.training.json_report import write_json
from tests.image import build
from tests.image.build import ImageError
from tests.image.container import Container, stop
from tests.k8s.manifests import K8S, pods, render, serve_config
from tests.k8s.operator_probes import TOOLS, probes_of

_PROBE_ATTEMPTS = 12
_TOOLS = ("gcc", "g++", "cc", "make", "ld", "as", "git", "pip", "pip3", "curl")


def check_contents(root: Path, container: Container) -> str:
    """No compiler, no installer, nothing of the build's, nothing that its user may change."""
    folders = [root / folder.lstrip("/") for folder in container.environment["PATH"].split(":")]
    found = sorted({tool for tool in _TOOLS for folder in folders if (folder / tool).exists()})
    if found:
        raise ImageError(f"the image holds {', '.join(found)}")
    for left in ("build", "opt/pip", "etc/pip.conf", "opt/flowmo/tests", "opt/flowmo/.git"):
        if (root / left).exists():
            raise ImageError(f"the image holds /{left}")
    missing = [tool for tool in TOOLS if not any((folder / tool).exists() for folder in folders)]
    if missing:
        raise ImageError(f"KubeRay's probes of workers call {', '.join(missing)}, which is missing")
    own = [
        path
        for path in (root / "opt").rglob("*")
        if not path.is_symlink() and (path.stat().st_uid == 10001 or path.stat().st_mode & 0o002)
    ]
    if own:
        raise ImageError(f"its user may change {own[0]} and {len(own) - 1} more")
    return f"none of {', '.join(_TOOLS)}; /opt is root's"


def check_waiting(container: Container, folder: Path) -> str:
    """The init containers' own scripts, with what they call of the image: they end, or wait."""
    manifests = render(K8S / "overlays" / "h100-prior")
    scripts = {
        one["command"][2]
        for found in pods(manifests)
        for one in found.spec.get("initContainers", ())
        if one["name"] == "wait-for-engines"
    }
    for script in scripts:
        name = script.partition("/engines/")[2].partition(".ready")[0]
        there = script.replace("/checkpoints/", "/tmp/checkpoints/")
        there = there.replace("/engines/", "/tmp/engines/")
        made = f"mkdir -p /tmp/checkpoints/{name} /tmp/engines; cd /tmp"
        made += f"; echo {{}} >checkpoints/{name}/config.json; (flowmo --version; echo {{}})"
        for ready, expected in ((f"engines/{name}.ready", 0), ("engines/other.ready", 124)):
            # 124 is of timeout: it goes on waiting.
            shell = f'{made} >{ready}; export WAIT; timeout 20 sh -c "$WAIT"'
            status, said = container.run(
                ["sh", "-c", shell], output=folder / "wait.log", environment={"WAIT": there}
            )
            if status != expected or ("waiting" in said) is not bool(expected):
                raise ImageError(f"the pods of {name} end waiting with {status}: {said[-500:]}")
    return f"{len(scripts)} scripts wait for their engines and for no others"


def check_commands(container: Container, folder: Path) -> str:
    """The other things that the one image is for: training, evaluation, export, Ray, the doctor."""
    modules = "ray.serve, ray.train, torchvision, torchmetrics, onnx, onnxruntime, s3fs"
    modules += ", redis.asyncio, flowmo.training, flowmo.deploy.tensorrt"
    # torchvision of another build than torch's needs what tests/site declares; not in an image.
    if _torchvision_is_alone():
        modules = modules.replace("torchvision, torchmetrics, ", "")
    for command in (
        container.command("--version"),
        container.command("inspect", "/opt/flowmo/flowmo/checkpoints/tiny"),
        container.command("inspect", "/opt/flowmo/flowmo/checkpoints/prior-tiny"),
        container.command("export", "--help"),
        container.command("fetch", "/opt/flowmo/flowmo/checkpoints/prior-tiny", "/tmp/prior"),
        container.command("generate", "--class", "scenes", "--out", "/tmp/generated"),
        container.command("build-engine", "--help"),
        container.command("train", "tiny-demo", "--data", "x", "--list-fields"),
        ["python3", "-c", f"import {modules}"],
    ):
        status, said = container.run(command, output=folder / "command.log")
        if status:
            raise ImageError(f"{' '.join(command)} ended with {status}: {said[-2000:]}")
    # It warns of a missing GPU, which is right here; what it must not find is an error.
    status, said = container.run(
        container.command("doctor", "--json"), output=folder / "doctor.log"
    )
    return f"version, inspect, fetch, generate, export, train, imports; doctor: status {status}"


def check_service(container: Container, folder: Path) -> str:
    """The demo's client against it, the health check of the image itself, and an orderly end."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    refused, said = container.run(container.command(), output=folder / "refused.log")
    if refused == 0 or "--allow-anonymous" not in said:
        raise ImageError(f"it should refuse to listen to all without keys, and said {said[-500:]}")
    variables = {"FLOWMO_PORT": port, "FLOWMO_HOST": "127.0.0.1", "FLOWMO_PRIOR": "prior-tiny"}
    log = folder / "server.log"
    began = time.monotonic()
    server = container.start(container.command(), output=log, environment=variables)
    try:
        _wait(f"http://127.0.0.1:{port}/readyz", server, log)
        started = time.monotonic() - began
        health = container.health_check
        status, said = container.run(health, output=folder / "health.log", environment=variables)
        if status:
            raise ImageError(f"the image's health check fails on a healthy server: {said[-500:]}")
        url = f"http://127.0.0.1:{port}"
        _ask_as_users_do(url, folder / "demo")
        owner = Path(f"/proc/{server.pid}").stat().st_uid
        if owner != 10001:
            raise ImageError(f"it runs as user {owner}")
    finally:
        status = stop(server)
    if status not in (0, 143, -15):
        raise ImageError(f"it ended with {status}: {log.read_text(encoding='utf-8')[-1000:]}")
    dead, _ = container.run(health, output=folder / "health.log", environment=variables)
    if dead == 0:
        raise ImageError("the health check passes without a server")
    return f"ready after {started:.1f} s; demo, generate, health check, SIGTERM as they should be"


def _ask_as_users_do(url: str, out: Path) -> None:
    """The demo, and a picture of the prior that comes with the image."""
    build.run(sys.executable, "-m", "flowmo", "demo", "--url", url, "--out", out)
    if not (out / "comparison.png").is_file():
        raise ImageError("the demo wrote no picture")
    generate = ("generate", "--class", "scenes", "--url", url, "--out", out / "generated")
    build.run(sys.executable, "-m", "flowmo", *generate)
    if not (out / "generated" / "scenes-0.png").is_file():
        raise ImageError("the prior made no picture")


def check_ray(container: Container, folder: Path) -> str:
    """As KubeRay does it: its start, its way to Serve, and its probes of heads and workers."""
    manifests = render(K8S / "overlays" / "cpu-dev")
    head, worker, *_ = (found for found in pods(manifests) if found.group is not None)
    config = serve_config(manifests)
    (application,) = config["applications"]
    (model,) = application["args"]["models"].values()
    model |= {"prior": "prior-tiny", "generator": dict(model["encoder"])}
    parts = (model["encoder"], model["decoder"], model["generator"])
    for part in (application["args"]["gateway"], *parts):
        part.pop("labels")  # one node is all of them here
        part["num_cpus"] = 0.2
    # The proxy starts where a replica is; here the head is the only node.
    start = "ray start --head --num-cpus=2 --block --dashboard-host=0.0.0.0"
    # In a pod this process is the first, and its output what kubectl logs shows.
    shell = f"export FLOWMO_LOG_FILE=/proc/$$/fd/1; ulimit -n 65536; {start}"
    command = ["/bin/bash", "-c", "--", shell]
    variables = {"FLOWMO_ALLOW_ANONYMOUS": "true", "RAY_AUTH_MODE": "token"}
    variables |= {"RAY_AUTH_TOKEN": "0123456789abcdef" * 4, CALLBACK_VARIABLE: CALLBACK}
    log = folder / "ray.log"
    node = container.start(command, output=log, environment=variables)
    asked, answers = probes_of(worker), {}
    try:
        token = {"Authorization": f"Bearer {variables['RAY_AUTH_TOKEN']}"}
        _wait("http://127.0.0.1:8265/api/gcs_healthz", node, log)
        status, _ = container.run(asked.command, output=folder / "probe.log")
        if status == 0:
            raise ImageError("a worker without Serve's proxy counts as ready")
        deploy = urllib.request.Request(
            "http://127.0.0.1:8265/api/serve/applications/",
            json.dumps(config).encode(),
            token | {"Content-Type": "application/json"},
            method="PUT",
        )
        with urllib.request.urlopen(deploy, timeout=60):
            began = time.monotonic()
        _wait("http://127.0.0.1:8000/readyz", node, log)
        answers["serves after"] = f"{time.monotonic() - began:.1f} s"
        for name, probe in (("live", asked.live), ("head", probes_of(head).ready)):
            assert probe is not None
            port, path = probe
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=2) as answer:
                answers[name] = str(answer.status)
        answers["worker"] = _probe(container, asked.command, folder / "probe.log")
        _ask_as_users_do("http://127.0.0.1:8000", folder / "ray-demo")
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
        answers["access log"] = f"{sum('flowmo.access' in line for line in lines)} lines"
        if not any("flowmo.access" in line and '"outcome": "ok"' in line for line in lines):
            raise ImageError("what kubectl logs would show has no line of a request")
    finally:
        stop(node)
    return ", ".join(f"{name} {answer}" for name, answer in answers.items())


def _probe(container: Container, command: Sequence[str], log: Path) -> str:
    """Ask as the kubelet does, every 5 s until the answer is yes; how that went."""
    said = ""
    for attempt in range(1, _PROBE_ATTEMPTS + 1):
        began = time.monotonic()
        # The shell's own word, and wget's, of what is the matter.
        status, said = container.run(["bash", "-x", *command[1:]], output=log)
        if status == 0:
            return f"yes in {time.monotonic() - began:.2f} s at attempt {attempt}"
        time.sleep(5)
    raise ImageError(f"KubeRay's readiness probe of a worker fails: {said[-500:]}")


def check_read_only(container: Container, folder: Path) -> str:
    """Writes go to /tmp and nowhere else."""
    script = "import pathlib; pathlib.Path({!r}).write_text('x')"
    for path, wanted in (("/tmp/x", True), ("/opt/x", False), ("/engines/x", False), ("/x", False)):
        status, said = container.run(
            ["python3", "-c", script.format(path)], output=folder / "write.log"
        )
        if (status == 0) is not wanted:
            raise ImageError(f"writing {path} ended with {status}: {said[-300:]}")
    return "only /tmp can be written"


def _wait(url: str, server: "subprocess.Popen[bytes]", log: Path, seconds: float = 120.0) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if server.poll() is not None:
            break
        try:
            with urllib.request.urlopen(url, timeout=2):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    raise ImageError(f"not ready: {log.read_text(encoding='utf-8')[-2000:]}")


def _torchvision_is_alone() -> bool:
    import torch

    return torch.version.cuda is None


def _install() -> None:
    missing = [tool for tool in ("buildah", "debootstrap") if shutil.which(tool) is None]
    if not missing:
        return
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise ImageError(f"install {' and '.join(missing)} first (Debian packages of these names)")
    build.run("apt-get", "update", "-qq")
    build.run("apt-get", "install", "-y", "-qq", "--no-install-recommends", *missing)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; its exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.image")
    parser.add_argument("--base", help="image to build on; by default a Debian made here")
    parser.add_argument("--extras", default=build.EXTRAS)
    parser.add_argument("--out", type=Path, help="file of the report")
    parser.add_argument("--keep", action="store_true", help="leave the images for another run")
    options = parser.parse_args(arguments)
    if os.geteuid() != 0:
        print("the image is built in a chroot, which needs root", file=sys.stderr)
        return 2
    report: dict[str, Any] = {"extras": options.extras, "checks": {}}
    failed = False
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        try:
            _install()
            began = time.monotonic()
            if options.base is None:
                build.make_base(folder)
            report["base_seconds"] = time.monotonic() - began
            image = build.build(folder, base=options.base, extras=options.extras)
            report["build_seconds"] = time.monotonic() - began - report["base_seconds"]
            report["layer_bytes"] = build.layer_sizes(image)
            with build.mounted(image) as root:
                container = Container(root, build.configuration(image))
                checks: dict[str, Callable[[], str]] = {
                    "contents": lambda: check_contents(root, container),
                    "read-only": lambda: check_read_only(container, folder),
                    "waiting": lambda: check_waiting(container, folder),
                    "commands": lambda: check_commands(container, folder),
                    "service": lambda: check_service(container, folder),
                    "ray": lambda: check_ray(container, folder),
                }
                for check, call in checks.items():
                    try:
                        found = call()
                    except ImageError as error:
                        found, failed = f"FAILED: {error}", True
                    report["checks"][check] = found
                    print(f"{check}: {found}", flush=True)
        except ImageError as error:
            print(f"image-test: {error}", file=sys.stderr)
            return 1
        finally:
            if not options.keep:
                build.clean(base=True)
    if options.out is not None:
        write_json(options.out, report | {"environment": environment()})
    else:
        print(json.dumps({key: report[key] for key in ("build_seconds", "layer_bytes")}))
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
