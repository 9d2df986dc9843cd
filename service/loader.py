"""The one place where a checkpoint becomes something that computes."""

import importlib
import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Protocol, cast

import torch

from flowmo.deploy.buckets import powers_of_two
from flowmo.deploy.prior_runners import install_prior
from flowmo.deploy.runners import KINDS, Runtime, install
from flowmo.deploy.threads import measure_threads
from flowmo.model import registry
from flowmo.model.checkpoint import inspect_checkpoint
from flowmo.model.errors import CompilationError, ConfigError
from flowmo.model.hub import resolve_checkpoint
from flowmo.model.inference import HALVES, Half, InferenceModel
from flowmo.model.loading import (
    check_has_tokens,
    choose_device,
    choose_dtype,
    load_inference_model,
)
from flowmo.model.prior.checkpoint import PRIOR_TYPE, Prior, inspect_prior
from flowmo.service.engine.config import RunnerConfig
from flowmo.service.engine.local import EngineSettings, LocalEngines
from flowmo.service.engine.model_info import ModelInfo
from flowmo.service.engine.observer import EngineObserver
from flowmo.service.engine.runner import GeneratorRunner, Runner
from flowmo.service.engine.sizes import TORCH, default_max_batch
from flowmo.service.engine.torch_generator import TorchGeneratorRunner
from flowmo.service.engine.torch_runner import TorchRunner
from flowmo.service.garbage import set_aside
from flowmo.service.models import Models
from flowmo.service.settings import Settings

logger = logging.getLogger(__name__)


class EngineObservers(Protocol):
    """Gives the engines of each model their observer."""

    def observer(self, model: str, *, generates: bool = False) -> EngineObserver:
        """The observer of one model's engines, of which one generates tokens or none does."""
        ...


def open_models(settings: Settings, observers: EngineObservers) -> Models:
    """Load all models of a server, whose process takes no requests before.

    Args:
        settings: Which models, and how they are computed.
        observers: What gives their engines an observer.

    Raises:
        CheckpointError: A model cannot be loaded.
        ConfigError: The device, the dtype or the runner is unknown, or the prior is of no model.
    """
    configs = {name: settings.runner_config(source) for name, source in settings.models.items()}
    if configs and settings.prior is not None:
        configs = with_prior(configs, settings.prior)
    loaded = dict[str, Runner]()
    if not configs:  # one model, under the name that it has itself
        config = settings.runner_config()
        runner = load_runner(config)
        configs = {runner.info.name: config}
        loaded[runner.info.name] = runner

    def build(name: str, config: RunnerConfig) -> LocalEngines:
        runner = loaded.pop(name, None) or load_runner(config)
        generator = load_generator(config, runner.info)
        observer = observers.observer(name, generates=generator is not None)
        own = engine_settings(config)
        return LocalEngines(runner, runner, own, observer, generator, warmed=set_aside)

    return Models({name: partial(build, name, config) for name, config in configs.items()})


def with_prior(configs: Mapping[str, RunnerConfig], prior: str) -> dict[str, RunnerConfig]:
    """Give a prior to the models whose tokens it knows, among several.

    Args:
        configs: The models by name.
        prior: The prior's checkpoint.

    Raises:
        CheckpointError: A checkpoint cannot be read.
        ConfigError: It knows the tokens of none of them.
    """
    known = inspect_prior(resolve_checkpoint(prior)).config
    found = {name: inspect_checkpoint(resolve(one)).fingerprint for name, one in configs.items()}
    if known.tokenizer not in found.values():
        models = ", ".join(f"{name} ({fingerprint})" for name, fingerprint in found.items())
        raise ConfigError(
            f"the prior {known.name!r} is made for the tokens of {known.tokenizer}, and none of "
            f"the models is that: {models}"
        )
    return {
        name: one.model_copy(update={"prior": prior if found[name] == known.tokenizer else None})
        for name, one in configs.items()
    }


def load_generator(config: RunnerConfig, tokenizer: ModelInfo) -> GeneratorRunner | None:
    """Load the prior of a model that was loaded, if it has one.

    Args:
        config: The model.
        tokenizer: What was loaded, whose tokens are generated.

    Raises:
        CheckpointError: There is no such checkpoint, it is damaged, or it is no prior.
        ConfigError: The prior is of another tokenizer, or the device or dtype cannot be used.
    """
    return None if config.prior is None else load_prior_of(config, tokenizer.fingerprint)


def load_prior_of(config: RunnerConfig, tokenizer: str | None = None) -> GeneratorRunner:
    """Load the prior of a model, computed as the model is; PyTorch computes it where that fails.

    Args:
        config: The model; its ``prior``, ``device``, ``dtype``, ``runner``, ``engine_cache``,
            ``build_engines`` and ``max_batch`` are used.
        tokenizer: The fingerprint of the model's weights; what its checkpoint says by default.

    Raises:
        CheckpointError: There is no such checkpoint, it is damaged, or it is no prior.
        ConfigError: The prior is of another tokenizer, or the device or dtype cannot be used.
    """
    assert config.prior is not None
    tokenizer = tokenizer or inspect_checkpoint(resolve(config)).fingerprint
    folder = resolve_checkpoint(config.prior)
    if registry.model_type(folder) == PRIOR_TYPE and tokenizer is not None:
        inspect_prior(folder).config.check_tokenizer(tokenizer)  # before its weights are read
    # In a thread whose pools (see load_inference_model) go with it.
    with ThreadPoolExecutor(1, "flowmo-prior") as pool:
        return pool.submit(_prior_runner, config, folder).result()


