"""What computes a served prior: PyTorch, or something compiled that is checked against it first."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from flowmo.deploy.compile_cache import use_compile_cache
from flowmo.deploy.compiled_prior import compile_prior
from flowmo.deploy.onnx_files import OnnxFile, file_name
from flowmo.deploy.onnx_runtime import OnnxSession
from flowmo.deploy.prior_golden import check_prior
from flowmo.deploy.prior_graph import export_prior
from flowmo.deploy.runners import Runtime, default_cache, folder_of_graphs
from flowmo.deploy.tensorrt.build import find_or_build, key_of
from flowmo.deploy.tensorrt.keys import current_architecture, read_engine
from flowmo.deploy.tensorrt.libraries import load_library
from flowmo.deploy.tensorrt.steps import EngineHalf
from flowmo.model.errors import CompilationError
from flowmo.model.prior.checkpoint import Prior

logger = logging.getLogger(__name__)

Compute = Callable[[Tensor, Tensor], Tensor]


def install_prior(
    prior: Prior, checkpoint: str | Path, runtime: Runtime, buckets: Sequence[int]
) -> Compute | None:
    """Find what computes a prior as wanted, once it agrees with PyTorch.

    Args:
        prior: The network, on its device.
        checkpoint: The folder that it was loaded from; a graph that must be made is made from it.
        runtime: How the tokenizer's model is computed. What is there for tokenizers alone
            (``kernels``) leaves a prior to PyTorch, and ``compiled-fp8`` compiles it in its dtype.
        buckets: The batch sizes that will be asked for.

    Returns:
        A function of ids int64 [B, N] and classes int64 [B] that gives the logits [B, N, V]; None
        where PyTorch computes.

    Raises:
        CompilationError: Something is missing or wrong; PyTorch can go on.
    """
    if runtime.kind in {"torch", "kernels"}:
        return None
    cache = runtime.cache or default_cache()
    if runtime.kind in {"compiled", "compiled-fp8"}:
        use_compile_cache(cache)  # first: Inductor takes its own folder when it is imported
        return compile_prior(prior, buckets)
    if runtime.kind == "onnxruntime":
        compute = _open_onnx(prior, checkpoint, cache, build=runtime.build)
    else:
        compute = _open_tensorrt(prior, checkpoint, cache, buckets, build=runtime.build)
    try:
        error = check_prior(compute, prior, buckets)
    except CompilationError:
        raise
    except Exception as failure:
        raise CompilationError(f"{runtime.kind} cannot compute this prior: {failure}") from failure
    logger.info("the prior is computed by %s; relative error %.2g", runtime.kind, error)
    return compute


def folder_of_prior(cache: Path, prior: Prior) -> Path:
    """The folder of a prior's exported graph in a cache."""
    return folder_of_graphs(cache, prior.fingerprint(), prior.bias.dtype)


def _open_onnx(prior: Prior, checkpoint: str | Path, cache: Path, *, build: bool) -> Compute:
    if prior.bias.device.type != "cpu" or prior.bias.dtype != torch.float32:
        raise CompilationError(
            f"onnxruntime computes in float32 on a CPU, the prior is {prior.bias.dtype} on "
            f"{prior.bias.device}; use --device cpu --dtype float32, or compiled or tensorrt"
        )
    file = _graph(prior, checkpoint, cache, build=build)
    return OnnxSession(file, threads=torch.get_num_threads())


def _open_tensorrt(
    prior: Prior, checkpoint: str | Path, cache: Path, buckets: Sequence[int], *, build: bool
) -> Compute:
    device = prior.bias.device
    architecture = current_architecture(device)
    library = load_library()
    file = _graph(prior, checkpoint, cache, build=build)
    key = key_of(file, library, buckets, architecture)
    if build:
        with torch.cuda.device(device):  # kernels are timed on the present device
            find_or_build(file, cache, library, buckets)
    content, manifest = read_engine(cache / key.file_name, key)
    engine = EngineHalf("prior", content, manifest, library, device)
    memory = max(1, engine.memory_bytes)
    engine.use_memory(torch.empty(memory, dtype=torch.uint8, device=device))
    return engine


def _graph(prior: Prior, checkpoint: str | Path, cache: Path, *, build: bool) -> OnnxFile:
    """Find the exported graph of the prior in the cache, or make it."""
    path = folder_of_prior(cache, prior) / file_name("prior")
    if not path.is_file() and build:
        logger.info("exporting the prior to %s", path.parent)
        # Recorded on the CPU: a graph does not know where it will run.
        export_prior(Prior.from_pretrained(checkpoint, dtype=prior.bias.dtype), path.parent)
    file = OnnxFile.read(path)
    file.check_weights(prior.fingerprint())
    return file
