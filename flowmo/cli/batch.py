"""Many files through a backend: a progress bar, and an account of every file at the end."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from flowmo.cli.backends import Outcome
from flowmo.cli.files import Job, LeftOut, Plan, shown
from flowmo.model.files import write_file

# Names of one line; a folder may hold a million files that are no pictures.
MOST_NAMES = 5


@dataclass(slots=True)
class Account:
    """What became of everything that was found.

    Attributes:
        written: Jobs whose results were written.
        existing: Jobs whose results existed already.
        failed: Jobs without a result, and why.
        left_out: What was found in folders and not worked on.
        bytes_read: The size of all files that were read.
        bytes_written: The size of all results.
    """

    written: list[Job] = field(default_factory=list)
    existing: list[Job] = field(default_factory=list)
    failed: list[tuple[Job, Exception]] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)
    bytes_read: int = 0
    bytes_written: int = 0


def run(
    plan: Plan,
    work: Callable[[Sequence[Path]], Iterator[Outcome]],
    *,
    title: str,
    overwrite: bool,
) -> Account:
    """Work through all jobs; one bad file does not stop the others.

    Args:
        plan: What to read and write.
        work: Gives one outcome a file, in any order.
        title: The text before the progress bar.
        overwrite: Whether to replace results that exist; else those jobs are skipped.
    """
    account = Account(left_out=plan.left_out)
    waiting = []
    for job in plan.jobs:
        if job.target.exists() and not overwrite:
            account.existing.append(job)
        else:
            waiting.append(job)
    failed: dict[int, Exception] = {}
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    # Options are refused here, before there is a bar.
    outcomes = work([job.source for job in waiting])
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(title, total=len(waiting))
        for outcome in outcomes:
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
    """Print what became of the files; exit status 1 when some failed.

    Args:
        account: What :func:`run` returned.
        verb: What was done to a file, such as "tokenized".

    Raises:
        typer.Exit: Some files failed, or there was none.
    """
    if len(account.written) == 1:
        (job,) = account.written
        typer.echo(f"{shown(job.source)} → {shown(job.target)}")
    if account.written:
        count, read, written = len(account.written), account.bytes_read, account.bytes_written
        typer.echo(f"{count} {verb}: {read:,} B → {written:,} B")
    if account.existing:
        names = _names([shown(job.source) for job in account.existing])
        typer.echo(
            f"{len(account.existing)} skipped, because their results exist "
            f"(--overwrite replaces them): {names}"
        )
    if account.left_out:
        names = _names([f"{shown(item.path)} ({item.reason})" for item in account.left_out])
        typer.echo(f"{len(account.left_out)} skipped: {names}")
    if account.failed:
        typer.secho(f"{len(account.failed)} failed:", err=True, fg=typer.colors.RED)
        for job, error in account.failed:
            typer.echo(f"  {shown(job.source)}: {error}", err=True)
        raise typer.Exit(1)
    if not account.written and not account.existing:
        typer.echo("no files found", err=True)
        raise typer.Exit(1)


def _names(texts: Sequence[str]) -> str:
    """The first of the texts, and how many more there are."""
    more = len(texts) - MOST_NAMES
    return ", ".join(texts[:MOST_NAMES]) + (f" and {more:,} more" if more > 0 else "")
