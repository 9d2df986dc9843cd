"""Many files through a backend: progress, and an account of every file at the end."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from flowmo.cli.backends import Outcome
from flowmo.cli.files import Job
from flowmo.model.files import write_file


@dataclass(slots=True)
class Account:
    """What became of each job."""

    written: list[Job] = field(default_factory=list)
    skipped: list[Job] = field(default_factory=list)
    failed: list[tuple[Job, Exception]] = field(default_factory=list)
    bytes_read: int = 0
    bytes_written: int = 0


def run(
    jobs: Sequence[Job],
    work: Callable[[Sequence[Path]], Iterator[Outcome]],
    *,
    title: str,
    overwrite: bool,
) -> Account:
    """Work through all jobs; one bad file does not stop the others.

    Args:
        jobs: what to read and write.
        work: files to as many outcomes, in any order.
        title: of the progress bar.
        overwrite: replace results that exist; else those jobs are skipped.
    """
    account = Account()
    waiting = []
    for job in jobs:
        if job.target.exists() and not overwrite:
            account.skipped.append(job)
        else:
            waiting.append(job)
    failed: dict[int, Exception] = {}
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(title, total=len(waiting))
        for outcome in work([job.source for job in waiting]):
            error = _finish(waiting[outcome.index], outcome, account)
            if error is not None:
                failed[outcome.index] = error
            progress.advance(task)
    account.failed = [(waiting[index], failed[index]) for index in sorted(failed)]
    return account


def _finish(job: Job, outcome: Outcome, account: Account) -> Exception | None:
    account.bytes_read += outcome.bytes_read
    result = outcome.result
    if isinstance(result, Exception):
        return result
    try:
        # Whoever has the inputs can make it again.
        write_file(job.target, result, flush_to_disk=False)
    except OSError as error:
        return OSError(f"{job.target} cannot be written: {error.strerror}")
    account.written.append(job)
    account.bytes_written += len(result)
    return None


def report(account: Account, *, verb: str) -> None:
    """Say what became of the files; exit status 1 when some failed.

    Raises:
        typer.Exit: some files failed.
    """
    console = Console(highlight=False, soft_wrap=True)
    if len(account.written) == 1:
        (job,) = account.written
        console.print(f"{escape(str(job.source))} → {escape(str(job.target))}")
    if account.written:
        console.print(
            f"{len(account.written)} {verb}: {account.bytes_read:,} B → {account.bytes_written:,} B"
        )
    if account.skipped:
        console.print(
            f"{len(account.skipped)} skipped: their results exist (--overwrite replaces them)"
        )
    if account.failed:
        errors = Console(stderr=True, highlight=False, soft_wrap=True)
        errors.print(f"[red]{len(account.failed)} failed:[/red]")
        for job, error in account.failed:
            errors.print(f"  {escape(str(job.source))}: {escape(str(error))}")
        raise typer.Exit(1)
    if not account.written and not account.skipped:
        console.print("no files found")
        raise typer.Exit(1)
