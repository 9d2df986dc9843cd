"""Builds engines from exported halves and priors."""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from flowmo.deploy.onnx_files import OnnxFile
from flowmo.deploy.tensorrt.keys import (
    EngineKey,
    Manifest,
    current_architecture,
    digest_of,
    read_manifest,
    write_engine,
)
from flowmo.deploy.tensorrt.libraries import Library, make_logger
from flowmo.deploy.tensorrt.report import layer_report
from flowmo.model.errors import CompilationError
from flowmo.model.prior.config import PriorConfig

logger = logging.getLogger(__name__)

# name of a phase, steps done, steps in all
BuildProgress = Callable[[str, int, int], None]
_TIMING_CACHE = "timing.cache"


@dataclass(frozen=True, kw_only=True, slots=True)
class BuildOptions:
    """How engines are built.

    Attributes:
        architecture: ``sm90`` and the like; that of the GPU at hand by default.
        refittable: Whether weights can be exchanged later, at some cost in speed.
        workspace_bytes: The GPU memory that kernels may use while they run; the library's own limit
            by default.
    """

    architecture: str | None = None
    refittable: bool = False
    workspace_bytes: int | None = None


def key_of(
    file: OnnxFile, library: Library, buckets: Sequence[int], architecture: str
) -> EngineKey:
    """The key of the engine that is built from a file."""
    return EngineKey(
        half=file.half,
        fingerprint=file.fingerprint,
        dtype=file.dtype,
        attention=file.attention,
        library=library.name,
        version=library.version,
        architecture=architecture,
        buckets=tuple(buckets),
        quantization=file.quantization,
    )


def build(
    file: OnnxFile,
    folder: str | Path,
    library: Library,
    buckets: Sequence[int],
    *,
    options: BuildOptions | None = None,
    progress: BuildProgress | None = None,
) -> tuple[Path, Manifest]:
    """Build an engine with one optimization profile a bucket, and write it with its manifest.

    Shapes are fixed in each profile, so that every kernel is chosen for its batch size. A timing
    cache in the folder makes later builds quicker, where the library has one.

    Args:
        file: An exported half or prior.
        folder: The folder of engines; made if it is not there.
        library: The library that builds.
        buckets: The batch sizes, ascending.
        options: How the engine is built.
        progress: Is notified of each phase: its name, the steps done, and all its steps.

    Raises:
        CompilationError: There is no GPU where one is needed, the library does not build for the
            architecture, does not know an operator or fails otherwise.
    """
    options = options or BuildOptions()
    architecture = options.architecture or current_architecture()
    if not library.builds_without_gpu and architecture != current_architecture():
        raise CompilationError(
            f"{library.name} builds for the GPU at hand only, {current_architecture()}, not for "
            f"{architecture}; build on such a machine"
        )
    if options.refittable and not torch.cuda.is_available():
        raise CompilationError(
            f"{library.name} {library.version} builds refittable engines only where a GPU is; "
            f"leave refit out, or build there"
        )
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    messages = make_logger(library)
    api = library.api
    begin = time.monotonic()
    builder = api.Builder(messages)
    network = builder.create_network(_strongly_typed(api))
    parser = api.OnnxParser(network, messages)
    if not parser.parse_from_file(str(file.path)):
        raise CompilationError(_parser_problem(file, library, parser, messages))
    config = builder.create_builder_config()
    _set_architecture(config, library, architecture)
    for bucket in buckets:
        _add_profile(builder, network, config, bucket)
    config.profiling_verbosity = api.ProfilingVerbosity.DETAILED
    if options.refittable:
        config.set_flag(api.BuilderFlag.REFIT)
    if options.workspace_bytes is not None:
        config.set_memory_pool_limit(api.MemoryPoolType.WORKSPACE, options.workspace_bytes)
    cache_path = folder / _TIMING_CACHE
    if library.times_kernels:
        _read_timing_cache(config, cache_path)
    if progress is not None:
        config.progress_monitor = _monitor_class(api)(progress)
    built = builder.build_serialized_network(network, config)
    if built is None:
        raise CompilationError(
            f"{library.name} {library.version} cannot build {file.path.name} for {architecture}: "
            f"{messages.first_error()}"
        )
    if library.times_kernels:
        _write_timing_cache(config, cache_path)
    engine = bytes(built)
    manifest = Manifest(
        key=key_of(file, library, buckets, architecture),
        size=len(engine),
        sha256=digest_of(engine),
        bindings=_bindings(network),
        report=layer_report(messages.layers, profiles=len(buckets), depth=_depth(file)),
        seconds=round(time.monotonic() - begin, 3),
        refittable=options.refittable,
    )
    return write_engine(folder, engine, manifest), manifest


