"""Mean and covariance of features that pass by once: running sums instead of the features.

1.28 million pictures have 10 GB of InceptionV3's features, and 34 MB of sums.
"""

from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

Statistics = dict[str, Any]
"""Mean and covariance as NumPy arrays, ``mu`` [F] and ``sigma`` [F, F] in float64."""


@dataclass(kw_only=True, slots=True)
class Moments:
    """Sums over vectors of F numbers, in float64.

    Attributes:
        count: The number of vectors.
        total: Their sum, [F].
        products: The sum of their outer products, [F, F].
    """

    count: int
    total: Tensor
    products: Tensor

    @classmethod
    def of(cls, features: Tensor) -> Self:
        """The sums over the rows of [N, F]."""
        rows = features.double()
        return cls(count=len(rows), total=rows.sum(0), products=rows.T @ rows)

    def add(self, other: "Moments") -> None:
        """Take in the sums over further vectors.

        Digits depend on the order of additions: give parts in a fixed order where figures are to be
        the same to the last digit.
        """
        self.count += other.count
        self.total += other.total
        self.products += other.products

    def statistics(self) -> Statistics:
        """Mean and unbiased covariance; at least 2 vectors."""
        assert self.count > 1, self.count
        mean = self.total / self.count
        scatter = self.products - self.count * torch.outer(mean, mean)
        return {"mu": mean.numpy(), "sigma": (scatter / (self.count - 1)).numpy()}


def add_to(sums: dict[str, Moments], name: str, new: Moments) -> None:
    """Take sums into those of a name, which may be the first."""
    if name in sums:
        sums[name].add(new)
    else:
        sums[name] = new
