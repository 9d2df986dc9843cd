"""The progress bar of a run on a terminal: how far it is, how fast, and how long it takes yet."""

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from flowmo.training.config import AnyTrainConfig

# The share of the newest step in the average step time: about the last twenty steps count.
_NEWEST = 0.05


class RunBar:
    """A bar from the first step on; nothing where nobody looks.

    A run ends by its steps or by its minutes, whichever is first, and so does the bar.

    Args:
        config: The run.
        console: Where the bar is drawn, if it is a terminal.
        step: The number of steps already done.
        spent: The seconds of training already done.

    Attributes:
        share: How much of the run is done, in [0, 1].
        pace: How fast it is, and how long it takes yet, in words.
    """

    def __init__(
        self, config: AnyTrainConfig, console: Console, *, step: int, spent: float
    ) -> None:
        self._steps, self._batch_size = config.steps, config.batch_size
        self._budget = None if config.max_minutes is None else 60 * config.max_minutes
        self._step_seconds: float | None = None
        self.pace = "waiting for the first step"
        self._bar = Progress(
            TextColumn("step {task.fields[step]}"),
            BarColumn(),
            TextColumn("{task.fields[pace]}"),
            TextColumn("{task.fields[status]}"),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task(
            "",
            total=1.0,
            step=self._count(step),
            pace=self.pace,
            status="",
        )
        self.share = self._share(step, spent)
        self._bar.update(self._task, completed=self.share)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def advance(self, step: int, *, step_seconds: float, spent: float) -> None:
        """Show a finished step.

        Args:
            step: The number of steps done.
            step_seconds: What the step took.
            spent: The seconds of training so far, over all resumed parts.
        """
        before = step_seconds if self._step_seconds is None else self._step_seconds
        self._step_seconds = before + _NEWEST * (step_seconds - before)
        rate = self._batch_size / max(self._step_seconds, 1e-9)
        left = duration(self._seconds_left(step, spent))
        self.share = self._share(step, spent)
        self.pace = f"{rate:.1f} images/s, {left} left"
        self._bar.update(self._task, completed=self.share, step=self._count(step), pace=self.pace)

    def show(self, status: str) -> None:
        """Show a sentence behind the bar."""
        self._bar.update(self._task, status=status)

    def _count(self, step: int) -> str:
        return f"{step:,} of {self._steps:,}"

    def _share(self, step: int, spent: float) -> float:
        by_time = 0.0 if self._budget is None else spent / self._budget
        return min(1.0, max(step / self._steps, by_time))

    def _seconds_left(self, step: int, spent: float) -> float:
        assert self._step_seconds is not None
        by_steps = (self._steps - step) * self._step_seconds
        return max(0.0, by_steps if self._budget is None else min(by_steps, self._budget - spent))


def duration(seconds: float) -> str:
    """A duration as people say it: ``45 s``, ``12 min``, ``5 h 15 min``, ``3 d 4 h``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    days, hours = divmod(hours, 24)
    return f"{days} d {hours} h" if hours else f"{days} d"
