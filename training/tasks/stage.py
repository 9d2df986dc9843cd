"""The stages behind one interface: what the loop asks of each."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from flowmo.model.flowmo import FlowMo
from flowmo.training.config import TrainConfig
from flowmo.training.perceptual.losses import perceptual_network
from flowmo.training.tasks.distillation import Teacher, distill
from flowmo.training.tasks.objective import Draws, Objective, stage_1a
from flowmo.training.tasks.post_train import stage_1b


class Stage:
    """The objective of a run's stage, with the frozen networks that it needs.

    Args:
        config: the run.
        device: where the frozen networks live.
        images: size of the data set.
        compiled: compile the objective with ``torch.compile``.

    Raises:
        ConfigError: a frozen network's weights or the teacher do not fit or cannot be had.
    """

    def __init__(
        self, config: TrainConfig, device: torch.device, *, images: int, compiled: bool
    ) -> None:
        network: nn.Module | None = perceptual_network(config.perceptual, device)
        weights, recompute = config.losses, config.post_train.recompute
        self.teacher: Teacher | None = None
        self._objective: Callable[[FlowMo, Tensor, Draws], Objective]
        if config.stage == "1a":
            self._objective = partial(
                stage_1a,
                weights=weights,
                perceptual=network,
                window=config.perceptual.window,
                below=config.perceptual.below,
            )
        elif config.stage == "1b":
            self._objective = partial(
                stage_1b, weights=weights, perceptual=network, recompute=recompute
            )
        else:
            self.teacher = Teacher(config, device, images=images)
            self._objective = partial(
                distill, weights=weights, perceptual=network, recompute=recompute
            )
        if compiled:
            self._objective = torch.compile(self._objective)

    @property
    def period(self) -> int | None:
        """Positions after which the data repeats itself, for a teacher's cache; None for never."""
        return None if self.teacher is None else self.teacher.period

    def prepare(self, model: FlowMo, images: Tensor, draws: Draws, positions: Tensor) -> Draws:
        """What a micro-batch needs beside its random numbers, without gradients.

        Args:
            model: in training form.
            images: [B, 3, S, S] in [-1, 1].
            draws: of this micro-batch.
            positions: of its samples in the data, int [B].
        """
        if self.teacher is None:
            return draws
        start, target = self.teacher.targets(model, images, positions)
        return draws._replace(start=start, target=target)

    def objective(self, model: FlowMo, images: Tensor, draws: Draws) -> Objective:
        """The loss of a micro-batch."""
        return self._objective(model, images, draws)
