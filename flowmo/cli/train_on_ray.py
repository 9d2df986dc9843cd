"""``flowmo train --ray-workers N``: the same training as processes of Ray Train.

Ray starts the processes on the cluster, gives each its rank as torchrun would, and starts all of
them anew when one fails; they then go on from the run's own checkpoints. So the run folder must be
one that every machine sees. Ray keeps what it needs in ``RUN/ray``.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from flowmo.cores import usable_cores
from flowmo.model.errors import ConfigError, FlowMoError

if TYPE_CHECKING:
    from flowmo.training import TrainConfig


class RayTrainingError(FlowMoError, RuntimeError):
    """The processes failed once more than they were to be started anew."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RayOptions:
    """Where and how a run's processes run.

    Args:
        workers: processes.
        address: The address of a cluster; None begins one of this machine's own.
        gpus_per_worker: GPUs of each process; what is left of one is for replicas that serve. None
            is 1 where the cluster has GPUs.
        retries: how often all processes are started anew after one has failed.

    Raises:
        ConfigError: a value is out of its range.
    """

    workers: int
    address: str | None = None
    gpus_per_worker: float | None = None
    retries: int = 3

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise ConfigError(f"--ray-workers must be at least 1, got {self.workers}")
        gpus = self.gpus_per_worker
        if gpus is not None and gpus != 0 and not 0.5 < gpus <= 1:
            raise ConfigError(
                f"--gpus-per-worker must be 0, or above 0.5 and at most 1, got {gpus:g}: a process "
                f"computes on one GPU, and nccl refuses two processes on the same one. More GPUs "
                f"are more --ray-workers"
            )
        if self.retries < 0:
            raise ConfigError(f"--ray-retries must be at least 0, got {self.retries}")


def train_on_ray(config: "TrainConfig", options: RayOptions, *, resume: bool) -> dict[str, Any]:
    """Train on a Ray cluster.

    Args:
        config: The config of the run; relative paths are relative to this process' folder.
        options: where and how.
        resume: go on from the run's checkpoints; processes that are started anew always do.

    Returns:
        How the run ended, as the fields of :class:`flowmo.training.TrainResult` in JSON form.

    Raises:
        ConfigError: there is a run already, or what :func:`flowmo.training.train` raises.
        RayTrainingError: the processes kept failing.
    """
    try:
        import ray
        from ray.train import FailureConfig, RunConfig, ScalingConfig
        from ray.train.torch import TorchConfig, TorchTrainer
        from ray.train.v2.api.exceptions import TrainingFailedError
    except ImportError as error:
        raise typer.BadParameter(
            f"--ray-workers needs Ray Train ({error}); install it with: "
            f"pip install 'flowmo-serve[train-ray]'"
        ) from None
    from flowmo.training.checkpointing.mirror import Mirror
    from flowmo.training.checkpointing.resume import find_checkpoint

    # Processes that are started anew must resume, so a folder with another run is refused here.
    output = Path(config.output).absolute()
    mirror = Mirror(config.checkpoint_mirror) if config.checkpoint_mirror else None
    find_checkpoint(output, resume=resume, mirror=mirror)
    own: dict[str, Any] = (
        {"address": options.address}
        if options.address
        else {"num_cpus": max(options.workers, usable_cores()), "include_dashboard": False}
    )
    ray.init(**own)
    try:
        gpus = options.gpus_per_worker
        if gpus is None:
            resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
            gpus = 1.0 if resources.get("GPU") and config.device != "cpu" else 0.0
        # The annotations of ray.train are those of its first version, the classes of its second.
        trainer: Any = TorchTrainer(
            work,  # type: ignore[arg-type]
            train_loop_config={"config": config.to_dict(), "folder": str(Path.cwd())},
            # Flags and checkpoints travel by gloo, gradients by nccl.
            torch_config=TorchConfig(backend="cpu:gloo,cuda:nccl" if gpus else "gloo"),
            scaling_config=ScalingConfig(
                num_workers=options.workers,
                use_gpu=gpus > 0,
                resources_per_worker={"CPU": 1, "GPU": gpus} if gpus else {"CPU": 1},
            ),
            run_config=RunConfig(
                name=output.name,
                storage_path=str(output / "ray"),
                failure_config=FailureConfig(max_failures=options.retries),
            ),
        )
        try:
            outcome = trainer.fit()
        except TrainingFailedError as error:
            raise _reason(error) from error
        returned: dict[str, Any] = outcome.return_value
        return returned
    finally:
        ray.shutdown()


def work(loop: dict[str, Any]) -> dict[str, Any]:
    """One process of the run, called by Ray Train.

    Args:
        loop: ``config`` in JSON form, and the ``folder`` that its relative paths start from.
    """
    import ray.train
    import ray.train.torch

    from flowmo.training import TrainConfig, train

    os.chdir(loop["folder"])
    device = ray.train.torch.get_device()
    if device.type == "cuda":  # which of the GPUs that this process sees Ray has given to it
        os.environ["LOCAL_RANK"] = str(device.index or 0)
    result = train(TrainConfig.from_dict(loop["config"]), resume=True)
    ended: dict[str, Any] = {
        "stopped": result.stopped,
        "step": result.step,
        "seconds": result.seconds,
        "loss": result.loss,
        "best_score": result.best_score,
        "best": None if result.best is None else str(result.best),
        "export": str(result.export),
    }
    ray.train.report({name: ended[name] for name in ("step", "seconds", "loss", "best_score")})
    return ended


def _reason(error: Exception) -> Exception:
    """What a user did wrong, if a process said so; else that the processes failed."""
    failures: dict[int, BaseException] = getattr(error, "worker_failures", {})
    for failure in failures.values():
        cause: BaseException | None = failure
        while cause is not None:
            if isinstance(cause, FlowMoError):
                return cause
            cause = getattr(cause, "_base_exc", None) or cause.__cause__
    return RayTrainingError(
        f"training on Ray failed, --resume goes on from its checkpoint: {error}"
    )
