"""Stage 1A training: the loop (SPEC "Training objective").

    RUN/config.json         the run's config
    RUN/log.jsonl           losses, one line a log interval
    RUN/tensorboard/        the same as events, and sample grids
    RUN/samples/            sample grids as PNG
    RUN/checkpoints/        what resuming needs (training.checkpoint)
    RUN/export/             the averaged weights as a model folder, renewed at each checkpoint

Resuming is exact: k steps, a stop and N - k steps give the same numbers as N steps on the same
machine, thread count and versions (except under ``optimizer.anneal_over_budget``).
"""

import json
import math
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from rich.console import Console
from torch import Tensor

from training.checkpoint import Checkpoint, checkpoint_folders, save_checkpoint
from training.config import TrainConfig
from training.data import (
    Batch,
    CropDataset,
    batches,
    corrupt_error,
    decode_all,
    fixed_images,
    to_model_range,
)
from training.device import choose_device
from training.errors import DivergedError
from training.files import replacing_folder
from training.index import ImageIndex
from training.interrupt import StopRequest
from training.logs import RunLog
from training.meters import Meters
from training.objective import draw, stage_1a
from training.resume import changed_fields, find_checkpoint
from training.samples import grid, psnr, save_picture
from training.schedule import learning_rate_factor, progress
from training.state import TrainState

Stopped = Literal["finished", "budget", "interrupted"]

MAX_NONFINITE_IN_A_ROW = 10


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainResult:
    """How a run, or this part of it, ended.

    Attributes:
        stopped: all steps done, time budget used up, or a signal.
        step: steps done over all parts.
        samples: images seen.
        seconds: training time over all parts.
        loss: the last logged loss; None if nothing was logged in this part.
        sample_psnr: mean PSNR in dB of the last sample grid; None without one.
        checkpoint: the last checkpoint's folder.
        export: the model folder with the averaged weights.
    """

    stopped: Stopped
    step: int
    samples: int
    seconds: float
    loss: float | None
    sample_psnr: float | None
    checkpoint: Path
    export: Path


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
    trainer = Trainer(config, resume=resume, console=console or Console(stderr=True))
    return trainer.run(call_ends=call_ends)


