"""Libraries of the extra ``train``, imported where they are used and missed in plain words."""

import importlib
from typing import Any

import torch

from flowmo.training.errors import LibraryError


def library(name: str) -> Any:
    """Import a module by its dotted name.

    Raises:
        LibraryError: it is not installed, or does not load beside this torch.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = (error.name or name).partition(".")[0]
        raise LibraryError(
            f"{missing} is not installed: pip install 'flowmo-serve[train]'"
        ) from error
    except (ImportError, RuntimeError) as error:
        # torchvision built for another torch fails with a RuntimeError about its operators.
        raise LibraryError(
            f"{name} is installed and does not load beside torch {torch.__version__} ({error}): "
            f"install the torchvision that was built for this torch"
        ) from error
