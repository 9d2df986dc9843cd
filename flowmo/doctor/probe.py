"""Looks at this machine; nothing here judges."""

import ctypes
import re
import resource
import shutil
import socket
import subprocess
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import httpx
import torch
from huggingface_hub.constants import HF_HUB_CACHE
from prometheus_client.parser import text_string_to_metric_families

from flowmo.deploy.runners import default_cache
from flowmo.deploy.tensorrt.keys import read_manifest
from flowmo.deploy.tensorrt.libraries import load_library
from flowmo.doctor.facts import (
    Checkpoint,
    Engine,
    Facts,
    Gpu,
    Server,
    Torchvision,
    Version,
    version_of,
)
from flowmo.model.checkpoint import inspect_checkpoint, load_weights
from flowmo.model.errors import CheckpointError, CompilationError, ConfigError
from flowmo.model.fingerprint import compute_fingerprint
from flowmo.model.hub import resolve_checkpoint

_DISTRIBUTION = "flowmo-serve"
_SHARED = Path("/dev/shm")  # noqa: S108
_SECONDS = 5.0
_IMPORT_SECONDS = 60.0
# Where a server that listens on every address answers.
_LOOPBACK = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}  # noqa: S104


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """What the machine is to do.

    Attributes:
        checkpoint: Any name of a checkpoint.
        preset: The config of a published file; None for other checkpoints.
        cache: The folder of engines; that of ``flowmo serve`` by default.
        batch: Rows of the largest batch.
        host: The address to listen on.
        port: The port to listen on; 0 takes a free one.
        url: The address of a running server to look at; None looks at none.
        api_key: The key for that server.
        training: Whether the machine is to train and evaluate, too.
    """

    checkpoint: str
    preset: str | None
    cache: Path | None
    batch: int
    host: str
    port: int
    url: str | None
    api_key: str | None
    training: bool


def probe(wanted: Wanted) -> Facts:
    """Gather everything that the checks look at."""
    cache = wanted.cache or default_cache()
    library, library_problem = _tensorrt()
    port_problem = look_at_port(wanted.host, wanted.port)
    return Facts(
        python=tuple(sys.version_info[:3]),
        torch=version_of(torch.__version__),
        least_torch=_least("torch"),
        torch_cuda=version_of(torch.version.cuda) if torch.version.cuda else None,
        torchvision=look_at_torchvision(),
        training=wanted.training,
        driver_cuda=_driver_cuda(),
        gpus=_gpus(),
        tensorrt=library,
        tensorrt_problem=library_problem,
        ray=_installed("ray"),
        least_ray=_least("ray"),
        compiler=shutil.which("g++") is not None,
        checkpoint=look_at_checkpoint(wanted.checkpoint, wanted.preset),
        batch=wanted.batch,
        cache=cache,
        engines=look_at_engines(cache),
        free_bytes={folder: _free(folder) for folder in (cache, Path(HF_HUB_CACHE))},
        address=f"{wanted.host}:{wanted.port}",
        port_problem=port_problem,
        port_server=_listening_server(wanted) if port_problem else None,
        descriptors=resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        shared_bytes=shutil.disk_usage(_SHARED).total if _SHARED.is_dir() else None,
        server=look_at_server(wanted.url, wanted.api_key) if wanted.url else None,
    )


def look_at_checkpoint(place: str, preset: str | None = None) -> Checkpoint:
    """Read all of a checkpoint, which is fetched if it has to be, as ``flowmo serve`` does."""
    try:
        info = inspect_checkpoint(resolve_checkpoint(place, preset=preset))
        fingerprint = compute_fingerprint(info.config, load_weights(info))
    except (CheckpointError, ConfigError, OSError) as error:
        return Checkpoint(place=place, problem=str(error))
    return Checkpoint(
        place=place,
        config=info.config,
        fingerprint=fingerprint,
        stored_fingerprint=info.fingerprint,
    )


def look_at_engines(cache: Path) -> tuple[Engine, ...]:
    """Read the manifests of a cache; reading engines whole would take as long as loading them."""
    found = []
    for path in sorted(cache.glob("*.engine")):
        try:
            manifest = read_manifest(path)
        except CompilationError as error:
            found.append(Engine(name=path.name, problem=str(error)))
            continue
        is_whole = path.stat().st_size == manifest.size
        found.append(Engine(name=path.name, key=manifest.key, is_whole=is_whole))
    return tuple(found)