def find_or_build(
    file: OnnxFile,
    folder: str | Path,
    library: Library,
    buckets: Sequence[int],
    *,
    options: BuildOptions | None = None,
    progress: BuildProgress | None = None,
) -> tuple[Path, Manifest, bool]:
    """Find the engine that is there, or build one; the last value says whether it is new."""
    options = options or BuildOptions()
    architecture = options.architecture or current_architecture()
    key = key_of(file, library, buckets, architecture)
    path = Path(folder) / key.file_name
    if path.is_file():
        try:
            manifest = read_manifest(path)
        except CompilationError as error:
            logger.warning("%s; it is built again", error)
        else:
            if manifest.key == key and manifest.refittable == options.refittable:
                return path, manifest, False
    return (*build(file, folder, library, buckets, options=options, progress=progress), True)


def _strongly_typed(api: Any) -> int:
    """Take types from the graph: 10.x needs a flag for it, later versions know nothing else."""
    flag = getattr(api.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    return 0 if flag is None else 1 << int(flag)


def _set_architecture(config: Any, library: Library, architecture: str) -> None:
    if not library.builds_without_gpu:
        return
    known = library.api.ComputeCapability
    wanted = getattr(known, architecture.upper(), None)
    if wanted is None:
        names = sorted(
            (name.lower() for name in dir(known) if name.startswith("SM")),
            key=lambda name: int(name[2:]),
        )
        raise CompilationError(
            f"{library.name} {library.version} does not build for {architecture} ahead of time; it "
            f"knows {', '.join(names)}. For other GPUs, such as the H100, use tensorrt on a "
            f"machine that has one"
        )
    config.num_compute_capabilities = 1
    config.set_compute_capability(wanted, 0)


def _add_profile(builder: Any, network: Any, config: Any, bucket: int) -> None:
    profile = builder.create_optimization_profile()
    for number in range(network.num_inputs):
        tensor = network.get_input(number)
        shape = (bucket, *tuple(tensor.shape)[1:])
        profile.set_shape(tensor.name, shape, shape, shape)
    config.add_optimization_profile(profile)


def _read_timing_cache(config: Any, path: Path) -> None:
    content = path.read_bytes() if path.is_file() else b""
    cache = config.create_timing_cache(content)
    # Of another version or GPU it is no use, and not an error.
    if cache is None or not config.set_timing_cache(cache, ignore_mismatch=False):
        empty = config.create_timing_cache(b"")
        if empty is not None:
            config.set_timing_cache(empty, ignore_mismatch=False)


def _write_timing_cache(config: Any, path: Path) -> None:
    cache = config.get_timing_cache()
    if cache is not None:
        path.write_bytes(bytes(cache.serialize()))


def _bindings(network: Any) -> dict[str, dict[str, Any]]:
    inputs = [network.get_input(i) for i in range(network.num_inputs)]
    outputs = [network.get_output(i) for i in range(network.num_outputs)]
    return {
        tensor.name: {
            "kind": kind,
            "dtype": str(tensor.dtype).rpartition(".")[2].lower(),
            "shape": list(tensor.shape)[1:],
        }
        for kind, tensors in (("input", inputs), ("output", outputs))
        for tensor in tensors
    }


def _depth(file: OnnxFile) -> int:
    if isinstance(file.config, PriorConfig):
        return file.config.depth
    stack = file.config.encoder if file.half == "encoder" else file.config.decoder
    return stack.depth


def _parser_problem(file: OnnxFile, library: Library, parser: Any, messages: Any) -> str:
    found = [parser.get_error(i) for i in range(parser.num_errors)]
    failed: str = f"{library.name} {library.version} cannot parse {file.path}: "
    if not found:
        return failed + str(messages.first_error())
    error = found[0]
    operator = error.node_operator() if hasattr(error, "node_operator") else ""
    problem = str(error.desc()).strip().splitlines()[0]
    return (
        f"{failed}node {error.node()}{f', operator {operator}' if operator else ''}: "
        f"{problem}; a newer TensorRT or --attention explicit may help"
    )


def _monitor_class(api: Any) -> Any:
    class Monitor(api.IProgressMonitor):  # type: ignore[misc]
        """Hands on the outermost phases."""

        def __init__(self, progress: BuildProgress) -> None:
            api.IProgressMonitor.__init__(self)
            self._progress = progress
            self._steps: dict[str, int] = {}

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            if parent_phase is None:
                self._steps[phase_name] = num_steps
                self._progress(phase_name, 0, num_steps)

        def phase_finish(self, phase_name: str) -> None:
            if (steps := self._steps.pop(phase_name, None)) is not None:
                self._progress(phase_name, steps, steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            if (steps := self._steps.get(phase_name)) is not None:
                self._progress(phase_name, step, steps)
            return True

    return Monitor
