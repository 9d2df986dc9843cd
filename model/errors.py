"""Every error that FlowMo's network, tokens, containers and checkpoints raise on purpose.

    FlowMoError
    ├── ConfigError                     also ValueError: a size or setting out of its range
    ├── PictureTooLargeError            also ValueError: more pixels or tiles than are accepted
    ├── TokenError                      also ValueError: ids or packed payload of a wrong form
    ├── ContainerError                  also ValueError: bytes that cannot be read as a .flowmo file
    │   ├── NotAContainerError          something else altogether
    │   ├── ContainerVersionError       of a format version that this release does not know
    │   ├── ContainerTruncatedError     the end is missing
    │   ├── ContainerCorruptedError     bytes changed, or came after the end
    │   └── ContainerMismatchError      intact, but made by another model
    ├── CheckpointError                 also ValueError: files, names or shapes of a model are wrong
    └── CompilationError                an exported graph or engine cannot be made or used here

Each message says what came, what was expected and how to mend it. Catch ``FlowMoError`` to tell
them from a bug.
"""


class FlowMoError(Exception):
    """Root of the errors of this project."""


class ConfigError(FlowMoError, ValueError):
    """A config or argument has a value that cannot work."""


class PictureTooLargeError(FlowMoError, ValueError):
    """A picture has more pixels or tiles than are accepted."""


class TokenError(FlowMoError, ValueError):
    """Token ids or a packed payload have a wrong shape, type, range or length."""


class ContainerError(FlowMoError, ValueError):
    """Bytes that cannot be read as a ``.flowmo`` container."""


class NotAContainerError(ContainerError):
    """The bytes do not begin as a container does."""


class ContainerVersionError(ContainerError):
    """A container of a format version that this release does not know."""


class ContainerTruncatedError(ContainerError):
    """A container whose end is missing."""


class ContainerCorruptedError(ContainerError):
    """A container whose bytes were changed, or that has bytes after its end."""


class ContainerMismatchError(ContainerError):
    """An intact container, made by another model than the one at hand."""


class CheckpointError(FlowMoError, ValueError):
    """A checkpoint's files, tensor names or shapes are not what its config asks for."""


class CompilationError(FlowMoError):
    """An exported graph or a compiled engine cannot be made, or not be used on this machine."""
