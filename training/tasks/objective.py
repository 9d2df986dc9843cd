"""What is minimized, in the form that the loop logs: named, weighted terms."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class LossTerm(NamedTuple):
    """One named scalar loss and its weight in the sum."""

    name: str
    value: Tensor
    weight: float


class Objective(NamedTuple):
    """What a micro-batch gives: the terms of the loss, and numbers worth watching."""

    terms: tuple[LossTerm, ...]
    watched: tuple[tuple[str, Tensor], ...] = ()

    @property
    def total(self) -> Tensor:
        """The weighted sum of the terms, a scalar."""
        return weighted_sum(self.terms)


def weighted_sum(terms: Sequence[LossTerm]) -> Tensor:
    """The sum of weight x value over terms, a scalar."""
    return torch.stack([term.weight * term.value for term in terms]).sum()
