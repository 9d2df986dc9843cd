"""What is known of a machine. Checks see nothing else, so that any machine can be described."""

from dataclasses import dataclass
from pathlib import Path

from flowmo.deploy.tensorrt.keys import EngineKey
from flowmo.model.config import FlowMoConfig

Version = tuple[int, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Gpu:
    """One CUDA device.

    Attributes:
        name: for people.
        architecture: ``sm90`` and the like.
        total_bytes: of its memory.
        free_bytes: of it, now.
    """

    name: str
    architecture: str
    total_bytes: int
    free_bytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Checkpoint:
    """A checkpoint that was to be served.

    Attributes:
        place: folder or hub repository, as given.
        config: of the model; None if it cannot be read.
        fingerprint: of the weights as they are.
        stored_fingerprint: as ``config.json`` has it.
        problem: why it cannot be read.
    """

    place: str
    config: FlowMoConfig | None = None
    fingerprint: str = ""
    stored_fingerprint: str | None = None
    problem: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Engine:
    """One engine file of the cache.

    Attributes:
        name: of the file.
        key: what it is good for; None if its manifest cannot be read.
        is_whole: it has as many bytes as were built.
        problem: of its manifest.
    """

    name: str
    key: EngineKey | None = None
    is_whole: bool = True
    problem: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Server:
    """A running server.

    Attributes:
        url: where it is.
        health: status of ``/healthz``; None without an answer.
        ready: status of ``/readyz``; None without an answer.
        runners: what computes each model; empty where that needs a key.
        fallbacks: models that PyTorch computes in place of something else.
        problem: why there is no answer.
    """

    url: str
    health: int | None = None
    ready: int | None = None
    runners: dict[str, str]
    fallbacks: tuple[str, ...] = ()
    problem: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Facts:
    """Everything.

    Attributes:
        python: version.
        torch: version.
        least_torch: that the package asks for.
        torch_cuda: CUDA that torch was built for; None for the CPU alone.
        driver_cuda: newest CUDA that NVIDIA's driver supports; None without a driver.
        gpus: that torch can use.
        tensorrt: name and version of the library.
        tensorrt_problem: why there is none.
        ray: version; None where it is not installed.
        least_ray: that the package asks for.
        compiler: a C++ compiler is there.
        checkpoint: that is to be served.
        batch: rows of the largest batch.
        cache: folder of engines.
        engines: in it.
        free_bytes: on the disks of folders that are written.
        address: to listen on.
        port_problem: why that cannot be.
        descriptors: most open files of a process.
        shared_bytes: of ``/dev/shm``; None where there is none.
        server: that was asked about.
    """

    python: Version
    torch: Version
    least_torch: Version
    torch_cuda: Version | None
    driver_cuda: Version | None
    gpus: tuple[Gpu, ...]
    tensorrt: tuple[str, str] | None
    tensorrt_problem: str
    ray: Version | None
    least_ray: Version
    compiler: bool
    checkpoint: Checkpoint
    batch: int
    cache: Path
    engines: tuple[Engine, ...]
    free_bytes: dict[Path, int]
    address: str
    port_problem: str
    descriptors: int
    shared_bytes: int | None
    server: Server | None
