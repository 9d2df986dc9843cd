"""What computes a served model: PyTorch, or something compiled that is checked against it first."""

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

import torch

from flowmo.deploy import golden
from flowmo.deploy.compile_cache import kept_code, probe_the_compiler, use_compile_cache
from flowmo.deploy.compiled import CompiledSteps
from flowmo.deploy.export import export
from flowmo.deploy.graphs import Half
from flowmo.deploy.onnx_files import OnnxFile, file_name
from flowmo.deploy.onnx_runtime import OnnxSteps
from flowmo.deploy.tensorrt.build import find_or_build, key_of
from flowmo.deploy.tensorrt.keys import current_architecture, read_engine
from flowmo.deploy.tensorrt.libraries import load_library
from flowmo.deploy.tensorrt.steps import EngineHalf, TensorRTSteps
from flowmo.model.errors import CompilationError, ConfigError
from flowmo.model.flowmo import FlowMo
from flowmo.model.inference import InferenceModel, Steps
from flowmo.model.kernels.choice import Kernels

logger = logging.getLogger(__name__)

Kind = Literal[
    "torch", "compiled", "compiled-fp8", "kernels", "kernels-fp8", "onnxruntime", "tensorrt"
]
KINDS: tuple[Kind, ...] = get_args(Kind)
CACHE_VARIABLE = "FLOWMO_ENGINE_CACHE"


@dataclass(frozen=True, kw_only=True, slots=True)
class Runtime:
    """How a model is computed.

    Attributes:
        kind: The name of what computes it.
        cache: The folder of exported graphs and engines; :func:`default_cache` by default.
        build: Whether to make what is missing in the cache, which takes seconds to minutes.
    """

    kind: Kind = "torch"
    cache: Path | None = None
    build: bool = False

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ConfigError(f"a model is computed by one of {list(KINDS)}, got {self.kind!r}")


def default_cache() -> Path:
    """The folder ``FLOWMO_ENGINE_CACHE``, or ``flowmo/engines`` of the user's cache folder."""
    if folder := os.environ.get(CACHE_VARIABLE):
        return Path(folder)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "flowmo" / "engines"


def graph_folder(cache: Path, model: InferenceModel) -> Path:
    """The folder of a model's exported graphs in a cache."""
    return folder_of_graphs(cache, model.fingerprint, model.dtype)


def folder_of_graphs(cache: Path, fingerprint: str, dtype: torch.dtype) -> Path:
    """The folder of the exported graphs of some weights, in a dtype, in a cache."""
    name = str(dtype).removeprefix("torch.")
    return cache / f"onnx-{fingerprint[:12]}-{name}"


def install(
    model: InferenceModel, checkpoint: str, runtime: Runtime, buckets: Sequence[int]
) -> dict[Half, golden.Errors]:
    """Have a model computed as wanted from now on, once that agrees with PyTorch.

    Args:
        model: The model whose halves are to be computed.
        checkpoint: The checkpoint that it was loaded from; graphs that must be made are made from
            it.
        runtime: How the model is to be computed.
        buckets: The batch sizes that will be asked for.

    Returns:
        The errors of each half; nothing for PyTorch itself.

    Raises:
        CompilationError: Something is missing or wrong; the model goes on with PyTorch.
    """
    if runtime.kind == "torch":
        return {}
    # torchao replaces weights in place: those of a copy, so that the model itself can always go on.
    own = _again(model, checkpoint) if runtime.kind == "compiled-fp8" else model
    steps = _open(own, checkpoint, runtime, buckets)
    try:
        factor = golden.FP8_FACTOR if runtime.kind.endswith("fp8") else golden.FACTOR
        errors = golden.check(steps, model, buckets, factor=factor)
    except CompilationError:
        raise
    except Exception as error:
        # A compiler without its own compiler, a kernel that does not launch: whatever it is.
        raise CompilationError(
            f"{runtime.kind} cannot compute this model: {error}{_damage_hint(runtime.kind)}"
        ) from error
    # Those that have weights of their own: PyTorch's would lie beside them for nothing.
    model.compute_with(steps, free_networks=runtime.kind not in {"compiled", "kernels"})
    if model.device.type == "cuda":
        torch.cuda.empty_cache()
    logger.info("computed by %s; relative errors %s", runtime.kind, errors)
    return errors


