"""What the two engines have in common: work that waits, its refusal, its end."""

import asyncio
import math
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from flowmo.service.engine.calls import Call
from flowmo.service.engine.schedule import BucketTimes
from flowmo.service.engine.shared_calls import following, until_deadline
from flowmo.service.errors import (
    DeadlineExceededError,
    DeadlineUnreachableError,
    EngineStoppedError,
    QueueFullError,
)

T = TypeVar("T")


@dataclass(eq=False, slots=True, kw_only=True)
class Work(Generic[T]):
    """A piece of work that waits for the device or is under way.

    Attributes:
        call: The deadline and priority; another one when more have come to wait for the work.
        future: The work's result; cancelled when nobody waits for it any more.
        submitted: The time at which the work came, in seconds of ``time.monotonic()``.
        begun: The time at which the device first took the work up; None before.
    """

    call: Call
    future: Future[T] = field(default_factory=Future)
    submitted: float = field(default_factory=time.monotonic)
    begun: float | None = None

    def succeed(self, result: T) -> bool:
        """Hand over the result.

        Returns:
            Whether anybody waits for it.
        """
        if not self.future.set_running_or_notify_cancel():
            return False
        self.future.set_result(result)
        return True

    def fail(self, error: Exception) -> None:
        """Hand over an error, if anybody waits."""
        if self.future.set_running_or_notify_cancel():
            self.future.set_exception(error)


def refuse_late(call: Call, seconds: float, what: str) -> None:
    """Refuse work that would not be done in time.

    Args:
        call: The work's deadline.
        seconds: The seconds until the work would be done.
        what: The name of the work, for the message.

    Raises:
        DeadlineUnreachableError: The work would be late; ``retry_after`` says by how much.
    """
    if seconds > call.remaining:
        late = seconds - max(0.0, call.remaining)
        raise DeadlineUnreachableError(
            f"{what} would be done in {seconds:.2f} s, the deadline is in "
            f"{max(0.0, call.remaining):.2f} s",
            retry_after=max(1, math.ceil(late)),
        )


def queue_full(inside: str, seconds: float) -> QueueFullError:
    """Make the error of work that comes to a full queue.

    Args:
        inside: How much work is inside, for the message.
        seconds: The seconds until that work is done.
    """
    return QueueFullError(f"{inside}, {seconds:.2f} s of work", retry_after=max(1, round(seconds)))


def stopped() -> EngineStoppedError:
    """Make the error of work that no device thread will ever do."""
    return EngineStoppedError("the device thread has ended; the server must be restarted")


def without_bucket(times: BucketTimes, bucket: int, *, least: int) -> BucketTimes | None:
    """The buckets that are left when a batch of one was too large for the device's memory.

    Args:
        times: The buckets that are used now.
        bucket: The bucket of the batch that did not fit.
        least: The rows that a batch must be able to have.

    Returns:
        The smaller buckets with their times; None if none of them holds ``least`` rows.
    """
    smaller = {b: times.seconds(b) for b in times.buckets if b < bucket}
    return BucketTimes(smaller) if smaller and max(smaller) >= least else None


async def result_by_deadline(work: Work[T], requeue: Callable[[Call], None]) -> T:
    """Wait for the work's result; cancel the work at its deadline, or when the waiter is cancelled.

    Args:
        work: The work, which is in its engine's queue.
        requeue: Gives the work another call, and its place in the queue by that; called when more
            have come to wait for the work.

    Raises:
        DeadlineExceededError: The work was not done in time.
        Exception: What the work failed with.
    """
    try:
        async with until_deadline(work.call):
            with following(work.call, requeue):
                return await asyncio.wrap_future(work.future)
    except TimeoutError:
        raise DeadlineExceededError(
            "the work was begun in time and not done by the deadline"
        ) from None
