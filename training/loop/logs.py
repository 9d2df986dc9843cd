"""What a run says: a JSONL file, TensorBoard, and the terminal."""

import json
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from rich.console import Console

from flowmo.imaging.reading import Pixels
from flowmo.model.errors import ConfigError
from flowmo.model.files import replacing_file
from flowmo.training.config import AnyTrainConfig
from flowmo.training.loop.bar import RunBar
from flowmo.training.loop.state import RunProgress

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

LOG_FILE = "log.jsonl"


class RunLog:
    """Scalars and pictures of a run, by step.

    Args:
        config: The run; lines go to ``log.jsonl`` of its folder, events to ``tensorboard/``.
        console: Where people look. A progress bar on a terminal, else one line a log interval.
        progress: How far the run is; what was logged after that, by a part of the run that no
            checkpoint holds, is dropped.

    Raises:
        ConfigError: TensorBoard is asked for but not installed.
    """

    def __init__(self, config: AnyTrainConfig, *, console: Console, progress: RunProgress) -> None:
        run = Path(config.output)
        self._writer: SummaryWriter | None = None
        if config.tensorboard:
            self._writer = _summary_writer(run / "tensorboard", purge_step=progress.step + 1)
        path = run / LOG_FILE
        _truncate(path, progress.step)
        self._file = path.open("a", encoding="utf-8")
        self.console = console
        self._bar = RunBar(config, console, step=progress.step, spent=progress.seconds)
        self._is_first_step, self._log_interval = True, config.log_interval

    def __enter__(self) -> Self:
        self._bar.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._bar.__exit__(kind, error, traceback)
        self._file.close()
        if self._writer is not None:
            self._writer.close()

    def advance(self, step: int, *, step_seconds: float, spent: float) -> None:
        """Move the progress bar; arguments as :meth:`flowmo.training.loop.bar.RunBar.advance`.

        A file, which has no bar, gets a line after the first step: a log interval may be hours.
        """
        self._bar.advance(step, step_seconds=step_seconds, spent=spent)
        is_logged = step % self._log_interval == 0
        if self._is_first_step and not (self.console.is_terminal or is_logged):
            self.note(f"step {step}: {self._bar.pace}, by this first step")
        self._is_first_step = False

    def scalars(self, step: int, values: Mapping[str, float], *, status: str) -> None:
        """Log named numbers after ``step``; ``status`` is their short form for people."""
        line = {"step": step, **{k: float(f"{v:.6g}") for k, v in values.items()}}
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()
        if self._writer is not None:
            for name, value in values.items():
                self._writer.add_scalar(name, value, step)
        self._bar.show(status)
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

    def advance(self, step: int, *, step_seconds: float, spent: float) -> None:
        """Nothing."""

    def scalars(self, step: int, values: Mapping[str, float], *, status: str) -> None:
        """Nothing."""

    def picture(self, step: int, name: str, pixels: Pixels) -> None:
        """Nothing."""

    def note(self, text: str) -> None:
        """Nothing."""
