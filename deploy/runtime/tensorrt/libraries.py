"""TensorRT or TensorRT-RTX: one interface, two libraries, either of which may be missing."""

import importlib
import logging
from dataclasses import dataclass
from typing import Any, Literal

from flowmo.model.errors import CompilationError

logger = logging.getLogger(__name__)

LibraryName = Literal["auto", "tensorrt", "tensorrt_rtx"]
# The full library first: it times kernels on the GPU at hand.
_ORDER = ("tensorrt", "tensorrt_rtx")
_INSTALL = {
    "tensorrt": "pip install 'flowmo-serve[tensorrt]'",
    "tensorrt_rtx": "pip install 'flowmo-serve[tensorrt-rtx]'",
}


@dataclass(frozen=True, slots=True)
class Library:
    """One of the two libraries.

    Attributes:
        name: ``tensorrt`` or ``tensorrt_rtx``.
        version: The version that the library states.
        api: The library's Python module.
    """

    name: str
    version: str
    api: Any

    @property
    def builds_without_gpu(self) -> bool:
        """Whether engines can be built for GPUs that are not here."""
        return self.name == "tensorrt_rtx"

    @property
    def times_kernels(self) -> bool:
        """Whether it chooses kernels by running them, and can keep the times."""
        return self.name == "tensorrt"


def load_library(name: LibraryName = "auto") -> Library:
    """Load a library; ``auto`` takes the full TensorRT where it is installed.

    Raises:
        CompilationError: The library is not installed, or its own libraries are missing.
    """
    problems = []
    for candidate in _ORDER if name == "auto" else (name,):
        try:
            api = importlib.import_module(candidate)
            version = str(api.__version__)
        except (ImportError, OSError, AttributeError) as error:
            hint = _INSTALL.get(candidate, "it must be tensorrt or tensorrt_rtx")
            problems.append(f"{candidate}: {error} ({hint})")
            continue
        return Library(candidate, version, api)
    raise CompilationError("TensorRT cannot be used here: " + "; ".join(problems))


def make_logger(library: Library) -> Any:
    """Make a logger of the library that collects its messages; see :class:`Messages`."""
    return _logger_class(library.api)()


def _logger_class(api: Any) -> Any:
    class Messages(api.ILogger):  # type: ignore[misc]
        """Keeps errors for messages of our own, and what engines are made of."""

        def __init__(self) -> None:
            api.ILogger.__init__(self)
            self.errors: list[str] = []
            self.layers: list[str] = []

        def log(self, severity: Any, text: str) -> None:
            if severity <= api.ILogger.ERROR:
                self.errors.append(text)
            elif severity == api.ILogger.WARNING:
                logger.info("%s", text)
            elif "LayerType: " in text:
                self.layers.append(text)

        def first_error(self) -> str:
            """The first one that says something of the network or the machine."""
            found = [text.strip() for text in self.errors if not text.startswith(_NOISE)]
            return found[0] if found else "it said nothing"

    return Messages


# The parser reports each error in several pieces.
_NOISE = ("ModelImporter.cpp:14", "Node name:")
