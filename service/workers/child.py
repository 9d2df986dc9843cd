"""What the supervisor and its processes say to each other.

A process gets one line of JSON on its standard input, which then stays open for as long as the
supervisor lives, and writes lines of JSON to its standard output: what it is ready for.
"""

import asyncio
import json
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from flowmo.service.settings import Settings

ENGINE = "engine"


def gateway_name(number: int) -> str:
    """The name of a gateway, from 1 for the number 0."""
    return f"gateway-{number + 1}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Orders:
    """What a process is to do.

    Attributes:
        name: Its name among the server's processes.
        folder: The server's folder of sockets and of what is counted, for this user alone.
        number: The number of a gateway, from 0.
        listener: The descriptor of the socket that a gateway listens on; -1 of the engine.
        settings: The server's settings, as JSON-safe values.
    """

    name: str
    folder: str
    number: int
    listener: int
    settings: dict[str, Any]

    def to_line(self) -> bytes:
        """One line of JSON."""
        return json.dumps(asdict(self)).encode() + b"\n"

    @classmethod
    def read(cls) -> Self:
        """Wait for the orders of this process.

        Raises:
            SystemExit: The supervisor is gone.
        """
        # Until there is a handler that reads keys or models again, which have just been read.
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        line = sys.stdin.buffer.readline()
        if not line:
            raise SystemExit(1)
        return cls(**json.loads(line))

    def socket_of(self, name: str) -> Path:
        """The local socket of one of the server's processes."""
        return Path(self.folder, f"{name}.sock")

    @property
    def metrics(self) -> Path:
        """The folder of what is counted."""
        return Path(self.folder, "metrics")

    @property
    def usage(self) -> Path:
        """The file of what API keys have used."""
        return Path(self.folder, "usage")

    def parsed_settings(self) -> Settings:
        """The server's settings; the environment, which they were made of, adds nothing."""
        return Settings(**self.settings)


def tell(**values: Any) -> None:
    """Tell the supervisor something."""
    sys.stdout.write(json.dumps(values) + "\n")
    sys.stdout.flush()


def when_supervisor_ends(do: Callable[[], None]) -> None:
    """Have something done in the running event loop when the supervisor is gone."""
    loop = asyncio.get_running_loop()

    def look() -> None:
        if not os.read(sys.stdin.fileno(), 4096):
            loop.remove_reader(sys.stdin.fileno())
            do()

    loop.add_reader(sys.stdin.fileno(), look)
