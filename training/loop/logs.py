"""What a run says: a JSONL file, TensorBoard, and the terminal."""

import json
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from flowmo.imaging.reading import Pixels
from flowmo.model.errors import ConfigError
from flowmo.model.files import replacing_file

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

LOG_FILE = "log.jsonl"


class RunLog:
    """Scalars and pictures of a run, by step.

    Args:
        run: the run's folder; lines go to ``log.jsonl``, events to ``tensorboard/``.
        console: where people look. A progress bar on a terminal, else one line a log interval.
        step: steps already done; what was logged after it, by a part of the run that no
            checkpoint holds, is dropped.
        steps: steps of the run.
        tensorboard: write event files.

    Raises:
        ConfigError: TensorBoard is asked for but not installed.
    """

    def __init__(
        self, run: Path, *, console: Console, step: int, steps: int, tensorboard: bool
    ) -> None:
        self._writer: SummaryWriter | None = None
        if tensorboard:
            self._writer = _summary_writer(run / "tensorboard", purge_step=step + 1)
        path = run / LOG_FILE
        _truncate(path, step)
        self._file = path.open("a", encoding="utf-8")
        self.console = console
        self._bar = Progress(
            TextColumn("step"),
            MofNCompleteColumn(),
            BarColumn(),
            TextColumn("{task.fields[status]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("", total=steps, completed=step, status="")

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
        self._file.close()
        if self._writer is not None:
            self._writer.close()

    def advance(self, step: int) -> None:
        """Move the progress bar."""
        self._bar.update(self._task, completed=step)

    def scalars(self, step: int, values: Mapping[str, float], *, status: str) -> None:
        """Log named numbers after ``step``; ``status`` is their short form for people."""
        line = {"step": step, **{k: float(f"{v:.6g}") for k, v in values.items()}}
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()
        if self._writer is not None:
            for name, value in values.items():
                self._writer.add_scalar(name, value, step)
        self._bar.update(self._task, completed=step, status=status)
        if not self.console.is_terminal:
            self.console.print(f"step {step}: {status}", highlight=False)

    def picture(self, step: int, name: str, pixels: Pixels) -> None:
        """Log uint8 [h, w, 3] to TensorBoard."""
        if self._writer is not None:
            self._writer.add_image(name, pixels, step, dataformats="HWC")
            self._writer.flush()

    def note(self, text: str) -> None:
        """Say something to people."""
        self.console.print(text, highlight=False, soft_wrap=True)


def _summary_writer(folder: Path, *, purge_step: int) -> "SummaryWriter":
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ConfigError(
            "tensorboard is not installed: pip install 'flowmo-serve[train]', or train with "
            "--set tensorboard=false"
        ) from error
    return SummaryWriter(str(folder), purge_step=purge_step)


def _truncate(path: Path, step: int) -> None:
    """Drop the lines of ``path`` after ``step``, and a last line cut short by a crash."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
        except (ValueError, KeyError, TypeError):
            continue
    with replacing_file(path) as partial:  # a second crash must not cost what was logged
        partial.write_text("".join(kept), encoding="utf-8")


class NoLog:
    """The log of a process that does not speak for its run."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def advance(self, step: int) -> None:
        """Nothing."""

    def scalars(self, step: int, values: Mapping[str, float], *, status: str) -> None:
        """Nothing."""

    def picture(self, step: int, name: str, pixels: Pixels) -> None:
        """Nothing."""

    def note(self, text: str) -> None:
        """Nothing."""
