"""What is right and wrong with a machine: each check is a function of the facts."""

from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Literal

from flowmo.deploy.cost import cost_of
from flowmo.doctor.facts import Engine, Facts, Version, version_of

Level = Literal["OK", "WARN", "FAIL"]

_GB = 10**9
# A connection is a descriptor, and so is each file and worker.
ENOUGH_DESCRIPTORS, FEWEST_DESCRIPTORS = 4096, 256
# Ray keeps pictures between processes there; a container's default is 64 MB.
ENOUGH_SHARED = 2 * _GB
# The graphs and engines of Lo take 2 GB each; checkpoints 4 GB.
ENOUGH_DISK, LEAST_DISK = 10 * _GB, 1 * _GB
# What CUDA itself and the allocator's reserve take.
GPU_OVERHEAD = 1 * _GB


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check found.

    Attributes:
        level: OK; WARN: it works, but not as well as it could; FAIL: it will not work.
        text: What is there.
        mend: What to do about it; empty if nothing need be done.
    """

    level: Level
    text: str
    mend: str = ""


def python(facts: Facts) -> Finding:
    """Whether the interpreter is new enough."""
    if facts.python < (3, 11):
        return Finding("FAIL", _dots(facts.python), "use Python 3.11 or newer")
    return Finding("OK", _dots(facts.python))


def torch(facts: Facts) -> Finding:
    """Whether PyTorch is new enough, and built for the device."""
    built = f"for CUDA {_dots(facts.torch_cuda)}" if facts.torch_cuda else "for the CPU"
    text = f"{_dots(facts.torch)}, built {built}"
    if facts.torch < facts.least_torch:
        wanted = _dots(facts.least_torch)
        return Finding(
            "FAIL", text, f"install torch {wanted} or newer: pip install 'torch>={wanted}'"
        )
    if facts.driver_cuda and not facts.torch_cuda:
        return Finding("WARN", f"{text}, and there is an NVIDIA driver", _CUDA_BUILD)
    return Finding("OK", text)


_CUDA_BUILD = "install torch's build for CUDA (pytorch.org/get-started says how)"


def torchvision(facts: Facts) -> Finding:
    """Whether torchvision, whose networks training and evaluation use, fits this torch."""
    found = facts.torchvision
    level: Level = "FAIL" if facts.training else "WARN"
    if found is None:
        if facts.training:
            return Finding("FAIL", "not installed", "pip install 'flowmo-serve[train]'")
        return Finding("OK", "not installed; only training and evaluation use it")
    here = _dots(facts.torch)
    if found.asks_for and version_of(found.asks_for) != facts.torch:
        text = f"{found.version} is built for torch {found.asks_for}, and here is {here}"
    elif found.problem:
        text = f"{found.version} does not load beside torch {here}: {found.problem}"
    else:
        return Finding("OK", f"{found.version}, built for this torch")
    return Finding(
        level,
        text + ("" if facts.training else "; only networks of training and evaluation need it"),
        "install the torchvision of this torch's build (CPU or CUDA), from where torch came "
        "(pytorch.org/get-started has the pairs), or pip uninstall torchvision",
    )


def driver(facts: Facts) -> Finding:
    """Whether NVIDIA's driver is as new as torch's CUDA."""
    if facts.driver_cuda is None:
        mend = "install NVIDIA's driver, or run the container with its GPUs (--gpus all)"
        if facts.torch_cuda is None:
            return Finding("OK", "none; the CPU computes")
        return Finding("WARN", "none, though torch is built for CUDA; the CPU computes", mend)
    text = f"for CUDA up to {_dots(facts.driver_cuda)}"
    # Within one major version an older driver runs what a newer CUDA has built.
    if facts.torch_cuda and facts.driver_cuda[0] < facts.torch_cuda[0]:
        needed = _dots(facts.torch_cuda)
        mend = f"install a driver for CUDA {needed}, or a torch built for an older one"
        return Finding("FAIL", f"{text}, torch needs {needed}", mend)
    return Finding("OK", text)


def gpus(facts: Facts) -> Finding:
    """Which devices torch can use."""
    if not facts.gpus:
        if facts.driver_cuda and facts.torch_cuda:
            mend = "look at nvidia-smi, CUDA_VISIBLE_DEVICES and the container's --gpus"
            return Finding("FAIL", "the driver is there, torch sees no device", mend)
        return Finding("OK", "none")
    return Finding("OK", ", ".join(f"{gpu.name} ({gpu.architecture})" for gpu in facts.gpus))


def gpu_memory(facts: Facts) -> Finding:
    """Whether the model fits into the first GPU, and into what is free of it."""
    config = facts.checkpoint.config
    if not facts.gpus or config is None:
        return Finding("OK", "not needed" if not facts.gpus else "unknown without a checkpoint")
    gpu = facts.gpus[0]
    need = cost_of(config, facts.batch).memory_bytes + GPU_OVERHEAD
    text = (
        f"{config.name} needs {_gb(need)} in bfloat16 with batches of {facts.batch} (computed); "
        f"{_gb(gpu.free_bytes)} of {_gb(gpu.total_bytes)} are free"
    )
    if need > gpu.total_bytes:
        return Finding("FAIL", text, "use a larger GPU, or a smaller --max-batch")
    if need > gpu.free_bytes:
        return Finding("WARN", text, "see with nvidia-smi what else is on this GPU, and end it")
    return Finding("OK", text)


def tensorrt(facts: Facts) -> Finding:
    """Whether there is a TensorRT library that suits the GPU."""
    if facts.tensorrt is None:
        if facts.gpus and facts.engines:
            mend = "use --runner compiled, or pip install 'flowmo-serve[tensorrt]'"
            return Finding(
                "WARN", f"none, though there are engines: {facts.tensorrt_problem}", mend
            )
        return Finding("OK", "none; --runner tensorrt would need it, and a GPU")
    name, version = facts.tensorrt
    architecture = facts.gpus[0].architecture if facts.gpus else ""
    if name == "tensorrt_rtx" and architecture in _NOT_RTX:
        return Finding(
            "WARN",
            f"{name} {version} has no kernels for {architecture}",
            "pip install 'flowmo-serve[tensorrt]', or use --runner compiled",
        )
    return Finding("OK", f"{name} {version}")


# Data centre GPUs: the library for workstations does not know them.
_NOT_RTX = {"sm90", "sm100", "sm103"}


def checkpoint(facts: Facts) -> Finding:
    """Whether the checkpoint can be read, is whole, and has tokens."""
    found = facts.checkpoint
    if found.problem:
        return Finding("FAIL", found.problem, "name another with --checkpoint, or fetch it again")
    assert found.config is not None
    if found.stored_fingerprint not in {None, found.fingerprint}:
        text = f"{found.place}: its weights are not those it was written with"
        return Finding("FAIL", text, "fetch or convert it again")
    if found.config.quantizer != "lfq":
        text = f"{found.place} is a continuous model, which has no tokens"
        return Finding("FAIL", text, "serve a checkpoint with quantizer='lfq'")
    return Finding("OK", f"{found.place}: {found.config.name}, {found.fingerprint[:12]}")


def engines(facts: Facts) -> Finding:
    """Whether the engine cache is good for this checkpoint, library and GPU."""
    if not facts.engines:
        return Finding("OK", f"no engines in {facts.cache}; --runner tensorrt would need them")
    wrong = {engine.name: why for engine in facts.engines if (why := _unfit(engine, facts))}
    fit = [engine for engine in facts.engines if engine.name not in wrong]
    if {engine.key.half for engine in fit if engine.key} == {"encoder", "decoder"}:
        return Finding("OK", f"{len(fit)} of {len(facts.engines)} in {facts.cache} are good here")
    reasons = [f"{name} is {why}" for name, why in wrong.items()] or ["one half is missing"]
    return Finding(
        "WARN",
        f"{facts.cache} has no engines that are good for both halves here: {reasons[0]}",
        "build them: flowmo build-engine, or flowmo serve --runner tensorrt --build-engines",
    )


def _unfit(engine: Engine, facts: Facts) -> str:
    """Why an engine is not loaded here; empty if it is."""
    key = engine.key
    if key is None:
        return f"unknown: {engine.problem}"
    if not engine.is_whole:
        return "of another size than was built"
    fingerprint = facts.checkpoint.fingerprint
    if fingerprint and key.fingerprint != fingerprint:
        return f"for the weights {key.fingerprint[:12]}, not {fingerprint[:12]}"
    if (key.library, key.version) != facts.tensorrt:
        here = " ".join(facts.tensorrt) if facts.tensorrt else "none"
        return f"for {key.library} {key.version}, and here is {here}"
    here = facts.gpus[0].architecture if facts.gpus else "no GPU"
    if key.architecture != here:
        return f"for {key.architecture}, and here is {here}"
    return ""


def compiler(facts: Facts) -> Finding:
    """Whether there is a compiler for ``--runner compiled`` on a CPU."""
    if facts.compiler or facts.gpus:
        return Finding("OK", "there" if facts.compiler else "none; a GPU does not need it")
    return Finding("WARN", "none: --runner compiled cannot be used", "apt-get install g++")


def ray(facts: Facts) -> Finding:
    """Whether ``--ray`` can be used."""
    if facts.ray is None:
        return Finding("OK", "not installed; --ray needs pip install 'flowmo-serve[serve]'")
    if facts.ray < facts.least_ray:
        mend = f"pip install 'ray[serve]>={_dots(facts.least_ray)}'"
        return Finding("FAIL", f"{_dots(facts.ray)} is too old", mend)
    return Finding("OK", _dots(facts.ray))


def shared_memory(facts: Facts) -> Finding:
    """Whether /dev/shm has room for Ray's object store."""
    if facts.ray is None or facts.shared_bytes is None:
        return Finding("OK", "not needed")
    text = f"/dev/shm has {_gb(facts.shared_bytes)}"  # noqa: S108
    if facts.shared_bytes < ENOUGH_SHARED:
        mend = "docker run --shm-size 4g, or an emptyDir with medium: Memory on Kubernetes"
        return Finding("WARN", f"{text}; Ray falls back to the disk, which is slow", mend)
    return Finding("OK", text)


