"""Which checkpoint a run continues from, and what has changed since."""

from collections.abc import Sequence
from pathlib import Path

from flowmo.model.errors import CheckpointError, ConfigError
from flowmo.training.checkpointing.checkpoint import Checkpoint, checkpoint_folders, load_checkpoint
from flowmo.training.checkpointing.mirror import Mirror
from flowmo.training.config import AnyTrainConfig
from flowmo.training.tasks.registry import find_task


def find_checkpoint(run: Path, *, resume: bool, mirror: Mirror | None = None) -> Checkpoint | None:
    """The latest checkpoint of a run's folder or of its mirror, or None where there is none.

    Raises:
        ConfigError: there is one, and ``resume`` is false.
        CheckpointError: it is damaged.
    """
    folders = checkpoint_folders(run)
    if not folders and mirror is not None:
        if resume:
            mirror.fetch_latest(run)
            folders = checkpoint_folders(run)
        elif steps := mirror.steps():
            raise ConfigError(
                f"{mirror.url} holds a run with checkpoints up to step {steps[-1]}; resume it "
                f"(--resume), or choose another checkpoint_mirror"
            )
    if not folders:
        return None
    if not resume:
        raise ConfigError(
            f"{run} holds a run with checkpoints up to {folders[-1].name}; resume it "
            f"(--resume), or choose another output folder (--out)"
        )
    return load_checkpoint(folders[-1])


def check_alike(seen: Sequence[tuple[str | None, int]]) -> None:
    """Whether all processes of a run begin from the same.

    Args:
        seen: The name of its checkpoint, and the number of its images, of each process.

    Raises:
        ConfigError: they see different folders.
    """
    if len(set(seen)) == 1:
        return
    checkpoints, images = ([pair[i] for pair in seen] for i in (0, 1))
    if len(set(checkpoints)) > 1:
        raise ConfigError(
            f"the processes find different checkpoints, {checkpoints}: the run folder must be one "
            f"that all of them see"
        )
    raise ConfigError(
        f"the processes find different numbers of images, {images}: give all of them the same data"
    )


def changed_fields(config: AnyTrainConfig, checkpoint: Checkpoint) -> list[str]:
    """Dotted names of the fields in which a config differs from its checkpoint's.

    Raises:
        CheckpointError: The task, or what the model's weights depend on, is among them.
    """
    task = checkpoint.config.get("task")
    if task != config.task:
        raise CheckpointError(
            f"{checkpoint.path} is of the task {task!r} and cannot be resumed as {config.task!r}; "
            f"choose another output folder (--out), and begin with its export (--init)"
        )
    different = sorted(_leaves_that_differ(config.to_dict(), checkpoint.config))
    unweighted = find_task(config.task).unweighted
    sizes = [
        name for name in different if name.startswith("model.") and not _is_in(unweighted, name)
    ]
    if sizes:
        raise CheckpointError(
            f"{checkpoint.path} is of another model; different are {', '.join(sizes)}"
        )
    return different


def _is_in(names: Sequence[str], name: str) -> bool:
    """Whether a dotted name is listed, by itself or by a prefix that ends in a dot."""
    return any(name.startswith(one) if one.endswith(".") else name == one for one in names)


def _leaves_that_differ(a: object, b: object, path: str = "") -> list[str]:
    if isinstance(a, dict) and isinstance(b, dict):
        return [
            leaf
            for key in a.keys() | b.keys()
            for leaf in _leaves_that_differ(a.get(key), b.get(key), f"{path}.{key}".lstrip("."))
        ]
    return [] if a == b else [path]
