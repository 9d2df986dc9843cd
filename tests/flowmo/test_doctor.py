"""flowmo doctor: what it says of machines that are described, and of this one."""

import json
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from flowmo.cli.app import app
from flowmo.cli.server_process import ServerProcess
from flowmo.deploy.tensorrt.keys import EngineKey, Manifest, digest_of, write_engine
from flowmo.doctor.checks import CHECKS, examine
from flowmo.doctor.facts import Checkpoint, Engine, Facts, Gpu, Server, Torchvision, version_of
from flowmo.doctor.probe import look_at_checkpoint, look_at_engines, look_at_torchvision
from flowmo.model.config import preset

RUN = CliRunner()
GB = 10**9


def engine(half: Any, **different: Any) -> Engine:
    key = EngineKey(
        half=half,
        fingerprint="ab" * 16,
        dtype="bfloat16",
        attention="decomposed",
        library="tensorrt",
        version="10.15.1",
        architecture="sm90",
        buckets=(1, 2),
    )
    return Engine(name=f"{half}.engine", key=replace(key, **different))


H100 = Gpu(name="H100", architecture="sm90", total_bytes=80 * GB, free_bytes=79 * GB)
GOOD = Facts(
    python=(3, 12, 1),
    torch=(2, 11, 0),
    least_torch=(2, 11),
    torch_cuda=(13, 0),
    torchvision=Torchvision(version="0.26.0", asks_for="2.11.0"),
    training=False,
    driver_cuda=(13, 1),
    gpus=(H100,),
    tensorrt=("tensorrt", "10.15.1"),
    tensorrt_problem="",
    ray=(2, 60, 0),
    least_ray=(2, 60),
    compiler=True,
    checkpoint=Checkpoint(
        place="checkpoints/lo",
        config=preset("lo"),
        fingerprint="ab" * 16,
        stored_fingerprint="ab" * 16,
    ),
    batch=16,
    cache=Path("/engines"),
    engines=(engine("encoder"), engine("decoder")),
    free_bytes={Path("/engines"): 100 * GB, Path("/hub"): 50 * GB},
    address="0.0.0.0:8000",
    port_problem="",
    port_server=None,
    descriptors=65536,
    shared_bytes=8 * GB,
    server=Server(url="http://a", version="1.2", health=200, ready=200, runners={"lo": "tensorrt"}),
)


def but(**different: Any) -> Facts:
    return replace(GOOD, **different)


def only_engines(*engines: Engine) -> Facts:
    return but(engines=engines)


def only_server(**different: Any) -> Facts:
    return but(server=Server(**{"url": "http://a", "version": "1.2", "runners": {}, **different}))


def test_a_good_machine_has_nothing_to_mend() -> None:
    assert {found.level for found in examine(GOOD).values()} == {"OK"}


def test_a_machine_without_a_gpu_serves_too() -> None:
    plain = but(
        torch_cuda=None,
        torchvision=None,
        driver_cuda=None,
        gpus=(),
        tensorrt=None,
        engines=(),
        ray=None,
        server=None,
    )
    assert {found.level for found in examine(plain).values()} == {"OK"}


