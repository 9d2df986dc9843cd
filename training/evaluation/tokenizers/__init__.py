"""Adapters of other tokenizers by name: ``-a NAME:ARGUMENTS`` (docs/evaluation.md).

Each is a function of its arguments and a device that returns an
:class:`flowmo.training.evaluation.adapters.Adapter`. Their code and weights are other people's: it
is imported from the current folder or the environment, where the user has put it.
"""

from collections.abc import Callable

from flowmo.training.evaluation.tokenizers.common import TensorAdapter
from flowmo.training.evaluation.tokenizers.diffusers_models import from_diffusers
from flowmo.training.evaluation.tokenizers.repositories import dito, llamagen, open_magvit2, titok
from flowmo.training.evaluation.tokenizers.torchscript import from_torchscript

TOKENIZERS: dict[str, Callable[[str, str], TensorAdapter]] = {
    "diffusers": from_diffusers,
    "dito": dito,
    "llamagen": llamagen,
    "open-magvit2": open_magvit2,
    "titok": titok,
    "torchscript": from_torchscript,
}
"""By name: arguments as the command line has them, and a device."""

__all__ = ["TOKENIZERS", "TensorAdapter"]
