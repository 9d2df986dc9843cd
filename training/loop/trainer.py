"""Training of every task: the loop. What is trained is the task's business (training.tasks.task).

    RUN/config.json         the run's config
    RUN/log.jsonl           losses, one line a log interval
    RUN/tensorboard/        the same as events, and sample grids
    RUN/samples/            sample grids as PNG
    RUN/checkpoints/        what resuming needs (training.checkpoint)
    RUN/export/             the averaged weights as a model folder, renewed at each checkpoint
    RUN/best/               those of the best validation, if there is any

Resuming is exact: k steps, a stop and N - k steps give the same numbers as N steps on the same
machine, thread count and versions (except under ``optimizer.anneal_over_budget``).
"""

import json
import math
import time
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from rich.console import Console

from flowmo.model.errors import ConfigError
from flowmo.model.files import replacing_file
from flowmo.training.checkpointing.checkpoint import Checkpoint, checkpoint_folders
from flowmo.training.checkpointing.mirror import Mirror
from flowmo.training.checkpointing.resume import changed_fields, check_alike, find_checkpoint
from flowmo.training.config import AnyTrainConfig
from flowmo.training.loop.device import float32_products
from flowmo.training.loop.interrupt import StopRequest
from flowmo.training.loop.logs import NoLog, RunLog
from flowmo.training.loop.mesh import Mesh, open_mesh
from flowmo.training.loop.meters import Meters
from flowmo.training.loop.samples import save_picture
from flowmo.training.loop.saving import RunSaver
from flowmo.training.loop.start_line import start_line
from flowmo.training.loop.state import TrainState
from flowmo.training.loop.step import OptimizerStep, autocast
from flowmo.training.tasks.registry import find_task
from flowmo.training.tasks.task import Batch

Stopped = Literal["finished", "budget", "early", "interrupted"]


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainResult:
    """How a run, or this part of it, ended.

    Attributes:
        stopped: Why: all steps are done, the time budget is used up, no validation was better for
            as long as ``validation.patience`` says, or a signal came.
        step: The number of steps done, over all parts.
        samples: The number of samples seen, over all parts.
        seconds: The training time, over all parts.
        loss: The last logged loss; None if nothing was logged in this part.
        sample_values: What was measured on the last samples that were shown, such as
            ``sample_psnr`` in dB; empty without any.
        checkpoint: The last checkpoint's folder.
        export: The model folder with the averaged weights.
        best: The model folder of the best validation; None without one.
        best_score: The deciding metric of that validation, as a number that is better when higher.
    """

    stopped: Stopped
    step: int
    samples: int
    seconds: float
    loss: float | None
    sample_values: dict[str, float] = field(default_factory=dict)
    checkpoint: Path
    export: Path
    best: Path | None
    best_score: float | None


def train(
    config: AnyTrainConfig,
    *,
    resume: bool = False,
    call_minutes: float | None = None,
    console: Console | None = None,
) -> TrainResult:
    """Train until the steps or the minutes are used up, or a signal arrives.

    Args:
        config: the whole run.
        resume: continue from the latest checkpoint in ``config.output`` if there is one. The
            model must be the same; other changed fields take effect and are named on the console.
        call_minutes: save and return as if interrupted once this call has taken so long, for
            machines that are lent for minutes at a time.
        console: where messages go; standard error by default.

    Raises:
        ConfigError: the output folder holds a run and ``resume`` is false, or no such device.
        CheckpointError: the checkpoint is damaged or of another model.
        DataError: no usable images.
        DivergedError: gradients stay non-finite.
    """
    config = find_task(config.task).complete(config)
    call_ends = math.inf if call_minutes is None else time.monotonic() + 60 * call_minutes
    with (
        open_mesh(config.device, config.parallel, shard_size=config.shard_size) as mesh,
        float32_products(config.precision),
    ):
        # One process speaks; what the others would say is the same.
        spoken = (console or Console(stderr=True)) if mesh.is_main else Console(quiet=True)
        trainer = Trainer(config, mesh, resume=resume, console=spoken)
        return trainer.run(call_ends=call_ends)