@pytest.mark.parametrize(
    ("check", "level", "text", "facts"),
    [
        ("python", "FAIL", "3.10", but(python=(3, 10, 2))),
        ("torch", "FAIL", "2.9", but(torch=(2, 9, 1))),
        ("torch", "WARN", "there is an NVIDIA driver", but(torch_cuda=None)),
        (
            "torchvision",
            "WARN",
            "0.27.0 is built for torch 2.12.0, and here is 2.11.0; only networks of training",
            but(torchvision=Torchvision(version="0.27.0", asks_for="2.12.0")),
        ),
        (
            "torchvision",
            "WARN",
            "does not load beside torch 2.11.0: no nms",
            but(torchvision=Torchvision(version="0.26.0", asks_for="2.11.0", problem="no nms")),
        ),
        (
            "torchvision",
            "FAIL",
            "does not load",
            but(torchvision=Torchvision(version="0.26.0", problem="no nms"), training=True),
        ),
        ("torchvision", "FAIL", "not installed", but(torchvision=None, training=True)),
        ("driver", "WARN", "the CPU computes", but(driver_cuda=None, gpus=())),
        ("driver", "FAIL", "torch needs 13.0", but(driver_cuda=(12, 9))),
        ("gpus", "FAIL", "torch sees no device", but(gpus=())),
        ("gpu memory", "FAIL", "needs", but(gpus=(replace(H100, total_bytes=GB, free_bytes=GB),))),
        ("gpu memory", "WARN", "1.0 GB of 80.0 GB", but(gpus=(replace(H100, free_bytes=GB),))),
        ("tensorrt", "WARN", "no libnvinfer", but(tensorrt=None, tensorrt_problem="no libnvinfer")),
        ("tensorrt", "WARN", "no kernels for sm90", but(tensorrt=("tensorrt_rtx", "1.3"))),
        ("checkpoint", "FAIL", "gone", but(checkpoint=Checkpoint(place="x", problem="gone"))),
        (
            "checkpoint",
            "FAIL",
            "not those it was written with",
            but(checkpoint=replace(GOOD.checkpoint, stored_fingerprint="cd" * 16)),
        ),
        (
            "checkpoint",
            "FAIL",
            "no tokens",
            but(checkpoint=replace(GOOD.checkpoint, config=preset("continuous-lo"))),
        ),
        ("engines", "WARN", "one half", only_engines(engine("encoder"))),
        (
            "engines",
            "WARN",
            "for sm89, and here is sm90",
            only_engines(engine("encoder"), engine("decoder", architecture="sm89")),
        ),
        ("engines", "WARN", "tensorrt 10.3", only_engines(engine("encoder", version="10.3"))),
        ("engines", "WARN", "here is no GPU", but(gpus=())),
        ("engines", "WARN", "here is none", but(tensorrt=None)),
        ("engines", "WARN", "cdcdcd", only_engines(engine("encoder", fingerprint="cd" * 16))),
        (
            "engines",
            "WARN",
            "another size",
            only_engines(replace(engine("encoder"), is_whole=False), engine("decoder")),
        ),
        ("engines", "WARN", "no manifest", only_engines(Engine(name="a", problem="no manifest"))),
        ("compiler", "WARN", "--runner compiled", but(compiler=False, gpus=())),
        ("ray", "FAIL", "too old", but(ray=(2, 40, 0))),
        ("shared memory", "WARN", "0.1 GB", but(shared_bytes=64 * 2**20)),
        ("port", "FAIL", "Address already in use", but(port_problem="Address already in use")),
        (
            "port",
            "WARN",
            "0.0.0.0:8000 is in use by flowmo-serve 1.2; models: lo",
            but(port_problem="Address already in use", port_server=GOOD.server),
        ),
        (
            "port",
            "WARN",
            "not ready; models: unknown without an API key",
            but(
                port_problem="Address already in use",
                port_server=Server(url="http://a", version="1.2", ready=503, runners={}),
            ),
        ),
        ("descriptors", "WARN", "1024", but(descriptors=1024)),
        ("descriptors", "FAIL", "64 open", but(descriptors=64)),
        ("disk", "WARN", "5.0 GB free at /hub", but(free_bytes={Path("/hub"): 5 * GB})),
        ("disk", "FAIL", "0.5 GB", but(free_bytes={Path("/hub"): GB // 2})),
        ("server", "FAIL", "refused", only_server(problem="refused")),
        ("server", "FAIL", "no flowmo server", only_server(version="")),
        ("server", "FAIL", "unhealthy (503)", only_server(health=503, ready=503)),
        ("server", "WARN", "not ready", only_server(health=200, ready=503)),
        (
            "server",
            "WARN",
            "PyTorch computes lo",
            only_server(health=200, ready=200, fallbacks=("lo",)),
        ),
    ],
)
def test_what_is_wrong_is_reported_with_what_to_do(
    check: str, level: str, text: str, facts: Facts
) -> None:
    found = CHECKS[check](facts)
    assert found.level == level
    assert text in found.text
    assert found.mend


def test_versions_are_read_to_where_their_numbers_end() -> None:
    assert version_of("2.13.0+cpu") == (2, 13, 0)
    assert version_of("2.60.0rc1") == (2, 60, 0)
    assert version_of("unknown") == ()


def test_a_checkpoint_that_is_not_whole_is_found_out(checkpoint: Path, tmp_path: Path) -> None:
    assert not look_at_checkpoint(str(checkpoint)).problem
    weights = tmp_path / "model.safetensors"
    for name in ("config.json", weights.name):
        (tmp_path / name).write_bytes((checkpoint / name).read_bytes())
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-100])
    assert look_at_checkpoint(str(tmp_path)).problem
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    changed = look_at_checkpoint(str(tmp_path))
    assert not changed.problem
    assert changed.fingerprint != changed.stored_fingerprint


def test_engines_are_known_by_their_manifests(tmp_path: Path) -> None:
    key = engine("encoder").key
    assert key is not None
    path = write_engine(tmp_path, b"code", Manifest(key=key, size=4, sha256=digest_of(b"code"),
                                                    bindings={}))  # fmt: skip
    (found,) = look_at_engines(tmp_path)
    assert (found.key, found.is_whole) == (key, True)
    path.write_bytes(b"cod")
    (found,) = look_at_engines(tmp_path)
    assert not found.is_whole
    path.with_name(path.name + ".json").unlink()
    (found,) = look_at_engines(tmp_path)
    assert "flowmo build-engine" in found.problem


# --- on this machine ----------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def _no_torchvision(monkeypatch: pytest.MonkeyPatch) -> None:
    """Importing it takes seconds, and its check has tests of its own."""
    monkeypatch.setattr("flowmo.doctor.probe.look_at_torchvision", lambda: None)


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


def test_a_taken_port_and_a_missing_checkpoint_end_with_status_1(
    taken: int, tmp_path: Path
) -> None:
    command = ["doctor", "--checkpoint", str(tmp_path / "none"), "--port", str(taken)]
    result = RUN.invoke(app, command)
    assert result.exit_code == 1, result.output
    failed = {line.split()[1] for line in result.stdout.splitlines() if line.startswith("FAIL")}
    assert failed == {"checkpoint", "port"}
    assert "choose another --port" in result.stdout


def test_a_server_of_its_own_is_recognised_on_the_port(
    checkpoint: Path, server: ServerProcess
) -> None:
    port = server.url.rpartition(":")[2]
    result = RUN.invoke(app, ["doctor", "-c", str(checkpoint), "--port", port])
    assert result.exit_code == 0, result.output
    (line,) = [line for line in result.stdout.splitlines() if line.startswith("WARN  port")]
    assert f"in use by flowmo-serve {metadata.version('flowmo-serve')}; models: nano" in line


def test_another_program_is_no_server(checkpoint: Path) -> None:
    class Hello(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b'{"name": "another"}')

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Hello) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        port = http.server_address[1]
        result = RUN.invoke(app, ["doctor", "-c", str(checkpoint), "--port", str(port)])
        asked = RUN.invoke(
            app, ["doctor", "-c", str(checkpoint), "--url", f"http://127.0.0.1:{port}"]
        )
        http.shutdown()
    assert "Address already in use" in result.stdout
    assert "in use by flowmo" not in result.stdout
    assert f"http://127.0.0.1:{port} is no flowmo server" in asked.stdout
    assert (result.exit_code, asked.exit_code) == (1, 1)


