"""Few-step students: match the guided samples of a teacher of many steps, from the same noise.

The student starts from a trained decoder, its encoder and so its tokens stay the teacher's, and its
grid is ``model.sampler``. A step of it costs one forward pass, since guidance is in the target.
"""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from flowmo.model.checkpoint import inspect_checkpoint
from flowmo.model.flowmo import FlowMo
from flowmo.model.hub import resolve_checkpoint
from flowmo.model.network import with_mask
from flowmo.model.sampler import time_grid
from flowmo.training.config import AnyTrainConfig, LossWeights
from flowmo.training.config.checks import require
from flowmo.training.loop.generators import Generators
from flowmo.training.tasks.chain import sample_chain
from flowmo.training.tasks.flow import Draws, Perceptual, draw, flow_loss
from flowmo.training.tasks.objective import LossTerm, Objective
from flowmo.training.tasks.task import TrainingData
from flowmo.training.tasks.teacher import Teacher, fixed_latent
from flowmo.training.tasks.tokenizer import (
    TokenizerTask,
    perceptual_options,
    require_init,
    tokenizer_run,
)


def distill(
    model: FlowMo,
    images: Tensor,
    draws: Draws,
    weights: LossWeights,
    perceptual: Perceptual | None = None,
    *,
    recompute: bool = True,
) -> Objective:
    """Distance to the teacher's sample and to the image, and the flow loss as an anchor.

    Args:
        model: the student; its config's sampler is the grid.
        images: [B, 3, S, S] in [-1, 1].
        draws: this micro-batch's random numbers, with ``start`` and ``target``.
        weights: The weights of the terms.
        perceptual: compares the sample with both; None leaves that out.
        recompute: as in :func:`flowmo.training.tasks.chain.sample_chain`.
    """
    assert draws.start is not None and draws.target is not None
    target = draws.target
    latent = fixed_latent(model, images)
    terms = [flow_loss(model, images, latent, draws, weights)[0]]
    grid = torch.tensor(time_grid(model.config.sampler), device=images.device)
    times = grid.expand(len(images), -1)
    sample = sample_chain(model, with_mask(latent), draws.start, times, recompute=recompute)
    distances: list[tuple[str, float, Callable[[], Tensor]]] = [
        ("teacher_l1", weights.teacher_l1, lambda: (sample - target).abs().mean()),
        ("sample_mse", weights.sample_mse, lambda: (sample - images).square().mean()),
    ]
    if perceptual is not None:
        network = perceptual
        distances += [
            ("teacher_perceptual", weights.teacher_perceptual, lambda: network(sample, target)),
            ("sample_perceptual", weights.sample_perceptual, lambda: network(sample, images)),
        ]
    terms += [LossTerm(name, value(), weight) for name, weight, value in distances if weight > 0]
    return Objective(terms=tuple(terms), watched=())


class DistillTask(TokenizerTask):
    """A student of few steps learns its teacher's samples."""

    name = "distill"
    title = "distillation to few steps"

    teacher: Teacher

    @classmethod
    def reads(cls, config: AnyTrainConfig) -> frozenset[str]:
        """The teacher, and distances of the student's sample to its and to the image."""
        run = tokenizer_run(config)
        options = {"losses.teacher_l1", "losses.sample_mse", "post_train.recompute"}
        options |= {f"distill.{name}" for name in ("teacher", "teacher_steps", "teacher_guidance")}
        options |= {"distill.cache"} | ({"distill.cache_epochs"} if run.distill.cache else set())
        weights = ("losses.teacher_perceptual", "losses.sample_perceptual")
        return super().reads(config) | options | perceptual_options(run, *weights)

    @classmethod
    def check(cls, config: AnyTrainConfig) -> None:
        """It trains on from a checkpoint, with its encoder held and without guidance."""
        require_init(config)
        run = tokenizer_run(config)
        require(
            run.encoder_freeze_step == 0,
            f"a student reads its teacher's tokens, so its encoder must stay as it is: set "
            f"encoder_freeze_step=0, got {run.encoder_freeze_step!r}",
        )
        require(
            run.model.sampler.guidance == 1.0,
            f"a distilled student has its teacher's guidance in its weights: set "
            f"model.sampler.guidance=1, got {run.model.sampler.guidance:g}",
        )

    @classmethod
    def start_from(cls, config: AnyTrainConfig, checkpoint: str) -> AnyTrainConfig:
        """As for all tokenizers, but the sampler stays: it is the grid that the student learns."""
        run = tokenizer_run(config)
        # Before the run is checked: the checkpoint's own sampler may be a guided one.
        model = inspect_checkpoint(resolve_checkpoint(checkpoint)).config
        return replace(run, init=checkpoint, model=replace(model, sampler=run.model.sampler))

    @classmethod
    def lineage(cls, config: AnyTrainConfig) -> str:
        """Also the teacher."""
        teacher = config.distill.teacher or config.init
        return f"{super().lineage(config)} Its teacher was `{teacher}`."

    def start(self, model: FlowMo, data: TrainingData) -> None:
        """Also load the teacher, whose tokens must be the student's.

        Where its samples are kept, the data repeats itself.
        """
        super().start(model, data)
        self.teacher = Teacher(self.config, self.device, images=len(data))
        self.teacher.check_encoder(model)
        self.images.period = self.teacher.period

    def draw(self, generators: Generators) -> Draws:
        """What the flow loss needs; the chain's first state goes by the position of a sample."""
        return draw(self.config, generators)

    def prepare(self, model: FlowMo, inputs: Tensor, draws: Draws, positions: Tensor) -> Draws:
        """The noise of the samples' positions, and the teacher's samples from it."""
        start, target = self.teacher.targets(model, inputs, positions)
        return draws._replace(start=start, target=target)

    def objective(self, model: FlowMo, inputs: Tensor, draws: Draws) -> Objective:
        """See :func:`distill`."""
        return distill(
            model,
            inputs,
            draws,
            self.config.losses,
            self.perceptual,
            recompute=self.config.post_train.recompute,
        )
