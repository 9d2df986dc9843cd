"""Distances of feature sets: closed forms, and torch-fidelity on the same features."""

import numpy as np
import pytest
import torch
from torch import Tensor
from torch_fidelity import metric_fid, metric_prc

from flowmo.training.evaluation.distances import frechet, precision_recall, statistics


def gaussian(
    mean: list[float], covariance: np.ndarray, *, count: int = 50, seed: int = 0
) -> Tensor:
    """Features [count, F] whose sample mean and covariance are exactly these."""
    rows = np.random.default_rng(seed).normal(size=(count, len(mean)))
    rows -= rows.mean(0)
    whitened = np.linalg.solve(np.linalg.cholesky(np.cov(rows, rowvar=False)), rows.T)
    return torch.from_numpy((np.linalg.cholesky(covariance) @ whitened).T + mean)


def distance(a: Tensor, b: Tensor) -> float:
    return frechet(statistics(a), statistics(b))


def test_fid_of_diagonal_gaussians_is_the_closed_form() -> None:
    first, second = np.array([1.0, 4.0, 0.25]), np.array([9.0, 1.0, 0.25])
    a = gaussian([0.0, 1.0, 2.0], np.diag(first))
    b = gaussian([3.0, 1.0, 0.0], np.diag(second), count=70, seed=1)
    # |m1 - m2|^2 + sum (s1 - s2)^2 with the standard deviations s
    expected = 9 + 4 + ((np.sqrt(first) - np.sqrt(second)) ** 2).sum()
    assert distance(a, b) == pytest.approx(expected, rel=1e-9)
    assert distance(b, a) == pytest.approx(expected, rel=1e-9)
    assert distance(a, a) == pytest.approx(0.0, abs=1e-9)


def test_fid_of_correlated_gaussians_is_the_closed_form() -> None:
    # Covariances that do not commute; in 2 x 2, tr (AB)^(1/2) = sqrt(tr AB + 2 sqrt(det AB)).
    one, two = np.array([[2.0, 0.9], [0.9, 1.0]]), np.array([[1.0, -0.5], [-0.5, 3.0]])
    product = one @ two
    root = np.sqrt(np.trace(product) + 2 * np.sqrt(np.linalg.det(product)))
    a, b = gaussian([0.0, 0.0], one), gaussian([0.0, 0.0], two, seed=2)
    assert distance(a, b) == pytest.approx(np.trace(one) + np.trace(two) - 2 * root, rel=1e-9)


def test_fid_is_that_of_torch_fidelity() -> None:
    a, b = (torch.randn(40, 12, generator=torch.Generator().manual_seed(s)) for s in (0, 1))
    theirs = metric_fid.fid_statistics_to_metric(
        metric_fid.fid_features_to_statistics(a),
        metric_fid.fid_features_to_statistics(1.5 * b + 0.3),
        False,
    )[metric_fid.KEY_METRIC_FID]
    assert distance(a, 1.5 * b + 0.3) == pytest.approx(theirs, rel=1e-5)


def test_equal_sets_have_all_and_distant_ones_nothing_in_common() -> None:
    features = torch.randn(30, 8, generator=torch.Generator().manual_seed(0))
    for other, expected in ((features, 1.0), (features + 100.0, 0.0)):
        found = precision_recall(features, other)
        assert found is not None
        assert (found.precision, found.recall) == (expected, expected)


def test_precision_and_recall_of_points_on_a_line() -> None:
    # Real: 0 1 2 3 and 100 101 102 103, so that the third neighbour is 3 away at the ends of a
    # cluster and 2 away within. Reconstructed: five points around the first cluster, one nowhere.
    real = torch.tensor([0.0, 1, 2, 3, 100, 101, 102, 103])[:, None]
    reconstructed = torch.tensor([0.5, 1.5, 2.5, 5.9, 7.0])[:, None]
    found = precision_recall(real, reconstructed)
    assert found is not None
    # 5.9 is within 3 of the real 3; 7.0 is not.
    assert found.precision == pytest.approx(4 / 5)
    # Radii of the reconstructed: 0.5 -> 5.4, 1.5 -> 4.4, 2.5 -> 3.4 (to 5.9), so that all four of
    # the first cluster are covered and none of the second.
    assert found.recall == pytest.approx(4 / 8)


def test_real_and_reconstructed_are_not_mixed_up() -> None:
    generator = torch.Generator().manual_seed(0)
    wide = torch.randn(200, 2, generator=generator)
    narrow = 0.05 * torch.randn(200, 2, generator=generator)
    found = precision_recall(wide, narrow)
    assert found is not None
    # Reconstructions of one kind only: all of them plausible, little of the real ones covered.
    assert found.precision > 0.9
    assert found.recall < 0.1


def test_blocks_of_the_distance_matrix_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = (torch.randn(25, 4, generator=torch.Generator().manual_seed(s)) for s in (0, 1))
    whole = precision_recall(a, b)
    monkeypatch.setattr("flowmo.training.evaluation.distances._MOST_WHOLE", 7)
    assert precision_recall(a, b) == whole
    assert whole is not None
    assert (whole.precision, whole.recall) == metric_prc.calculate_precision_recall_full(b, a)


def test_fewer_pictures_than_neighbours_have_no_manifold() -> None:
    assert precision_recall(torch.randn(3, 4), torch.randn(9, 4)) is None