class Trainer:
    """A run from its state to its result; see :func:`train`."""

    def __init__(self, config: TrainConfig, *, resume: bool, console: Console) -> None:
        self.config = config
        self.console = console
        self.output = Path(config.output)
        self.device = choose_device(config.device)
        self._meters = Meters()
        self._nonfinite_in_a_row = 0
        self._last_save = 0.0
        # The latest step with a checkpoint, with a sample grid: neither is made twice.
        self._saved_step = self._sampled_step = -1
        self._loss: float | None = None
        self._sample_psnr: float | None = None
        checkpoint = find_checkpoint(self.output, resume=resume)  # before the slow parts
        tell = partial(self.console.print, highlight=False, markup=False, soft_wrap=True)
        find = partial(ImageIndex, cache=config.data.index_cache, tell=tell)
        self._index = find(config.data.paths)
        self.state = TrainState.fresh(config, self.device)
        if checkpoint is not None:
            self._restore(checkpoint)
        self.state.progress.images = len(self._index)
        self._dataset = self._build_dataset()
        shown = find(config.data.sample_paths) if config.data.sample_paths else self._index
        size = config.model.image_size
        self._fixed = fixed_images(shown, size=size, count=config.sample_count)
        self._objective = torch.compile(stage_1a) if config.compile else stage_1a

    def run(self, *, call_ends: float = math.inf) -> TrainResult:
        """Train to the end of the run or of its budget, or to a time of the monotonic clock."""
        config, done = self.config, self.state.progress
        self.output.mkdir(parents=True, exist_ok=True)
        text = json.dumps(config.to_dict(), indent=2)
        (self.output / "config.json").write_text(text + "\n", encoding="utf-8")
        log = RunLog(
            self.output,
            console=self.console,
            step=done.step,
            steps=config.steps,
            tensorboard=config.tensorboard,
        )
        with StopRequest() as stop, log:
            stopped = self._loop(stop, log, call_ends)
            self._save()
            due = config.sample_interval > 0 and self._sampled_step != done.step
            if stopped != "interrupted" and due:
                self._sample(log)
        self._index.close()
        return TrainResult(
            stopped=stopped,
            step=done.step,
            samples=done.samples,
            seconds=done.seconds,
            loss=self._loss,
            sample_psnr=self._sample_psnr,
            checkpoint=checkpoint_folders(self.output)[-1],
            export=self.output / "export",
        )

    def _loop(self, stop: StopRequest, log: RunLog, call_ends: float) -> Stopped:
        config, done = self.config, self.state.progress
        loader = iter(
            batches(
                self._dataset,
                start=done.samples,
                steps=max(0, config.steps - done.step),
                batch_size=config.batch_size,
                workers=config.data.workers,
                pin=self.device.type == "cuda",
            )
        )
        budget = math.inf if config.max_minutes is None else 60 * config.max_minutes
        clock = time.monotonic()
        self._last_save = clock
        self._freeze_encoder_if_due()
        while done.step < config.steps:
            if stop.requested or time.monotonic() >= call_ends:
                return "interrupted"
            if done.seconds >= budget:
                return "budget"
            started = time.monotonic()
            batch: Batch = next(loader)
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
            # Everything between two clock readings counts as training time, saving included.
            now = time.monotonic()
            done.seconds, clock = done.seconds + now - clock, now
            if self._checkpoint_due(now):
                self._save()
        return "finished"

    def _step(self, batch: Batch) -> None:
        """One optimizer step; on non-finite gradients everything but the weights moves on."""
        config, state, done = self.config, self.state, self.state.progress
        images = to_model_range(batch.images.to(self.device, non_blocking=True))
        draws = draw(config, state.generators)
        rate = self._set_learning_rate()
        state.optimizer.zero_grad(set_to_none=True)
        parts = config.accumulation
        for x, d in zip(images.chunk(parts), draws.split(parts), strict=True):
            with torch.autocast(
                self.device.type, dtype=torch.bfloat16, enabled=config.precision == "bf16"
            ):
                objective = self._objective(state.model, x, d, config.losses)
            total = objective.total
            torch.autograd.backward(total / parts)
            self._meters.add("loss", total.detach() / parts)
            for term in objective.terms:
                self._meters.add(term.name, term.value.detach() / parts)
            for name, value in objective.watched:
                self._meters.add(name, value / parts)
        gradients = [p.grad for p in state.model.parameters() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
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

    def _log(self, log: RunLog) -> None:
        done = self.state.progress
        values = self._meters.take()
        self._loss = values["loss"]
        values |= {"epoch": done.samples / done.images, "skipped_steps": done.skipped}
        values["unreadable_images"] = len(done.unreadable)
        status = (
            f"loss {values['loss']:.4f}  {values['images_per_second']:.1f} images/s  "
            f"step {values['step_ms']:.0f} ms (data {values['data_ms']:.0f} ms)"
        )
        log.scalars(done.step, values, status=status)

    @torch.no_grad()
    def _sample(self, log: RunLog) -> None:
        model, step = self.state.model, self.state.progress.step
        self._sampled_step = step
        images = to_model_range(self._fixed.to(self.device))
        model.eval()
        with (
            self.state.ema.swapped_in(),
            torch.autocast(
                self.device.type, dtype=torch.bfloat16, enabled=self.config.precision == "bf16"
            ),
        ):
            reconstructions = model.reconstruct(images)
        model.train()
        self._sample_psnr = psnr(images, reconstructions).mean().item()
        pixels = grid(images, reconstructions)
        save_picture(pixels, self.output / "samples" / f"step_{step:09d}.png")
        log.picture(step, "reconstructions", pixels)
        status = f"reconstructions of the averaged weights: {self._sample_psnr:.2f} dB PSNR"
        log.scalars(step, {"sample_psnr": self._sample_psnr}, status=status)

    def _checkpoint_due(self, now: float) -> bool:
        config, step = self.config, self.state.progress.step
        by_step = config.checkpoint_interval > 0 and step % config.checkpoint_interval == 0
        minutes = config.checkpoint_minutes
        return by_step or (minutes is not None and now - self._last_save >= 60 * minutes)

    def _save(self) -> None:
        step = self.state.progress.step
        self._last_save = time.monotonic()
        if step == self._saved_step:
            return
        save_checkpoint(
            self.output,
            tensors=self.state.tensors(),
            progress=self.state.record(),
            config=self.config.to_dict(),
            keep=self.config.keep_checkpoints,
        )
        with self.state.ema.swapped_in(), replacing_folder(self.output / "export") as folder:
            self.state.model.save_pretrained(folder, dtype=torch.bfloat16)
        self._saved_step = step

    # Inputs

    def _restore(self, checkpoint: Checkpoint) -> None:
        different = changed_fields(self.config, checkpoint)
        self.state.restore(checkpoint.tensors, checkpoint.progress)
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

    def _note_unreadable(self, batch: Batch, log: RunLog) -> None:
        known = self.state.progress.unreadable
        for i in batch.unreadable:
            if i not in known:
                known.append(i)
                log.note(f"unreadable image skipped ({len(known)} so far): {self._index.name(i)}")
        if len(known) > self.config.data.max_corrupt:
            raise corrupt_error(self._index, known, self.config.data)
