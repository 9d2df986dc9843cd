"""Many files through a backend: progress, and an account of every file at the end."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from flowmo.cli.backends import read_file
from flowmo.cli.files import Job, write_whole


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
    work: Callable[[list[bytes]], list[bytes | Exception]],
    *,
    title: str,
    overwrite: bool,
    batch_size: int,
) -> Account:
    """Work through all jobs; one bad file does not stop the others.

    Args:
        jobs: what to read and write.
        work: contents of some files to as many results.
        title: of the progress bar.
        overwrite: replace results that exist; else those jobs are skipped.
        batch_size: files handed to ``work`` at once.
    """
    account = Account()
    waiting = []
    for job in jobs:
        if job.target.exists() and not overwrite:
            account.skipped.append(job)
        else:
            waiting.append(job)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(title, total=len(waiting))
        for start in range(0, len(waiting), batch_size):
            some = waiting[start : start + batch_size]
            _run_some(some, work, account)
            progress.advance(task, len(some))
    return account


def _run_some(
    jobs: Sequence[Job], work: Callable[[list[bytes]], list[bytes | Exception]], account: Account
) -> None:
    contents = [read_file(job.source) for job in jobs]
    readable = [content for content in contents if isinstance(content, bytes)]
    account.bytes_read += sum(map(len, readable))
    results = iter(work(readable))
    for job, content in zip(jobs, contents, strict=True):
        outcome = next(results) if isinstance(content, bytes) else content
        if isinstance(outcome, bytes):
            try:
                write_whole(job.target, outcome)
            except OSError as error:
                outcome = OSError(f"{job.target} cannot be written: {error.strerror}")
            else:
                account.written.append(job)
                account.bytes_written += len(outcome)
        if isinstance(outcome, Exception):
            account.failed.append((job, outcome))


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
