"""A server process to be measured."""

import os
import re
from pathlib import Path
from typing import Literal

from flowmo.cli.server_process import ServerProcess

Discipline = Literal["step", "request", "single"]


class Server(ServerProcess):
    """``flowmo serve`` with its default settings, as a context manager.

    Settings in the caller's environment (``FLOWMO_…``) do not reach it.

    Args:
        checkpoint: The checkpoint that it serves.
        batching: How it forms batches.
        threads: Threads of one operation of PyTorch.
        log: The file that gets its log.
        runner: What computes the model; engines and graphs that are missing are made.
        dtype: The dtype of weights and activations.

    Attributes:
        batching: The value that was given.
    """

    def __init__(
        self,
        checkpoint: Path,
        *,
        batching: Discipline,
        threads: int,
        log: Path,
        runner: str = "torch",
        dtype: str = "auto",
    ) -> None:
        self.batching: Discipline = batching
        super().__init__(
            [
                f"--checkpoint={checkpoint}",
                f"--threads={threads}",
                f"--batching={batching}",
                f"--runner={runner}",
                f"--dtype={dtype}",
                "--build-engines",
                "--cache-bytes=0",  # what is asked for twice is computed twice
            ],
            log=log,
            environment={k: v for k, v in os.environ.items() if not k.startswith("FLOWMO_")},
        )

    @property
    def peak_bytes(self) -> int | None:
        """The most memory it has had resident so far; None where the system does not tell."""
        status = Path(f"/proc/{self.pid}/status")
        if not status.exists():
            return None
        found = re.search(r"VmHWM:\s*(\d+) kB", status.read_text(encoding="utf-8"))
        return None if found is None else int(found[1]) * 1024