def port(facts: Facts) -> Finding:
    """Whether the server can listen."""
    if found := facts.port_server:
        models = ", ".join(found.runners) or "unknown without an API key (--api-key)"
        ready = "" if found.ready == HTTPStatus.OK else ", not ready"
        return Finding(
            "WARN",
            f"{facts.address} is in use by flowmo-serve {found.version}{ready}; models: {models}",
            f"look at it with --url {found.url}; a second server takes another --port",
        )
    if facts.port_problem:
        mend = "choose another --port, or see with ss -ltnp who has it"
        return Finding("FAIL", f"{facts.address}: {facts.port_problem}", mend)
    return Finding("OK", f"{facts.address} is free")


def descriptors(facts: Facts) -> Finding:
    """Whether a process may have enough connections and files at once."""
    text = f"{facts.descriptors} open files a process"
    mend = f"ulimit -n {ENOUGH_DESCRIPTORS}, or LimitNOFILE= of the systemd unit"
    if facts.descriptors < FEWEST_DESCRIPTORS:
        return Finding("FAIL", text, mend)
    if facts.descriptors < ENOUGH_DESCRIPTORS:
        return Finding("WARN", f"{text}: so many connections at most", mend)
    return Finding("OK", text)


def disk(facts: Facts) -> Finding:
    """Whether there is room for engines and for checkpoints of the hub."""
    folder, least = min(facts.free_bytes.items(), key=lambda item: item[1])
    text = f"{_gb(least)} free at {folder}"
    mend = "make room, or set FLOWMO_ENGINE_CACHE or HF_HOME to a larger disk"
    if least < LEAST_DISK:
        return Finding("FAIL", text, mend)
    return Finding("WARN", text, mend) if least < ENOUGH_DISK else Finding("OK", text)


