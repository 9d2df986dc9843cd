"""The one place where a checkpoint becomes something that computes."""

import importlib
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Protocol, cast

import torch

from flowmo.deploy.runners import KINDS, Runtime, install
from flowmo.deploy.threads import measure_threads
from flowmo.model.errors import CompilationError, ConfigError
from flowmo.model.inference import InferenceModel
from flowmo.model.loading import check_has_tokens, load_inference_model
from flowmo.service.engine.local import EngineSettings, LocalEngines
from flowmo.service.engine.observer import EngineObserver
from flowmo.service.engine.runner import CodecRunner
from flowmo.service.engine.sizes import TORCH, buckets_of
from flowmo.service.engine.torch_runner import TorchRunner
from flowmo.service.local_codec import LocalCodec
from flowmo.service.models import Models
from flowmo.service.settings import Settings

logger = logging.getLogger(__name__)


class EngineObservers(Protocol):
    """Gives the engines of each model their observer."""

    def observer(self, model: str) -> EngineObserver:
        """For the engines of one model."""
        ...


def open_models(settings: Settings, observers: EngineObservers) -> Models:
    """Load all models of a server.

    Args:
        settings: which, and how they are computed.
        observers: for their engines.

    Raises:
        CheckpointError: one cannot be loaded.
        ConfigError: an unknown device or dtype.
    """
    engine = EngineSettings(max_queue=settings.max_queue, batching=settings.batching)

    def load(checkpoint: str) -> CodecRunner:
        return load_runner(
            checkpoint,
            device=settings.device,
            dtype=settings.dtype,
            threads=settings.threads,
            max_batch=settings.max_batch,
            runner=settings.runner,
            engine_cache=settings.engine_cache,
            build_engines=settings.build_engines,
        )

    sources, loaded = settings.models, dict[str, CodecRunner]()
    if not sources:  # one model, under the name that it has itself
        runner = load(settings.checkpoint)
        sources = {runner.info.name: settings.checkpoint}
        loaded[runner.info.name] = runner

    def build(name: str, checkpoint: str) -> LocalEngines:
        runner = loaded.pop(name, None) or load(checkpoint)
        return LocalEngines(runner, runner, engine, observers.observer(name))

    return Models({name: partial(build, name, source) for name, source in sources.items()})


def load_codec(
    checkpoint: str, *, device: str = "auto", dtype: str = "auto", threads: int | None = None
) -> LocalCodec:
    """Load a checkpoint to compute with it directly; arguments and errors of :func:`load_model`."""
    return LocalCodec(load_model(checkpoint, device=device, dtype=dtype, threads=threads))


def load_runner(
    checkpoint: str,
    *,
    device: str = "auto",
    dtype: str = "auto",
    threads: int | None = None,
    max_batch: int | None = None,
    runner: str = TORCH,
    engine_cache: Path | None = None,
    build_engines: bool = False,
) -> CodecRunner:
    """Load a checkpoint for the engines.

    Args:
        checkpoint: a folder or hub repository.
        device: of :func:`load_model`.
        dtype: of :func:`load_model`.
        threads: of :func:`load_model`; 0 measures which number is quickest.
        max_batch: most rows of one batch, at least 2; what suits the device by default.
        runner: a kind of :class:`flowmo.deploy.runners.Runtime`; where it is not to be had, PyTorch
            computes and a warning is logged. Or ``module:function`` of one's own, which gets the
            arguments before this one by these names.
        engine_cache: folder of engines.
        build_engines: make what is missing there.

    Raises:
        CheckpointError: see :func:`load_model`.
        ConfigError: see :func:`load_model`; or there is no such runner.
    """
    if ":" in runner:
        make = _function(runner)
        return make(checkpoint, device=device, dtype=dtype, threads=threads, max_batch=max_batch)
    if runner not in KINDS:
        raise ConfigError(
            f"runner must be one of {', '.join(KINDS)}, or module:function, got {runner!r}"
        )
    runtime = Runtime(kind=runner, cache=engine_cache, build=build_engines)
    model = load_model(checkpoint, device=device, dtype=dtype, threads=threads)
    buckets = buckets_of(model.device.type, max_batch)
    # Both compute an example, in threads whose pools (see load_model) go with them.
    if threads == 0 and model.device.type == "cpu":
        with ThreadPoolExecutor(1, "flowmo-measure") as pool:
            found = pool.submit(measure_threads, model).result()
        torch.set_num_threads(found)
        logger.info("a step is quickest with %d threads", found)
    is_fallback = False
    try:
        with ThreadPoolExecutor(1, "flowmo-install") as pool:
            pool.submit(install, model, checkpoint, runtime, buckets).result()
    except CompilationError as error:
        # Slower is better than nothing; the metrics and the log say what computes.
        logger.warning("%s is not to be had, PyTorch computes instead: %s", runner, error)
        runner, is_fallback = TORCH, True
    return TorchRunner(model, max_batch=max_batch, runner=runner, is_fallback=is_fallback)


def _function(path: str) -> Callable[..., CodecRunner]:
    module, _, name = path.partition(":")
    try:
        return cast(Callable[..., CodecRunner], getattr(importlib.import_module(module), name))
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(
            f"runner {path!r} is not a module:function that can be imported: {error}"
        ) from None


def load_model(
    checkpoint: str, *, device: str = "auto", dtype: str = "auto", threads: int | None = None
) -> InferenceModel:
    """Load a checkpoint for serving.

    Args:
        checkpoint: A folder with ``config.json`` and safetensors, or a hub repository.
        device: See :func:`flowmo.model.loading.choose_device`.
        dtype: See :func:`flowmo.model.loading.choose_dtype`.
        threads: CPU threads of the process for one operation; PyTorch's own choice by default.

    Raises:
        CheckpointError: It is not a checkpoint, or one without tokens.
        ConfigError: The device or the dtype is unknown.
    """
    model = load_inference_model(checkpoint, device=device, dtype=dtype, threads=threads)
    check_has_tokens(model, checkpoint)
    return model
