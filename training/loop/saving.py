"""What a run leaves behind: checkpoints to resume from, and its averaged weights as models."""

import time
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from flowmo.model.files import discard, replacing_folder
from flowmo.training.checkpointing.checkpoint import (
    CheckpointWriter,
    checkpoint_folders,
    checkpoint_step,
)
from flowmo.training.checkpointing.mirror import Mirror
from flowmo.training.checkpointing.retention import superfluous
from flowmo.training.loop.mesh import Mesh
from flowmo.training.loop.meters import Meters
from flowmo.training.loop.sharding import whole
from flowmo.training.loop.state import TrainState
from flowmo.training.tasks.task import AnyTask

_EXPORTED = {"bf16": torch.bfloat16, "float32": torch.float32}


class RunSaver:
    """Writes checkpoints and models of a run; files are written by a thread of its own.

    Args:
        task: What is trained, which knows the form of its models.
        state: What is saved.
        meters: Sums since the last log line, which are part of a checkpoint.
        mesh: The run's processes; all of them call the methods together.
        mirror: A copy of everything elsewhere; None for none.
    """

    def __init__(
        self, task: AnyTask, state: TrainState, meters: Meters, mesh: Mesh, *, mirror: Mirror | None
    ) -> None:
        self._task, self._state, self._meters, self._mesh = task, state, meters, mesh
        self._config, self._mirror = task.config, mirror
        self.output = Path(self._config.output)
        self._writer = CheckpointWriter(self.output, mesh)
        self._last_save = time.monotonic()
        # The latest step with a checkpoint: none is written twice.
        self._saved_step = -1

    def resumed(self) -> None:
        """The state is that of the latest checkpoint."""
        self._saved_step = self._state.progress.step

    def begin(self) -> None:
        """Training begins: minutes until the next checkpoint count from here."""
        self._last_save = time.monotonic()

    def check(self) -> None:
        """Raise what has failed so far, without waiting.

        Raises:
            CheckpointError: The last save could not be written.
        """
        self._writer.check()

    def close(self) -> None:
        """Wait for what is being written, and end the thread.

        Raises:
            CheckpointError: The last checkpoint could not be written.
        """
        self._writer.close()

    def is_due(self) -> bool:
        """Whether a checkpoint is due by steps or by minutes."""
        config, step = self._config, self._state.progress.step
        interval = config.checkpoint_interval
        by_step = interval > 0 and step > 0 and step % interval == 0
        minutes = config.checkpoint_minutes
        waited = time.monotonic() - self._last_save
        return by_step or (minutes is not None and waited >= 60 * minutes)

    def save(self) -> None:
        """Begin to write a checkpoint and the exported model, unless this step has them.

        Raises:
            CheckpointError: The save before could not be written.
        """
        done = self._state.progress
        self._last_save = time.monotonic()
        if done.step == self._saved_step:
            return
        keep_best = self._config.keep_best and done.best_score is not None
        best = done.best_step if keep_best else None
        self._writer.save(
            self._state.tensors(),
            progress=self._state.record(),
            config=self._config.to_dict(),
            meters=self._mesh.gather(self._meters.state()),
            before=partial(self._export, "export", self._average()),
            then=partial(self._tidy, best=best),
        )
        self._saved_step = done.step

    def save_best(self) -> None:
        """Begin to write the averaged weights as the run's best model.

        Raises:
            CheckpointError: The save before could not be written.
        """
        self._writer.submit(partial(self._export_best, self._average()))

    def _average(self) -> dict[str, Tensor]:
        """The averaged weights as they are exported, on the CPU; empty but in the main process."""
        average: dict[str, Tensor] = {}
        dtype = _EXPORTED[self._config.export_precision]
        for name, tensor in self._state.ema.shadow.items():
            gathered = whole(tensor)  # by all processes, one tensor at a time
            if self._mesh.is_main:
                average[name] = gathered.to("cpu", dtype, copy=True)
        return average

    def _export(self, name: str, weights: dict[str, Tensor]) -> None:
        """Write weights as a model folder of the run; on the thread that writes."""
        if not self._mesh.is_main:
            return
        with replacing_folder(self.output / name) as folder:
            self._task.export(weights, folder)

    def _export_best(self, weights: dict[str, Tensor]) -> None:
        self._export("best", weights)
        if self._mirror is not None:
            self._mirror.put_model(self.output / "best")

    def _tidy(self, newest: Path, *, best: int | None) -> None:
        """Delete what need not stay, and copy the newest; on the thread that writes."""
        config = self._config
        folders = {checkpoint_step(path): path for path in checkpoint_folders(self.output)}
        old = superfluous(folders, last=config.keep_checkpoints, every=config.keep_every, best=best)
        for step in old:
            discard(folders[step])
        if self._mirror is not None:
            self._mirror.put_checkpoint(newest, keep=folders.keys() - set(old))
            self._mirror.put_model(self.output / "export")
