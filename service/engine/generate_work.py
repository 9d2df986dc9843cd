"""A generation inside the generator's engine."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from flowmo.model.prior.sampler import rows_of_guidance
from flowmo.model.prior.schedule import reveal_counts
from flowmo.service.engine.generate_calls import Generated, GenerateOptions, GenerateWatch
from flowmo.service.engine.schedule import Load
from flowmo.service.engine.step_ticks import StepTick
from flowmo.service.engine.step_work import StepWork

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(eq=False, slots=True, kw_only=True)
class GenerateWork(StepWork[Generated]):
    """A generation that waits or is under way.

    Attributes:
        options: The options that it was taken with.
        watch: How progress is reported, if it is.
        loop: The event loop that progress is reported in.
        plan: How many ids each step finds.
        ids: What is known, int64 [N]; on the device from its first tick on.
        generator: Where its random numbers come from.
        uniform: The numbers of the next step, [2, N], once they are drawn: a step that is made
            again has the same.
        is_placed: Whether ``ids`` are on the device.
    """

    options: GenerateOptions
    watch: GenerateWatch | None
    loop: asyncio.AbstractEventLoop | None
    plan: tuple[int, ...]
    ids: "Tensor | None"
    generator: torch.Generator
    uniform: "Tensor | None" = None
    is_placed: bool = False

    def numbers(self) -> "Tensor":
        """The random numbers of the step that is made next, float32 [2, N]."""
        if self.uniform is None:
            assert self.ids is not None
            self.uniform = torch.rand(2, len(self.ids), generator=self.generator)
        return self.uniform

    def advance(self, ids: "Tensor") -> None:
        """Take over what a step has found."""
        self.ids, self.uniform = ids, None
        self.step += 1


@dataclass(eq=False, slots=True, kw_only=True)
class GenerateTick(StepTick[GenerateWork]):
    """A tick of generations.

    Attributes:
        steps: The number of steps that each generation has made with it.
        previews: The wanted ids so far [N], by the index of their generation.
        ids: The ids [N] of those that are done.
    """

    steps: Sequence[int]
    previews: dict[int, NDArray[np.int64]]
    ids: Sequence[NDArray[np.int64]]


def plan_of(options: GenerateOptions, unknown: int) -> tuple[int, ...]:
    """How many ids each step finds.

    Args:
        options: What is asked for.
        unknown: How many ids are to be found.
    """
    return reveal_counts(unknown, options.sampler.steps, options.sampler.schedule)


def rows_of(options: GenerateOptions, null_class: int) -> int:
    """The rows of each step: two where it is guided, one without a class."""
    if options.class_number == null_class:
        return 1
    return rows_of_guidance(options.sampler.guidance)


def load_of(options: GenerateOptions, unknown: int, null_class: int) -> Load:
    """What a generation of so many ids asks of the device."""
    steps = len(plan_of(options, unknown))
    return Load(steps=steps, rows=steps * rows_of(options, null_class))