def _damage_hint(kind: Kind) -> str:
    # Inductor compiles again where an entry of its index is damaged, but not where its code is.
    folder = kept_code() if kind in {"compiled", "compiled-fp8"} else None
    return (
        "" if folder is None else f"; if the code kept in {folder} is damaged, delete that folder"
    )


def _open(
    model: InferenceModel, checkpoint: str, runtime: Runtime, buckets: Sequence[int]
) -> Steps:
    cache = runtime.cache or default_cache()
    if runtime.kind in {"compiled", "compiled-fp8"}:
        use_compile_cache(cache)  # first: Inductor takes its own folder when it is imported
        if model.device.type == "cpu":
            probe_the_compiler()
        return CompiledSteps(model, buckets, fp8=runtime.kind == "compiled-fp8")
    if runtime.kind in {"kernels", "kernels-fp8"}:
        # They leave nothing for torch.compile to fuse, and need no compiling at the start.
        kernels = replace(Kernels.all(), fp8_rowwise=runtime.kind == "kernels-fp8")
        return CompiledSteps(model, buckets, compiled=False, kernels=kernels)
    if runtime.kind == "onnxruntime":
        if model.device.type != "cpu" or model.dtype != torch.float32:
            raise CompilationError(
                f"onnxruntime computes in float32 on a CPU, the model is {model.dtype} on "
                f"{model.device}; use --device cpu --dtype float32, or compiled or tensorrt"
            )
        _graphs(model, checkpoint, cache, build=runtime.build)
        return OnnxSteps(graph_folder(cache, model), model, threads=torch.get_num_threads())
    return _open_tensorrt(model, checkpoint, cache, buckets, build=runtime.build)


def _open_tensorrt(
    model: InferenceModel, checkpoint: str, cache: Path, buckets: Sequence[int], *, build: bool
) -> TensorRTSteps:
    architecture = current_architecture(model.device)
    library = load_library()
    opened: dict[Half, EngineHalf] = {}
    for half, file in _graphs(model, checkpoint, cache, build=build).items():
        key = key_of(file, library, buckets, architecture)
        if build:
            with torch.cuda.device(model.device):  # kernels are timed on the present device
                find_or_build(file, cache, library, buckets, progress=_tell)
        engine, manifest = read_engine(cache / key.file_name, key)
        opened[half] = EngineHalf(half, engine, manifest, library, model.device)
    return TensorRTSteps(opened)


def _graphs(
    model: InferenceModel, checkpoint: str, cache: Path, *, build: bool
) -> dict[Half, OnnxFile]:
    """Find the exported graphs of the model in the cache, or make them."""
    folder = graph_folder(cache, model)
    found: dict[Half, OnnxFile] = {}
    source: InferenceModel | None = None
    for half in model.halves:
        path = folder / file_name(half)
        if not path.is_file() and build:
            logger.info("exporting the %s to %s", half, folder)
            # Recorded on the CPU: a graph does not know where it will run.
            source = source or _again(model, checkpoint, device="cpu")
            export(source, folder, half)
        file = OnnxFile.read(path)
        file.check_weights(model.fingerprint)
        found[half] = file
    return found


def _again(
    model: InferenceModel, checkpoint: str, *, device: str | torch.device | None = None
) -> InferenceModel:
    return InferenceModel(
        FlowMo.from_pretrained(checkpoint),
        dtype=model.dtype,
        device=device or model.device,
        halves=model.halves,
    )


def _tell(phase: str, done: int, steps: int) -> None:
    if done == steps:
        logger.info("building the engine: %s done", phase)
