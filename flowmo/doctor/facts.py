"""What is known of a machine. Checks see nothing else, so that any machine can be described."""

import re
from dataclasses import dataclass
from pathlib import Path

from flowmo.deploy.tensorrt.keys import EngineKey
from flowmo.model.config import FlowMoConfig

Version = tuple[int, ...]


def version_of(text: str) -> Version:
    """Read the numbers that a version begins with: 2.11.0+cpu is (2, 11, 0)."""
    match = re.match(r"\d+(\.\d+)*", text)
    return tuple(map(int, match[0].split("."))) if match else ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Gpu:
    """One CUDA device.

    Attributes:
        name: The name for people.
        architecture: ``sm90`` and the like.
        total_bytes: The size of its memory.
        free_bytes: What is free of its memory now.
    """

    name: str
    architecture: str
    total_bytes: int
    free_bytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Checkpoint:
    """A checkpoint that was to be served.

    Attributes:
        place: The name of the checkpoint, as given.
        config: The model's config; None if it cannot be read.
        fingerprint: The fingerprint of the weights as they are.
        stored_fingerprint: The fingerprint that ``config.json`` has, if it has one.
        problem: Why the checkpoint cannot be read.
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
        name: The name of the file.
        key: What the engine is good for; None if its manifest cannot be read.
        is_whole: Whether it has as many bytes as were built.
        problem: What is wrong with its manifest.
    """

    name: str
    key: EngineKey | None = None
    is_whole: bool = True
    problem: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Server:
    """A running server.

    Attributes:
        url: The server's address.
        version: The version of flowmo-serve that answers; empty where something else does.
        health: The status of ``/healthz``; None without an answer.
        ready: The status of ``/readyz``; None without an answer.
        runners: What computes each model; empty where the list of models needs another key.
        fallbacks: The models that PyTorch computes in place of something else.
        problem: Why there is no answer.
    """

    url: str
    version: str = ""
    health: int | None = None
    ready: int | None = None
    runners: dict[str, str]
    fallbacks: tuple[str, ...] = ()
    problem: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Torchvision:
    """The installed torchvision, whose binaries fit the one build of torch they were made with.

    Attributes:
        version: Its version as it is written, such as 0.26.0+cpu.
        asks_for: The version of torch that it asks for; empty if it does not say.
        problem: What importing it raised; empty if it loads.
    """

    version: str
    asks_for: str = ""
    problem: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Facts:
    """Everything that is known of a machine.

    Attributes:
        python: The interpreter's version.
        torch: The version of torch.
        least_torch: The oldest torch that the package accepts.
        torch_cuda: The CUDA that torch was built for; None for the CPU alone.
        torchvision: The installed torchvision; None where there is none.
        training: Whether the machine is to train and evaluate, too.
        driver_cuda: The newest CUDA that NVIDIA's driver supports; None without a driver.
        gpus: The devices that torch can use.
        tensorrt: Name and version of the library; None where there is none.
        tensorrt_problem: Why there is no TensorRT.
        ray: The version of Ray; None where it is not installed.
        least_ray: The oldest Ray that the package accepts.
        compiler: Whether there is a C++ compiler.
        checkpoint: The checkpoint that is to be served.
        batch: Rows of the largest batch.
        cache: The folder of engines.
        engines: The engines in that folder.
        free_bytes: Bytes that are free on the disks of folders that are written.
        address: The address to listen on.
        port_problem: Why the address cannot be listened on; empty if it can.
        port_server: The flowmo server that listens there; None if there is none.
        descriptors: The most files that a process may have open.
        shared_bytes: The size of ``/dev/shm``; None where there is none.
        server: The server that was asked about.
    """

    python: Version
    torch: Version
    least_torch: Version
    torch_cuda: Version | None
    torchvision: Torchvision | None
    training: bool
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
    port_server: Server | None
    descriptors: int
    shared_bytes: int | None
    server: Server | None