class Trainer:
    """A run from its state to its result; see :func:`train`.

    Attributes:
        task: What is trained.
        state: Everything that changes while training.
    """

    def __init__(
        self, config: AnyTrainConfig, mesh: Mesh, *, resume: bool, console: Console
    ) -> None:
        if config.batch_size % (mesh.size * config.accumulation):
            raise ConfigError(
                f"processes x accumulation must divide batch_size, got {mesh.size} x "
                f"{config.accumulation} and {config.batch_size}"
            )
        self.config, self.mesh, self.console = config, mesh, console
        self.output = Path(config.output)
        self._report = partial(console.print, highlight=False, markup=False, soft_wrap=True)
        self._meters = Meters()
        # The latest step whose samples were shown: none are made twice.
        self._sampled_step = -1
        self._loss: float | None = None
        self._sample_values: dict[str, float] = {}
        mirror = None
        if config.checkpoint_mirror is not None and mesh.is_main:
            mirror = Mirror(config.checkpoint_mirror)
        # Before the slow parts. The main process may have to fetch what the others then find.
        checkpoint = None
        if mesh.is_main:
            checkpoint = find_checkpoint(self.output, resume=resume, mirror=mirror)
        mesh.wait()
        if not mesh.is_main:
            checkpoint = find_checkpoint(self.output, resume=resume)
        self.task = find_task(config.task)(config, mesh.device)
        self.task.mesh = mesh
        self._data = self.task.open_data(self._report)
        name = None if checkpoint is None else checkpoint.path.name
        check_alike(mesh.gather((name, len(self._data))))
        self.state = TrainState.fresh(self.task, mesh)
        self._saver = RunSaver(self.task, self.state, self._meters, mesh, mirror=mirror)
        if checkpoint is not None:
            self._restore(checkpoint)
        self.state.progress.images = len(self._data)
        self._data.load(self._report)
        self.task.start(self.state.model, self._data)
        self._step = OptimizerStep(self.task, self.state, self._meters, mesh)

    def run(self, *, call_ends: float = math.inf) -> TrainResult:
        """Train to the end of the run or of its budget, or to a time of the monotonic clock."""
        config, done = self.config, self.state.progress
        self._report(start_line(self.task, self.state, self.mesh))
        with StopRequest() as stop, self._log_of_run() as log, closing(self._saver):
            self._validate_start(log)
            stopped = self._loop(stop, log, call_ends)
            self._saver.save()
            due = config.sample_interval > 0 and self._sampled_step != done.step
            if stopped != "interrupted" and due:
                self._sample(log)
        self._data.close()
        self.mesh.wait()  # until the main process' files are there for all
        return TrainResult(
            stopped=stopped,
            step=done.step,
            samples=done.samples,
            seconds=done.seconds,
            loss=self._loss,
            sample_values=self._sample_values,
            checkpoint=checkpoint_folders(self.output)[-1],
            export=self.output / "export",
            best=self.output / "best" if done.best_score is not None else None,
            best_score=done.best_score,
        )

    def _log_of_run(self) -> RunLog | NoLog:
        if not self.mesh.is_main:
            return NoLog()
        self.output.mkdir(parents=True, exist_ok=True)
        text = json.dumps(self.config.to_dict(), indent=2)
        with replacing_file(self.output / "config.json") as partial_file:
            partial_file.write_text(text + "\n", encoding="utf-8")
        return RunLog(self.config, console=self.console, progress=self.state.progress)

    def _loop(self, stop: StopRequest, log: RunLog | NoLog, call_ends: float) -> Stopped:
        config, done = self.config, self.state.progress
        batches = self._data.batches(
            start=done.samples,
            steps=max(0, config.steps - done.step),
            part=(self.mesh.rank, self.mesh.size),
            pin=self.mesh.device.type == "cuda",
        )
        self._saver.begin()
        clock = time.monotonic()
        with batches as loader:
            while (stopped := self._stopped(stop, call_ends)) is None:
                started = time.monotonic()
                batch = next(loader)
                loaded = time.monotonic()
                self._note_unreadable(batch, log)
                self._step(batch)
                now = time.monotonic()
                self._meters.time(
                    data=loaded - started, step=now - started, images=config.batch_size
                )
                log.advance(done.step, step_seconds=now - started, spent=done.seconds)
                if done.step % config.log_interval == 0 or done.step == config.steps:
                    self._log(log)
                if config.sample_interval and done.step % config.sample_interval == 0:
                    self._sample(log)
                interval = config.validation.interval
                if interval and done.step % interval == 0:
                    self._validate(log)
                # Everything between two clock readings counts as training time, saving included.
                now = time.monotonic()
                done.seconds, clock = done.seconds + now - clock, now
        return stopped

    def _stopped(self, stop: StopRequest, call_ends: float) -> Stopped | None:
        """Why the run ends here, if it does; writes a checkpoint that is due."""
        config, done = self.config, self.state.progress
        if done.step >= config.steps:
            return "finished"
        self._saver.check()
        # One process' signal and the main one's clock decide for all.
        (interrupted, save_due), done.seconds = self.mesh.agree(
            stop.requested or time.monotonic() >= call_ends,
            self.mesh.is_main and self._saver.is_due(),
            seconds=done.seconds,
        )
        if save_due:
            self._saver.save()
        if interrupted:
            return "interrupted"
        if config.max_minutes is not None and done.seconds >= 60 * config.max_minutes:
            return "budget"
        patience = config.validation.patience
        if patience is not None and done.worse_in_a_row >= patience:
            return "early"
        return None

    def _log(self, log: RunLog | NoLog) -> None:
        done = self.state.progress
        values = self._meters.take(self.mesh.mean)
        self._loss = values["loss"]
        values |= {"epoch": done.samples / done.images, "skipped_steps": done.skipped}
        values["unreadable_images"] = len(done.unreadable)
        status = (
            f"loss {values['loss']:.4f}  {values['images_per_second']:.1f} images/s  "
            f"step {values['step_ms']:.0f} ms (data {values['data_ms']:.0f} ms)"
        )
        log.scalars(done.step, values, status=status)

    @torch.no_grad()
    def _sample(self, log: RunLog | NoLog) -> None:
        model, step = self.state.model, self.state.progress.step
        self._sampled_step = step
        model.eval()
        with self.state.ema.swapped_in(), autocast(self.config.precision, self.mesh.device):
            samples = self.task.sample(model)
        model.train()
        if samples is None:
            return
        self._sample_values = dict(samples.values)
        if not self.mesh.is_main:
            return
        if samples.pixels is not None:
            save_picture(samples.pixels, self.output / "samples" / f"step_{step:09d}.png")
            log.picture(step, samples.name, samples.pixels)
        log.scalars(step, samples.values, status=samples.status)

    def _validate_start(self, log: RunLog | NoLog) -> None:
        """Score the weights that a run begins with, so that none are "best" that are worse."""
        config, done = self.config, self.state.progress
        if config.init is not None and config.validation.interval > 0 and done.step == 0:
            self._validate(log)

    def _validate(self, log: RunLog | NoLog) -> None:
        """Judge the averaged weights, and keep them if none were better."""
        done = self.state.progress
        with self.state.ema.swapped_in(), autocast(self.config.precision, self.mesh.device):
            values = self.task.validate(self.state.model)
        score = self.mesh.of_main(self.task.score(values))
        better = done.best_score is None or score > done.best_score
        if better:
            self._saver.save_best()
            done.best_score, done.best_step, done.worse_in_a_row = score, done.step, 0
            if self.config.keep_best:
                self._saver.save()
        else:
            done.worse_in_a_row += 1
        listed = ", ".join(f"{name} {value:.4g}" for name, value in values.items())
        verdict = "the best so far" if better else f"best was step {done.best_step}"
        log.scalars(
            done.step,
            {f"validation_{name}": value for name, value in values.items()},
            status=f"held out: {listed} ({verdict})",
        )

    def _restore(self, checkpoint: Checkpoint) -> None:
        different = changed_fields(self.config, checkpoint)
        self.state.restore(checkpoint)
        if checkpoint.meters:
            self._meters.load_state(checkpoint.meters, self.mesh.rank, self.mesh.size)
        done = self.state.progress
        self._sampled_step = done.step
        self._saver.resumed()
        self._report(f"resumed from {checkpoint.path}")
        if different:
            self._report(f"changed since then: {', '.join(different)}")
        if done.images != len(self._data):
            self._report(
                f"the data set has {len(self._data)} images now and had {done.images}: "
                f"the order of the data starts anew from here"
            )

    def _note_unreadable(self, batch: Batch, log: RunLog | NoLog) -> None:
        known = self.state.progress.unreadable
        for i in self.mesh.union(batch.unreadable):
            if i not in known:
                known.append(i)
                log.note(f"unreadable image skipped ({len(known)} so far): {self._data.name(i)}")
        self._data.check_unreadable(known)