def look_at_port(host: str, port: int) -> str:
    """Try to bind an address; the text says why that failed, and is empty if it did not."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
        except OSError as error:
            return error.strerror or str(error)
    return ""


def _listening_server(wanted: Wanted) -> Server | None:
    """The flowmo server that has the port, if it is one."""
    host = _LOOPBACK.get(wanted.host, wanted.host)
    server = look_at_server(
        f"http://[{host}]:{wanted.port}" if ":" in host else f"http://{host}:{wanted.port}",
        wanted.api_key,
    )
    return server if server.version else None


def look_at_server(url: str, api_key: str | None = None) -> Server:
    """Ask a server what and how it is."""
    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    try:
        with httpx.Client(base_url=url, timeout=_SECONDS, headers=headers) as client:
            version = _version(client.get("/v2"))
            if not version:
                return Server(url=url, runners={})
            health = client.get("/healthz").status_code
            ready = client.get("/readyz").status_code
            models = client.get("/v1/models")
            metrics = client.get("/metrics")
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        return Server(url=url, runners={}, problem=f"{type(error).__name__}: {error}")
    listed = models.json()["models"] if models.is_success else []
    fallbacks = [
        sample.labels["model"]
        for family in text_string_to_metric_families(metrics.text if metrics.is_success else "")
        for sample in family.samples
        if sample.name == "flowmo_runner_fallback" and sample.value
    ]
    return Server(
        url=url,
        version=version,
        health=health,
        ready=ready,
        runners={model["name"]: model["runner"] for model in listed},
        fallbacks=tuple(fallbacks),
    )


def _version(answer: httpx.Response) -> str:
    """The version of flowmo-serve that answers on /v2; empty if something else does."""
    try:
        document = answer.json()
    except ValueError:
        return ""
    if not isinstance(document, dict) or document.get("name") != _DISTRIBUTION:
        return ""
    return str(document.get("version", ""))


def look_at_torchvision() -> Torchvision | None:
    """Import it, in a process of its own: beside another torch it may do anything."""
    try:
        found = metadata.distribution("torchvision")
    except metadata.PackageNotFoundError:
        return None
    pins = (re.match(r"torch\s*\(?==\s*([\w.+]+)", line) for line in found.requires or [])
    command = [sys.executable, "-c", "import torchvision"]
    try:
        done = subprocess.run(  # noqa: S603
            command, capture_output=True, text=True, timeout=_IMPORT_SECONDS, check=False
        )
        lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        problem = lines[-1] if done.returncode else ""
    except subprocess.TimeoutExpired:
        problem = f"importing it takes more than {_IMPORT_SECONDS:.0f} s"
    return Torchvision(
        version=found.version,
        asks_for=next((pin[1] for pin in pins if pin), ""),
        problem=problem,
    )


def _tensorrt() -> tuple[tuple[str, str] | None, str]:
    try:
        library = load_library()
    except CompilationError as error:
        return None, str(error)
    return (library.name, library.version), ""


def _driver_cuda() -> Version | None:
    """The driver is asked itself, because torch's CPU build knows nothing of it."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    number = ctypes.c_int()
    if driver.cuDriverGetVersion(ctypes.byref(number)):
        return None
    return number.value // 1000, number.value % 1000 // 10


def _gpus() -> tuple[Gpu, ...]:
    if not torch.cuda.is_available():
        return ()
    found = []
    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        major, minor = torch.cuda.get_device_capability(index)
        name = torch.cuda.get_device_name(index)
        found.append(
            Gpu(name=name, architecture=f"sm{major}{minor}", total_bytes=total, free_bytes=free)
        )
    return tuple(found)


def _installed(distribution: str) -> Version | None:
    try:
        return version_of(metadata.version(distribution))
    except metadata.PackageNotFoundError:
        return None


def _least(distribution: str) -> Version:
    """The oldest version that the package accepts; empty in a tree that is not installed."""
    try:
        asked = metadata.requires(_DISTRIBUTION) or []
    except metadata.PackageNotFoundError:
        return ()
    pattern = re.compile(rf"{distribution}(?:\[[\w,]+\])?>=([\d.]+)")
    found = [match[1] for line in asked if (match := pattern.match(line))]
    return version_of(found[0]) if found else ()


def _free(folder: Path) -> int:
    """Bytes that are free where a folder is or will be."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free
