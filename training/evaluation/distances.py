"""Distances between two sets of features, by torch-fidelity's functions."""

from dataclasses import dataclass

from torch import Tensor

from flowmo.training.evaluation.moments import Statistics
from flowmo.training.evaluation.protocol import NEIGHBOURS
from flowmo.training.libraries import library

# From here on only blocks of the distance matrix are kept (10,000 rows of float32).
_MOST_WHOLE = 10_000


def statistics(features: Tensor) -> Statistics:
    """Mean and covariance of [N, F], N at least 2.

    In float64: the mean of many float32 rows loses digits, and torch-fidelity keeps its input's
    precision there.
    """
    found: Statistics = library("torch_fidelity.metric_fid").fid_features_to_statistics(
        features.double()
    )
    return found


def frechet(a: Statistics, b: Statistics) -> float:
    """Frechet distance |m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)) of two Gaussians."""
    module = library("torch_fidelity.metric_fid")
    found = module.fid_statistics_to_metric(a, b, False)
    return float(found[module.KEY_METRIC_FID])


@dataclass(frozen=True, kw_only=True, slots=True)
class PrecisionRecall:
    """Shares, 0 ... 1.

    Attributes:
        precision: The share of the reconstructions that lie in the real pictures' manifold.
        recall: The share of the real pictures that lie in the reconstructions' manifold.
    """

    precision: float
    recall: float


def precision_recall(real: Tensor, reconstructed: Tensor) -> PrecisionRecall | None:
    """Of features [N, F] and [M, F]; None where either has no more than k pictures."""
    if min(len(real), len(reconstructed)) <= NEIGHBOURS:
        return None
    module = library("torch_fidelity.metric_prc")
    # Its first argument is what was generated, its second what is real.
    found = module.prc_features_to_metric(
        reconstructed,
        real,
        prc_neighborhood=NEIGHBOURS,
        prc_batch_size=_MOST_WHOLE,
        save_cpu_ram=max(len(real), len(reconstructed)) > _MOST_WHOLE,
        verbose=False,
    )
    return PrecisionRecall(
        precision=float(found[module.KEY_METRIC_PRECISION]),
        recall=float(found[module.KEY_METRIC_RECALL]),
    )
