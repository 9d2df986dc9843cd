"""Cutting batches of any form."""

from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from flowmo.training.tasks.batch import split


class Inner(NamedTuple):
    ids: Tensor
    nothing: None = None


class Outer(NamedTuple):
    labels: Tensor
    inner: Inner


def test_a_nested_tuple_is_cut_along_its_batch() -> None:
    whole = Outer(torch.arange(6), Inner(torch.arange(12).reshape(6, 2)))
    first, second = split(whole, 2)
    assert isinstance(first, Outer)
    assert isinstance(first.inner, Inner)
    assert first.labels.tolist() == [0, 1, 2]
    assert second.inner.ids.tolist() == [[6, 7], [8, 9], [10, 11]]
    assert second.inner.nothing is None


def test_unequal_pieces_are_a_bug() -> None:
    with pytest.raises(AssertionError, match="4 parts of a batch of 6"):
        split(torch.arange(6), 4)
