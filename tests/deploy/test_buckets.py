"""Batch sizes: any number of rows through a function that takes certain numbers only."""

import pytest
import torch
from torch import Tensor

from flowmo.deploy.buckets import powers_of_two, profile_of
from flowmo.deploy.padding import in_buckets
from flowmo.model.errors import ConfigError


@pytest.mark.parametrize(
    ("most", "expected"), [(1, (1,)), (2, (1, 2)), (6, (1, 2, 4, 6)), (16, (1, 2, 4, 8, 16))]
)
def test_powers_of_two_and_the_largest(most: int, expected: tuple[int, ...]) -> None:
    assert powers_of_two(most) == expected


def test_an_unknown_profile_names_the_known() -> None:
    with pytest.raises(ConfigError, match=r"latency.*serving.*throughput.*'fast'"):
        profile_of("fast")


@pytest.mark.parametrize("rows", [1, 2, 3, 4, 5, 8, 11])
def test_rows_are_padded_and_split_and_come_back_in_order(rows: int) -> None:
    buckets = (1, 2, 4)
    memory = {size: torch.empty(size, 2) for size in buckets}

    def compute(a: Tensor, b: Tensor) -> Tensor:
        output = memory[len(a)]  # the same memory each time, as CUDA graphs give it
        output.copy_(a + b[:, None])
        return output

    a, b = torch.arange(rows * 2.0).reshape(rows, 2), torch.arange(rows) * 100.0
    assert torch.equal(in_buckets(compute, buckets, [a, b]), a + b[:, None])