def server(facts: Facts) -> Finding:
    """Whether a running server is well, if one was asked about."""
    found = facts.server
    if found is None:
        return Finding("OK", "not asked about; --url looks at one")
    if found.problem:
        return Finding("FAIL", f"{found.url}: {found.problem}", "start it, or correct --url")
    if not found.version:
        return Finding("FAIL", f"{found.url} is no flowmo server", "start one, or correct --url")
    if found.health != HTTPStatus.OK:
        mend = "its log says why the device thread has ended or hangs; restart it"
        return Finding("FAIL", f"{found.url} is unhealthy ({found.health})", mend)
    if found.ready != HTTPStatus.OK:
        mend = "wait for the warm-up; if it does not end, look at the log"
        return Finding("WARN", f"{found.url} is not ready ({found.ready})", mend)
    if found.fallbacks:
        models = ", ".join(found.fallbacks)
        text = f"{found.url}: PyTorch computes {models} in place of what was asked for"
        return Finding("WARN", text, "its log says why; see engines and tensorrt above")
    computed = ", ".join(f"{model} by {runner}" for model, runner in found.runners.items())
    models = f": {computed}" if computed else "; its models need an API key (--api-key)"
    return Finding("OK", f"{found.url} is flowmo-serve {found.version} and ready{models}")


CHECKS: dict[str, Callable[[Facts], Finding]] = {
    "python": python,
    "torch": torch,
    "torchvision": torchvision,
    "driver": driver,
    "gpus": gpus,
    "gpu memory": gpu_memory,
    "tensorrt": tensorrt,
    "checkpoint": checkpoint,
    "engines": engines,
    "compiler": compiler,
    "ray": ray,
    "shared memory": shared_memory,
    "port": port,
    "descriptors": descriptors,
    "disk": disk,
    "server": server,
}


def examine(facts: Facts) -> dict[str, Finding]:
    """Run all checks: findings by the check's name, in order."""
    return {name: check(facts) for name, check in CHECKS.items()}


def _dots(version: Version) -> str:
    return ".".join(map(str, version))


def _gb(size: int) -> str:
    return f"{size / _GB:.1f} GB"