@pytest.mark.parametrize(
    ("code", "problem"),
    [("", ""), ("raise RuntimeError('operator nms does not exist')", "RuntimeError: operator nms")],
)
def test_torchvision_is_imported_to_see_whether_it_loads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, problem: str
) -> None:
    (tmp_path / "torchvision.py").write_text(code)
    about = tmp_path / "torchvision-0.99.0+cpu.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: torchvision\nVersion: 0.99.0+cpu\n"
        "Requires-Dist: numpy\nRequires-Dist: torch (==2.99.0)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    found = look_at_torchvision()
    assert found is not None
    assert (found.version, found.asks_for) == ("0.99.0+cpu", "2.99.0")
    assert found.problem.startswith(problem)
    assert bool(found.problem) == bool(problem)


def test_a_running_server_is_looked_at(checkpoint: Path, tmp_path: Path) -> None:
    log = tmp_path / "server.log"
    arguments = [f"--checkpoint={checkpoint}", "--runner=tensorrt", "--engine-cache", str(tmp_path)]
    with ServerProcess(arguments, log=log) as server:
        command = ["doctor", "-c", str(checkpoint), "--url", server.url, "--json"]
        result = RUN.invoke(app, command)
    report = json.loads(result.stdout)
    assert list(report) == list(CHECKS)
    assert result.exit_code == 0, result.output
    # There is no GPU for an engine, or no engine for the GPU.
    assert report["server"]["level"] == "WARN"
    assert "PyTorch computes nano" in report["server"]["text"]
    after = RUN.invoke(app, ["doctor", "-c", str(checkpoint), "--url", server.url])
    assert after.exit_code == 1
    assert "start it, or correct --url" in after.stdout
