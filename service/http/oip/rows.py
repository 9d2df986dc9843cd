"""The rows of an inference request: each with an outcome of its own."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from flowmo.service.errors import RowError, TensorError
from flowmo.service.http.job import Job
from flowmo.service.http.oip.tensors import Tensor
from flowmo.service.http.problems import INTERNAL, answer_for
from flowmo.service.http.service import Service

R = TypeVar("R")
S = TypeVar("S")


def errors_of(service: Service, found: Sequence[object]) -> Tensor:
    """For each row why there is nothing; empty where there is something."""
    texts = []
    for one in found:
        if isinstance(one, Exception):
            answer = answer_for(one)
            service.metrics.errors.inc(answer.code)
            detail = "an unexpected error occurred" if answer is INTERNAL else str(one)
            texts.append(f"{answer.code}: {detail} {answer.hint}".encode())
        else:
            texts.append(b"")
    return Tensor("error", (len(texts),), texts)


async def each(
    service: Service,
    job: Job,
    rows: Sequence[S],
    work: Callable[[S], Awaitable[R]],
    *,
    partial: bool,
) -> list[R | Exception]:
    """Do ``work`` for the rows, as many at once as the engines have room for.

    Args:
        service: The parts that all routes share.
        job: What does the work.
        rows: What is worked on.
        work: Makes the result of one row.
        partial: Whether the error of a row is its result, and not the request's end.

    Raises:
        TensorError: There are too many rows.
        RowError: A row failed.
    """
    limit = service.settings.max_items
    if len(rows) > limit:
        raise TensorError(f"{len(rows)} rows came, at most {limit} are taken at once")

    async def fed(row: S) -> R | Exception:
        try:
            return await service.feed.run(job.call, lambda: work(row))
        except Exception as error:  # noqa: BLE001  (this row's outcome)
            return error

    results = await asyncio.gather(*map(fed, rows))
    if not partial:
        for index, result in enumerate(results):
            if isinstance(result, Exception):
                raise RowError(index, result)
    return results
