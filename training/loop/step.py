"""One optimizer step: draws, micro-batches, gradients, averages."""

import math

import torch
from torch import Tensor

from flowmo.training.errors import DivergedError
from flowmo.training.loop.mesh import Mesh
from flowmo.training.loop.meters import Meters
from flowmo.training.loop.schedule import learning_rate_factor, progress
from flowmo.training.loop.sharding import last_only, whole
from flowmo.training.loop.state import TrainState
from flowmo.training.tasks.batch import split
from flowmo.training.tasks.task import AnyTask, Batch

MAX_NONFINITE_IN_A_ROW = 10


class OptimizerStep:
    """Takes a run from one batch to the next.

    Args:
        task: What is trained.
        state: The state that it moves on.
        meters: Where its losses are added up.
        mesh: The run's processes.
    """

    def __init__(self, task: AnyTask, state: TrainState, meters: Meters, mesh: Mesh) -> None:
        self._task, self._state, self._meters, self._mesh = task, state, meters, mesh
        self._config = task.config
        # Shards are gathered between the blocks, so there it is the blocks that are compiled.
        compiled = self._config.compile and mesh.parallel != "fsdp"
        self._objective = torch.compile(task.objective) if compiled else task.objective
        self._nonfinite_in_a_row = 0

    def __call__(self, batch: Batch) -> None:
        """Learn from a batch; on non-finite gradients everything but the weights moves on.

        Args:
            batch: This process' part of the step's samples.

        Raises:
            DivergedError: Gradients were non-finite several steps in a row.
        """
        config, state, done = self._config, self._state, self._state.progress
        self._task.freeze(state.model, done.step)
        rate = self._set_learning_rate()
        state.optimizer.zero_grad(set_to_none=True)
        self._add_gradients(batch)
        gradients = [p.grad for p in state.model.parameters() if p.grad is not None]
        self._mesh.average_gradients(gradients)
        norm = whole(torch.nn.utils.get_total_norm(gradients))
        done.step += 1
        done.samples += config.batch_size
        self._meters.count(learning_rate=rate)
        if not self._is_finite(norm):
            return
        if config.optimizer.grad_clip is not None:
            torch.nn.utils.clip_grads_with_norm_(
                state.model.parameters(), config.optimizer.grad_clip, norm
            )
        state.optimizer.step()
        if state.weight_norm is not None:
            state.weight_norm.apply()
        state.ema.update(done.step)
        self._meters.add("grad_norm", norm)

    def _add_gradients(self, batch: Batch) -> None:
        config, task, mesh, model = self._config, self._task, self._mesh, self._state.model
        parts = config.accumulation
        inputs = task.inputs(batch)
        # Every process draws for the whole batch and takes its part, so that their number changes
        # nothing.
        draws = split(task.draw(self._state.generators), mesh.size)[mesh.rank]
        share = config.batch_size // mesh.size
        first = self._state.progress.samples + mesh.rank * share
        positions = torch.arange(first, first + share)
        micro = zip(split(inputs, parts), split(draws, parts), split(positions, parts), strict=True)
        for number, (x, d, where) in enumerate(micro, start=1):
            with autocast(config.precision, mesh.device):
                prepared = task.prepare(model, x, d, where)
                objective = self._objective(model, x, prepared)
            total = objective.total
            with last_only(model, is_last=number == parts):
                torch.autograd.backward(total / parts)
            self._meters.add("loss", total.detach() / parts)
            for term in objective.terms:
                self._meters.add(term.name, term.value.detach() / parts)
            for name, value in objective.watched:
                self._meters.add(name, value / parts)

    def _is_finite(self, norm: Tensor) -> bool:
        if math.isfinite(norm.item()):
            self._nonfinite_in_a_row = 0
            return True
        self._state.progress.skipped += 1
        self._nonfinite_in_a_row += 1
        if self._nonfinite_in_a_row >= MAX_NONFINITE_IN_A_ROW:
            raise DivergedError(
                f"gradients were not finite in {self._nonfinite_in_a_row} steps in a row, up to "
                f"step {self._state.progress.step}; lower optimizer.learning_rate or set "
                f"optimizer.grad_clip, then resume from the last checkpoint"
            )
        return False

    def _set_learning_rate(self) -> float:
        config, done, options = self._config, self._state.progress, self._config.optimizer
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
        for group in self._state.optimizer.param_groups:
            group["lr"] = options.learning_rate * factor * group["multiplier"]
        return options.learning_rate * factor


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """The autocast of a run's precision: bfloat16 for ``bf16``, else none."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16")
