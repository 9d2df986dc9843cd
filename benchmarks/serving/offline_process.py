"""The process that the service is compared with (:mod:`benchmarks.serving.offline`)."""

import json
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any, Self


class OfflineProcess:
    """It measures when asked; a context manager.

    Args:
        checkpoint: the model.
        threads: The threads of one operation of torch.
        runner: What computes: a kind of :class:`flowmo.deploy.runners.Runtime`.
        dtype: The dtype of weights and activations; ``auto`` is the service's.
    """

    def __init__(
        self, checkpoint: Path, *, threads: int, runner: str = "torch", dtype: str = "auto"
    ) -> None:
        command = [sys.executable, "-m", "benchmarks.serving.offline", str(checkpoint)]
        options = {"threads": threads, "runner": runner, "dtype": dtype}
        self._command = [*command, *(f"--{name}={value}" for name, value in options.items())]

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(  # noqa: S603
            self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()  # ends it
        self._process.wait()
        self._process.stdout.close()

    def rows_a_second(self, batch: int, seconds: float) -> float:
        """Throughput of the sampler at a batch size, in evaluations of the network."""
        return float(self._ask({"batch": batch, "seconds": seconds}))

    def picture_seconds(self, pictures: int) -> list[float]:
        """Seconds of tokens to PNG bytes with one step, for so many pictures one after another."""
        return [float(value) for value in self._ask({"pictures": pictures})]

    def _ask(self, measurement: dict[str, float]) -> Any:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(measurement) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("the offline process ended; its error is on standard error")
        return json.loads(line)
