"""Where losses' and metrics' networks get their weights: a library's loader, a file, or nowhere.

A source is written ``library`` (fetched by the library that knows the network, and kept in torch's
cache), a path, ``random`` (of a fixed seed; figures then mean nothing) or ``none``.
"""

import hashlib
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from flowmo.model.errors import ConfigError
from flowmo.training.errors import LibraryError

LIBRARY, RANDOM, NONE = "library", "random", "none"

Weights = Mapping[str, Tensor]


def read_weights(source: str, fetch: Callable[[], Weights], *, name: str, url: str) -> Weights:
    """State dict of a file or of a library's loader.

    Args:
        source: ``library`` or a path to a ``.pth`` or ``.safetensors`` file.
        fetch: the library's loader.
        name: The name of the network, for errors.
        url: where the library would fetch them, for errors.

    Raises:
        LibraryError: the library cannot fetch them.
        ConfigError: the file cannot be read.
    """
    if source == LIBRARY:
        try:
            return fetch()
        except (OSError, RuntimeError) as error:
            raise LibraryError(
                f"the weights of {name} could not be fetched ({error}); download {url} elsewhere "
                f"and give the file"
            ) from error
    path = Path(source).expanduser()
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return cast("Weights", torch.load(path, map_location="cpu", weights_only=True))
    # A pickle with anything but tensors in it is refused with an UnpicklingError.
    except (
        OSError,
        RuntimeError,
        ValueError,
        EOFError,
        SafetensorError,
        pickle.UnpicklingError,
    ) as error:
        reason = str(error).partition("\n")[0]
        raise ConfigError(f"{source} cannot be read as weights of {name}: {reason}") from error


def put_weights(network: nn.Module, state: Weights, *, name: str, source: str) -> None:
    """Load all of a network's weights; further tensors of the file are left out.

    Raises:
        ConfigError: they are of another network.
    """
    # Old files lack the batch counters of batch norm, which evaluation does not use.
    needed = [key for key in network.state_dict() if not key.endswith("num_batches_tracked")]
    if absent := [key for key in needed if key not in state]:
        raise ConfigError(
            f"{source} is not {name}: {len(absent)} of {len(needed)} tensors are missing, such as "
            f"{absent[0]}"
        )
    try:
        network.load_state_dict({key: state[key] for key in needed}, strict=False)
    except RuntimeError as error:
        raise ConfigError(f"{source} is not {name}: {error}") from error


@torch.no_grad()
def randomize(network: nn.Module, *, seed: int = 0) -> None:
    """He-normal matrices, so that signals neither fade nor grow; biases zero. For tests."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in network.parameters():
        if parameter.ndim > 1:
            spread = (2.0 / parameter[0].numel()) ** 0.5
            parameter.normal_(0.0, spread, generator=generator)
    for name, bias in network.named_parameters():
        if name.endswith("bias"):
            bias.zero_()


def digest(network: nn.Module) -> str:
    """What identifies a network's weights: the first 16 hex digits of their SHA-256."""
    found = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        if not name.endswith("num_batches_tracked"):
            found.update(name.encode() + tensor.contiguous().numpy().tobytes())
    return found.hexdigest()[:16]
