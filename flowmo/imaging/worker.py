"""Pictures of strangers read in a process of their own, which can be ended.

No limit on pixels bounds how long a hostile file keeps a parser busy: there are scans, segments,
chunks and strips without end. A thread cannot be stopped; a process can, and one that crashes takes
nobody with it.

    python -m flowmo.imaging.worker

answers requests from its standard input until that ends. Requests and answers are a line of JSON
and then as many bytes as its ``bytes`` says: the file one way, the square's pixels the other.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import IO, Any

import numpy as np
from PIL import Image

from flowmo.imaging.fit import Fit, FitReport, FittedImage, fit_image
from flowmo.imaging.reading import (
    CorruptImageError,
    ImageError,
    ImageTooLargeError,
    read_image,
)

_NICENESS = 5
_ERRORS = {kind.__name__: kind for kind in ImageError.__subclasses__()}


@dataclass(frozen=True, kw_only=True, slots=True)
class SquareRequest:
    """How a file becomes what the model takes.

    Attributes:
        max_pixels: The most pixels accepted.
        size: The side of the model's square, in pixels.
        fit: How a picture that is no square becomes one, or ``native``.
    """

    max_pixels: int
    size: int
    fit: Fit


@dataclass(frozen=True, kw_only=True, slots=True)
class SquareImage:
    """A file as the model takes it, and what it was.

    Attributes:
        width: Pixels of the original, after its orientation was applied.
        height: Pixels of the original, after its orientation was applied.
        format: Pillow's name of the original's format.
        animated: Whether the original has further frames or pages, which were not read.
        fitted: The pixels that the model takes, and how they were made of the original.
    """

    width: int
    height: int
    format: str
    animated: bool
    fitted: FittedImage


def read_square(data: bytes, request: SquareRequest) -> SquareImage:
    """Read a file and fit it to a model, in this process.

    Raises:
        ImageError: The file is no image that can be used.
    """
    side = None if request.fit == "native" else request.size
    image = read_image(data, max_pixels=request.max_pixels, side=side)
    return SquareImage(
        width=image.width,
        height=image.height,
        format=image.format,
        animated=image.animated,
        fitted=fit_image(image, request.size, request.fit),
    )


class WorkerProcess:
    """The process, seen from the one that started it.

    Used by one thread at a time; :meth:`kill` by any.
    """

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "flowmo.imaging.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            # As this process finds modules; Ray's workers have learnt that from their driver.
            env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )

    @property
    def alive(self) -> bool:
        """Whether it takes requests."""
        return self._process.poll() is None

    def read(self, data: bytes, request: SquareRequest) -> SquareImage:
        """Have a file read; returns when it is, or when the process has ended.

        Raises:
            ImageError: The file is no image that can be used.
            CorruptImageError: The process ended over it.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            _write(self._process.stdin, asdict(request), data)
            answer, pixels = _read(self._process.stdout)
        except (EOFError, OSError):
            self.end()
            raise CorruptImageError(
                "the image cannot be decoded: its decoder did not survive it; save it again"
            ) from None
        if "error" in answer:
            # What the worker did not expect is not the picture's fault: it raises here as it is.
            raise _ERRORS.get(answer["error"], RuntimeError)(answer["message"])
        report = answer["report"]
        report["source"], report["target"] = tuple(report["source"]), tuple(report["target"])
        report = FitReport(**report)
        size = (report.height, report.width) if report.fit == "native" else (report.size,) * 2
        square = np.frombuffer(pixels, np.uint8).reshape(*size, 3)
        return SquareImage(**answer["image"], fitted=FittedImage(pixels=square, report=report))

    def kill(self) -> None:
        """End it at once; whoever waits for its answer gets an error."""
        self._process.kill()

    def end(self) -> None:
        """End it, and give back what it held."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with contextlib.suppress(OSError):  # what it did not read any more
                pipe.close()


def _write(pipe: IO[bytes], header: Mapping[str, Any], data: bytes | memoryview = b"") -> None:
    pipe.write(json.dumps({**header, "bytes": len(data)}).encode() + b"\n")
    pipe.write(data)
    pipe.flush()


def _read(pipe: IO[bytes]) -> tuple[dict[str, Any], bytes]:
    line = pipe.readline()
    if not line:
        raise EOFError
    header: dict[str, Any] = json.loads(line)
    size = header.pop("bytes")
    data = pipe.read(size)
    if len(data) < size:
        raise EOFError
    return header, data


def _answer(header: dict[str, Any], data: bytes) -> tuple[dict[str, Any], bytes]:
    try:
        square = read_square(data, SquareRequest(**header))
    except ImageError as error:
        return {"error": type(error).__name__, "message": str(error)}, b""
    except MemoryError:
        message = "the image takes more memory than there is; scale it down"
        return {"error": ImageTooLargeError.__name__, "message": message}, b""
    except Exception as error:  # noqa: BLE001  (the other process logs it)
        return {"error": "", "message": repr(error)}, b""
    image = {name: getattr(square, name) for name in ("width", "height", "format", "animated")}
    pixels = square.fitted.pixels.tobytes()
    return {"image": image, "report": asdict(square.fitted.report)}, pixels


def main() -> None:
    """Answer requests from standard input until it ends."""
    # ^C reaches every process of a terminal; the one that started this one ends it in good order.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Whoever answers health checks goes first.
    os.nice(_NICENESS)
    # Standard error is the server's log, which a stranger's picture has nothing to say in.
    warnings.simplefilter("ignore")
    Image.init()
    while True:
        try:
            header, data = _read(sys.stdin.buffer)
        except EOFError:
            return
        answer, pixels = _answer(header, data)
        del data
        _write(sys.stdout.buffer, answer, pixels)


if __name__ == "__main__":
    main()
