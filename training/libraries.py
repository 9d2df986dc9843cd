"""Libraries of the ``train`` extra, and what to say where one cannot be imported."""

from importlib import import_module
from types import ModuleType

import torch

from model.errors import ConfigError


def library(name: str) -> ModuleType:
    """Import a module of the ``train`` extra.

    Args:
        name: dotted name, such as ``torchvision.models``.

    Raises:
        ConfigError: it is not installed, or it is of another torch: torchvision fails with a
            RuntimeError then, and torchmetrics with it.
    """
    try:
        return import_module(name)
    except (ImportError, RuntimeError) as error:
        raise ConfigError(
            f"{name} cannot be imported beside torch {torch.__version__} ({error}): "
            f"pip install 'flowmo-serve[train]', with a torchvision of that torch"
        ) from error