def _runtime(config: RunnerConfig) -> Runtime:
    kind = next(kind for kind in KINDS if kind == config.runner)
    return Runtime(kind=kind, cache=config.engine_cache, build=config.build_engines)


def _prior_runner(config: RunnerConfig, folder: Path) -> GeneratorRunner:
    device = choose_device(config.device)
    dtype = choose_dtype(config.dtype, device)
    prior = registry.load(folder, expected=Prior, dtype=dtype, device=device)
    buckets = buckets_of(device.type, config.max_batch)
    compute = None
    if config.runner in KINDS:  # beside a runner of the operator's own PyTorch computes it
        try:
            compute = install_prior(prior, folder, _runtime(config), buckets)
        except CompilationError as error:
            logger.warning("PyTorch computes the prior: %s", error)
    return TorchGeneratorRunner(prior, buckets=buckets, compute=compute)


def engine_settings(config: RunnerConfig) -> EngineSettings:
    """How the engines of a model work."""
    return EngineSettings(max_queued_requests=config.max_queued_requests, batching=config.batching)


def load_runner(config: RunnerConfig, *, halves: Sequence[Half] = HALVES) -> Runner:
    """Load a checkpoint for the engines.

    Args:
        config: The model, and how it is computed. Its ``runner`` is a kind of
            :class:`flowmo.deploy.runners.Runtime`; where that is not available, PyTorch computes
            and a warning is logged. Or it is ``module:function`` of the operator's own: a function
            that takes the config and returns a runner.
        halves: What the runner is to compute; the other half is not kept. A runner of the
            operator's own decides that itself.

    Raises:
        CheckpointError: There is no such checkpoint, it is damaged, or it has no tokens.
        ConfigError: The device, the dtype or the runner is unknown.
    """
    if ":" in config.runner:
        return _function(config.runner)(config)
    if config.runner not in KINDS:
        raise ConfigError(
            f"runner must be one of {', '.join(KINDS)}, or module:function, got {config.runner!r}"
        )
    runtime = _runtime(config)
    folder = resolve(config)
    model = load_model(config, halves=halves)
    buckets = buckets_of(model.device.type, config.max_batch)
    # Both compute an example, in threads whose pools (see load_inference_model) go with them.
    if config.threads == 0 and model.device.type == "cpu":
        with ThreadPoolExecutor(1, "flowmo-measure") as pool:
            found = pool.submit(measure_threads, model).result()
        torch.set_num_threads(found)
        logger.info("a step is quickest with %d threads", found)
    is_fallback = False
    try:
        with ThreadPoolExecutor(1, "flowmo-install") as pool:
            pool.submit(install, model, str(folder), runtime, buckets).result()
    except CompilationError as error:
        # Slower is better than nothing; the metrics and the log say what computes.
        logger.warning("%s is not available, PyTorch computes instead: %s", config.runner, error)
        is_fallback = True
    owners = model.memory_by_owner()
    shares = ", ".join(f"{owner} {size / 1e6:.1f} MB" for owner, size in owners.items())
    logger.info("%s on %s holds %s", model.config.name, model.device, shares)
    computed_by = TORCH if is_fallback else config.runner
    return TorchRunner(model, buckets=buckets, runner=computed_by, is_fallback=is_fallback)


def buckets_of(device: str, max_batch: int | None) -> tuple[int, ...]:
    """Batch sizes that are computed on a kind of device, ascending.

    Args:
        device: ``cpu`` or ``cuda``.
        max_batch: The largest; what suits the device by default.
    """
    return powers_of_two(max_batch or default_max_batch(device))


def load_model(config: RunnerConfig, *, halves: Sequence[Half] = HALVES) -> InferenceModel:
    """Load a checkpoint as PyTorch computes it.

    Args:
        config: The model; its ``checkpoint``, ``preset``, ``device``, ``dtype`` and ``threads``
            are used.
        halves: What is kept of the model.

    Raises:
        CheckpointError: There is no such checkpoint, it is damaged, or it has no tokens.
        ConfigError: The device or the dtype cannot be used.
    """
    model = load_inference_model(
        resolve(config),
        device=config.device,
        dtype=config.dtype,
        threads=config.threads,
        halves=halves,
    )
    check_has_tokens(model, config.checkpoint)
    return model


def resolve(config: RunnerConfig) -> Path:
    """The folder of a model's checkpoint, downloaded or converted if need be.

    Args:
        config: The model; its ``checkpoint`` and ``preset`` are used.

    Raises:
        CheckpointError: There is no such checkpoint.
    """
    return resolve_checkpoint(config.checkpoint, preset=config.preset)


def _function(path: str) -> Callable[[RunnerConfig], Runner]:
    module, _, name = path.partition(":")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(
            f"runner {path!r} is not a module:function that can be imported: {error}"
        ) from None
    return cast(Callable[[RunnerConfig], Runner], found)
