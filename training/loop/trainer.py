"""Training of every stage: the loop (SPEC "Training objective"; training.stage has the losses).

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
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Literal

import torch
from rich.console import Console
from torch import Tensor

from flowmo.imaging.tensors import psnr_of_images, to_model_range
from flowmo.model.errors import ConfigError
from flowmo.model.files import discard, replacing_file, replacing_folder
from flowmo.model.flowmo import FlowMo
from flowmo.training.checkpointing.checkpoint import (
    Checkpoint,
    CheckpointWriter,
    checkpoint_folders,
    checkpoint_step,
)
from flowmo.training.checkpointing.mirror import Mirror
from flowmo.training.checkpointing.resume import changed_fields, check_alike, find_checkpoint
from flowmo.training.checkpointing.retention import superfluous
from flowmo.training.config import TrainConfig
from flowmo.training.data.batches import (
    Batch,
    CropDataset,
    batches,
    corrupt_error,
    decode_all,
    fixed_images,
)
from flowmo.training.data.index import ImageIndex
from flowmo.training.errors import DivergedError
from flowmo.training.loop.device import float32_products
from flowmo.training.loop.interrupt import StopRequest
from flowmo.training.loop.logs import NoLog, RunLog
from flowmo.training.loop.mesh import Mesh, open_mesh
from flowmo.training.loop.meters import Meters
from flowmo.training.loop.samples import grid, save_picture
from flowmo.training.loop.schedule import learning_rate_factor, progress
from flowmo.training.loop.sharding import last_only, whole
from flowmo.training.loop.state import TrainState
from flowmo.training.loop.validation import Validator
from flowmo.training.tasks.objective import draw
from flowmo.training.tasks.stage import Stage

Stopped = Literal["finished", "budget", "early", "interrupted"]

MAX_NONFINITE_IN_A_ROW = 10


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainResult:
    """How a run, or this part of it, ended.

    Attributes:
        stopped: all steps done, time budget used up, no better validation for as long as
            ``validation.patience`` says, or a signal.
        step: steps done over all parts.
        samples: images seen.
        seconds: training time over all parts.
        loss: the last logged loss; None if nothing was logged in this part.
        sample_psnr: mean PSNR in dB of the last sample grid; None without one.
        checkpoint: the last checkpoint's folder.
        export: the model folder with the averaged weights.
        best: the model folder of the best validation; None without one.
        best_score: its deciding metric, as a number that is better when higher.
    """

    stopped: Stopped
    step: int
    samples: int
    seconds: float
    loss: float | None
    sample_psnr: float | None
    checkpoint: Path
    export: Path
    best: Path | None
    best_score: float | None


def train(
    config: TrainConfig,
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
    """A run from its state to its result; see :func:`train`."""

    def __init__(self, config: TrainConfig, mesh: Mesh, *, resume: bool, console: Console) -> None:
        if config.batch_size % (mesh.size * config.accumulation):
            raise ConfigError(
                f"processes x accumulation must divide batch_size, got {mesh.size} x "
                f"{config.accumulation} and {config.batch_size}"
            )
        self.config, self.mesh = config, mesh
        self.console = console
        self.output = Path(config.output)
        self.device = mesh.device
        self._meters = Meters()
        self._nonfinite_in_a_row = 0
        self._last_save = 0.0
        # The latest step with a checkpoint, with a sample grid: neither is made twice.
        self._saved_step = self._sampled_step = -1
        self._loss: float | None = None
        self._sample_psnr: float | None = None
        self._mirror = (
            Mirror(config.checkpoint_mirror)
            if config.checkpoint_mirror is not None and mesh.is_main
            else None
        )
        # Before the slow parts. The main process may have to fetch what the others then find.
        checkpoint = None
        if mesh.is_main:
            checkpoint = find_checkpoint(self.output, resume=resume, mirror=self._mirror)
        mesh.wait()
        if not mesh.is_main:
            checkpoint = find_checkpoint(self.output, resume=resume)
        tell = partial(self.console.print, highlight=False, markup=False, soft_wrap=True)
        find = partial(ImageIndex, cache=config.data.index_cache, tell=tell)
        self._index = find(config.data.paths)
        name = None if checkpoint is None else checkpoint.path.name
        check_alike(mesh.gather((name, len(self._index))))
        self.state = TrainState.fresh(config, mesh)
        self._writer = CheckpointWriter(self.output, mesh)
        if checkpoint is not None:
            self._restore(checkpoint)
        self.state.progress.images = len(self._index)
        self._dataset = self._build_dataset()
        shown = find(config.data.sample_paths) if config.data.sample_paths else self._index
        size = config.model.image_size
        self._fixed = fixed_images(shown, size=size, count=config.sample_count)
        # Shards are gathered between the blocks, so there it is the blocks that are compiled.
        compiled = config.compile and mesh.parallel != "fsdp"
        self._stage = Stage(config, self.device, images=len(self._index), compiled=compiled)
        if self._stage.teacher is not None:
            self._stage.teacher.check_encoder(self.state.model)
        self._validator = (
            Validator(config.validation, size=size, device=self.device)
            if config.validation.interval
            else None
        )

    def run(self, *, call_ends: float = math.inf) -> TrainResult:
        """Train to the end of the run or of its budget, or to a time of the monotonic clock."""
        config, done = self.config, self.state.progress
        with StopRequest() as stop, self._log_of_run() as log, closing(self._writer):
            with self._batches() as loader:
                stopped = self._loop(loader, stop, log, call_ends)
            self._save()
            due = config.sample_interval > 0 and self._sampled_step != done.step
            if stopped != "interrupted" and due:
                self._sample(log)
        self._index.close()
        self.mesh.wait()  # until the main process' files are there for all
        return TrainResult(
            stopped=stopped,
            step=done.step,
            samples=done.samples,
            seconds=done.seconds,
            loss=self._loss,
            sample_psnr=self._sample_psnr,
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
        return RunLog(
            self.output,
            console=self.console,
            step=self.state.progress.step,
            steps=self.config.steps,
            tensorboard=self.config.tensorboard,
        )

    def _batches(self) -> AbstractContextManager[Iterator[Batch]]:
        """This process' part of the batches from here to the end of the run."""
        config, done = self.config, self.state.progress
        loader = batches(
            self._dataset,
            start=done.samples,
            steps=max(0, config.steps - done.step),
            batch_size=config.batch_size,
            workers=config.data.workers,
            pin=self.device.type == "cuda",
            period=self._stage.period,
            part=(self.mesh.rank, self.mesh.size),
        )
        return closing(iter(loader))  # which ends the worker processes, whatever ends the loop

    def _loop(
        self, loader: Iterator[Batch], stop: StopRequest, log: RunLog | NoLog, call_ends: float
    ) -> Stopped:
        config, done = self.config, self.state.progress
        budget = math.inf if config.max_minutes is None else 60 * config.max_minutes
        clock = time.monotonic()
        self._last_save = clock
        self._freeze_encoder_if_due()
        while done.step < config.steps:
            self._writer.check()
            # One process' signal and the main one's clock decide for all.
            (interrupted, save_due), done.seconds = self.mesh.agree(
                stop.requested or time.monotonic() >= call_ends,
                self.mesh.is_main and self._checkpoint_due(time.monotonic()),
                seconds=done.seconds,
            )
            if save_due:
                self._save()
            if interrupted:
                return "interrupted"
            if done.seconds >= budget:
                return "budget"
            patience = config.validation.patience
            if patience is not None and done.worse_in_a_row >= patience:
                return "early"
            started = time.monotonic()
            batch = next(loader)
            loaded = time.monotonic()
            self._note_unreadable(batch, log)
            self._step(batch)
            now = time.monotonic()
            self._meters.time(data=loaded - started, step=now - started, images=config.batch_size)
            log.advance(done.step)
            if done.step % config.log_interval == 0 or done.step == config.steps:
                self._log(log)
            if config.sample_interval and done.step % config.sample_interval == 0:
                self._sample(log)
            if self._validator is not None and done.step % config.validation.interval == 0:
                self._validate(self._validator, log)
            # Everything between two clock readings counts as training time, saving included.
            now = time.monotonic()
            done.seconds, clock = done.seconds + now - clock, now
        return "finished"

    def _step(self, batch: Batch) -> None:
        """One optimizer step; on non-finite gradients everything but the weights moves on."""
        config, state, done = self.config, self.state, self.state.progress
        images = to_model_range(batch.images.to(self.device, non_blocking=True))
        # Every process draws for the whole batch and takes its part, so that their number changes
        # nothing.
        draws = draw(config, state.generators).split(self.mesh.size)[self.mesh.rank]
        share = config.batch_size // self.mesh.size
        first = done.samples + self.mesh.rank * share
        rate = self._set_learning_rate()
        state.optimizer.zero_grad(set_to_none=True)
        positions = torch.arange(first, first + share)
        parts = config.accumulation
        micro = zip(images.chunk(parts), draws.split(parts), positions.chunk(parts), strict=True)
        for number, (x, d, places) in enumerate(micro, start=1):
            with self._autocast():
                prepared = self._stage.prepare(state.model, x, d, places)
                objective = self._stage.objective(state.model, x, prepared)
            total = objective.total
            with last_only(state.model, is_last=number == parts):
                torch.autograd.backward(total / parts)
            self._meters.add("loss", total.detach() / parts)
            for term in objective.terms:
                self._meters.add(term.name, term.value.detach() / parts)
            for name, value in objective.watched:
                self._meters.add(name, value / parts)
        gradients = [p.grad for p in state.model.parameters() if p.grad is not None]
        self.mesh.average_gradients(gradients)
        norm = whole(torch.nn.utils.get_total_norm(gradients))
        done.step += 1
        done.samples += config.batch_size
        self._meters.count(learning_rate=rate)
        if self._is_finite(norm):
            if config.optimizer.grad_clip is not None:
                torch.nn.utils.clip_grads_with_norm_(
                    state.model.parameters(), config.optimizer.grad_clip, norm
                )
            state.optimizer.step()
            if state.weight_norm is not None:
                state.weight_norm.apply()
            state.ema.update(done.step)
            self._meters.add("grad_norm", norm)
        self._freeze_encoder_if_due()

    def _is_finite(self, norm: Tensor) -> bool:
        if math.isfinite(norm.item()):
            self._nonfinite_in_a_row = 0
            return True
        self.state.progress.skipped += 1
        self._nonfinite_in_a_row += 1
        if self._nonfinite_in_a_row >= MAX_NONFINITE_IN_A_ROW:
            raise DivergedError(
                f"gradients were not finite in {self._nonfinite_in_a_row} steps in a row, up to "
                f"step {self.state.progress.step}; lower optimizer.learning_rate or set "
                f"optimizer.grad_clip, then resume from the last checkpoint"
            )
        return False

    def _set_learning_rate(self) -> float:
        config, done, options = self.config, self.state.progress, self.config.optimizer
        factor = learning_rate_factor(
            options,
            step=done.step,
            progress=progress(
                step=done.step,
                steps=config.steps,
                seconds=done.seconds,
                max_minutes=config.max_minutes,
                over_budget=options.anneal_over_budget,
            ),
        )
        for group in self.state.optimizer.param_groups:
            group["lr"] = options.learning_rate * factor * group["multiplier"]
        return options.learning_rate * factor

    def _freeze_encoder_if_due(self) -> None:
        limit = self.config.encoder_freeze_step
        if limit is not None and self.state.progress.step >= limit:
            self.state.model.encoder.requires_grad_(False)
            for parameter in self.state.model.encoder.parameters():
                parameter.grad = None

    # Outputs

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
        images = to_model_range(self._fixed.to(self.device))
        model.eval()
        with self.state.ema.swapped_in(), self._autocast():
            reconstructions = model.reconstruct(images)
        model.train()
        self._sample_psnr = fmean(psnr_of_images(images, reconstructions))
        if not self.mesh.is_main:
            return
        pixels = grid(images, reconstructions)
        save_picture(pixels, self.output / "samples" / f"step_{step:09d}.png")
        log.picture(step, "reconstructions", pixels)
        status = f"reconstructions of the averaged weights: {self._sample_psnr:.2f} dB PSNR"
        log.scalars(step, {"sample_psnr": self._sample_psnr}, status=status)

    def _autocast(self) -> torch.autocast:
        enabled = self.config.precision == "bf16"
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=enabled)

    def _validate(self, validator: Validator, log: RunLog | NoLog) -> None:
        """Judge the averaged weights, and keep them if none were better."""
        done = self.state.progress
        with self.state.ema.swapped_in(), self._autocast():
            values = validator.measure(self.state.model)
        score = self.mesh.of_main(validator.score(values))
        better = done.best_score is None or score > done.best_score
        if better:
            self._writer.submit(partial(self._export_best, self._average()))
            done.best_score, done.best_step, done.worse_in_a_row = score, done.step, 0
            if self.config.keep_best:
                self._save()
        else:
            done.worse_in_a_row += 1
        told = ", ".join(f"{name} {value:.4g}" for name, value in values.items())
        verdict = "the best so far" if better else f"best was step {done.best_step}"
        log.scalars(
            done.step,
            {f"validation_{name}": value for name, value in values.items()},
            status=f"held out: {told} ({verdict})",
        )

    def _average(self) -> dict[str, Tensor]:
        """The averaged weights as they are exported, on the CPU; empty but in the main process."""
        average: dict[str, Tensor] = {}
        for name, tensor in self.state.ema.shadow.items():
            gathered = whole(tensor)  # by all processes, one tensor at a time
            if self.mesh.is_main:
                average[name] = gathered.to("cpu", torch.bfloat16)
        return average

    def _export(self, name: str, weights: dict[str, Tensor]) -> None:
        """Write weights as a model folder of the run; on the thread that writes."""
        if not self.mesh.is_main:
            return
        with torch.device("meta"):
            model = FlowMo(self.config.model)
        model.load_state_dict(weights, assign=True)
        with replacing_folder(self.output / name) as folder:
            model.save_pretrained(folder, dtype=torch.bfloat16)

    def _export_best(self, weights: dict[str, Tensor]) -> None:
        self._export("best", weights)
        if self._mirror is not None:
            self._mirror.put_model(self.output / "best")

    def _checkpoint_due(self, now: float) -> bool:
        config, step = self.config, self.state.progress.step
        interval = config.checkpoint_interval
        by_step = interval > 0 and step > 0 and step % interval == 0
        minutes = config.checkpoint_minutes
        return by_step or (minutes is not None and now - self._last_save >= 60 * minutes)

    def _save(self) -> None:
        step = self.state.progress.step
        self._last_save = time.monotonic()
        if step == self._saved_step:
            return
        done = self.state.progress
        keep_best = self.config.keep_best and done.best_score is not None
        best = done.best_step if keep_best else None
        self._writer.save(
            self.state.tensors(),
            progress=self.state.record(),
            config=self.config.to_dict(),
            meters=self.mesh.gather(self._meters.state()),
            before=partial(self._export, "export", self._average()),
            then=partial(self._tidy, best=best),
        )
        self._saved_step = step

    def _tidy(self, newest: Path, *, best: int | None) -> None:
        """Delete what need not stay, and copy the newest; on the thread that writes."""
        config = self.config
        folders = {checkpoint_step(path): path for path in checkpoint_folders(self.output)}
        old = superfluous(folders, last=config.keep_checkpoints, every=config.keep_every, best=best)
        for step in old:
            discard(folders[step])
        if self._mirror is not None:
            self._mirror.put_checkpoint(newest, keep=folders.keys() - set(old))
            self._mirror.put_model(self.output / "export")

    # Inputs

    def _restore(self, checkpoint: Checkpoint) -> None:
        different = changed_fields(self.config, checkpoint)
        self.state.restore(checkpoint)
        if checkpoint.meters:
            self._meters.load_state(checkpoint.meters, self.mesh.rank, self.mesh.size)
        done = self.state.progress
        self._saved_step = self._sampled_step = done.step
        self.console.print(f"resumed from {checkpoint.path}", highlight=False, soft_wrap=True)
        if different:
            self.console.print(f"changed since then: {', '.join(different)}", soft_wrap=True)
        if done.images != len(self._index):
            self.console.print(
                f"the data set has {len(self._index)} images now and had {done.images}: "
                f"the order of the data starts anew from here",
                soft_wrap=True,
            )

    def _build_dataset(self) -> CropDataset:
        config = self.config
        decoded = None
        if config.data.cache == "memory":
            self.console.print(f"decoding {len(self._index)} images into memory", highlight=False)
            decoded = decode_all(self._index, size=config.model.image_size, config=config.data)
        return CropDataset(
            self._index,
            size=config.model.image_size,
            config=config.data,
            seed=config.seed,
            decoded=decoded,
        )

    def _note_unreadable(self, batch: Batch, log: RunLog | NoLog) -> None:
        known = self.state.progress.unreadable
        for i in self.mesh.union(batch.unreadable):
            if i not in known:
                known.append(i)
                log.note(f"unreadable image skipped ({len(known)} so far): {self._index.name(i)}")
        if len(known) > self.config.data.max_corrupt:
            raise corrupt_error(self._index, known, self.config.data)
