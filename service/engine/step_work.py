"""Work that is done in steps: each is a row or two of a tick, beside others' at any step."""

from dataclasses import dataclass, field
from typing import TypeVar

from flowmo.service.engine.work import Work

T = TypeVar("T")


@dataclass(eq=False, slots=True, kw_only=True)
class StepWork(Work[T]):
    """A piece of such work that waits or is under way: a :class:`Job`.

    Attributes:
        rows: The rows of each step, 1 or 2.
        step: The number of steps that are done.
        seconds: The time of each step that is done.
    """

    rows: tuple[int, ...]
    step: int = 0
    seconds: list[float] = field(default_factory=list)

    @property
    def steps_left(self) -> int:
        """The steps that are still to be made, one after the other."""
        return len(self.rows) - self.step

    @property
    def ready_rows(self) -> int:
        """See :class:`Job`."""
        return self.rows[self.step]

    @property
    def ready_parts(self) -> int:
        """See :class:`Job`."""
        return 1

    @property
    def rows_left(self) -> int:
        """See :class:`Job`."""
        return sum(self.rows[self.step :])

    @property
    def most_rows(self) -> int:
        """The most rows that a step has."""
        return max(self.rows)
