"""Tasks by name. Whoever adds one registers its class; the loop is not touched."""

from typing import TypeVar, cast

from flowmo.model.errors import ConfigError
from flowmo.training.config import AnyTrainConfig
from flowmo.training.tasks.distillation import DistillTask
from flowmo.training.tasks.post_train import PostTrainTask
from flowmo.training.tasks.pretrain import PretrainTask
from flowmo.training.tasks.prior import PriorTask
from flowmo.training.tasks.task import AnyTask

R = TypeVar("R", bound=AnyTrainConfig)

_TASKS: dict[str, type[AnyTask]] = {
    task.name: task for task in (PretrainTask, PostTrainTask, DistillTask, PriorTask)
}


def register_task(task: type[AnyTask]) -> type[AnyTask]:
    """Make a task known under its name; also as a decorator.

    Raises:
        ConfigError: Another task has that name.
    """
    if _TASKS.get(task.name, task) is not task:
        raise ConfigError(f"there is a task {task.name!r} already; give this one another name")
    _TASKS[task.name] = task
    return task


def task_names() -> list[str]:
    """The names of all tasks, sorted."""
    return sorted(_TASKS)


def find_task(name: object) -> type[AnyTask]:
    """The class of a task.

    Raises:
        ConfigError: No such task; the message lists those there are.
    """
    if not isinstance(name, str) or name not in _TASKS:
        raise ConfigError(f"task must be one of {task_names()}, got {name!r}")
    return _TASKS[name]


def start_from(config: R, checkpoint: str) -> R:
    """A run that begins with a checkpoint's weights, and so has its sizes.

    Args:
        config: The run, a recipe's perhaps.
        checkpoint: A folder or hub repository.

    Returns:
        The run with ``init`` and ``model`` changed; what else of the checkpoint it takes over is
        the task's to say (:meth:`flowmo.training.tasks.task.Task.start_from`).

    Raises:
        CheckpointError: There is no such checkpoint.
    """
    return cast("R", find_task(config.task).start_from(config, checkpoint))
