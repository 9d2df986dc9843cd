"""ADM's files and figures of generated pictures, on colours instead of InceptionV3's features."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner

from flowmo.cli.app import app
from flowmo.training.data.pictures import PictureList
from flowmo.training.evaluation import NO_NETWORKS, EvaluationError, Networks, Ranks
from flowmo.training.evaluation.adm import (
    AdmStatistics,
    InceptionScore,
    batches_of,
    measure_generated,
    read_statistics,
    write_statistics,
)
from flowmo.training.evaluation.distances import statistics
from flowmo.training.evaluation.extractors import SPATIAL
from flowmo.training.evaluation.moments import Moments
from flowmo.training.evaluation.protocol import INCEPTION, SERVICE
from flowmo.training.evaluation.statistics_file import make_statistics
from tests.training.evaluation.conftest import ColourNetworks

GENERATOR = np.random.default_rng(0)


def squares(count: int, low: int, high: int) -> Any:
    """Pictures of one colour each, uint8 [N, 8, 8, 3]."""
    colours = GENERATOR.integers(low, high, (count, 1, 1, 3))
    return np.broadcast_to(colours, (count, 8, 8, 3)).astype(np.uint8)


def colours(pictures: Any) -> Tensor:
    return torch.from_numpy(pictures[:, 0, 0].astype(np.float32))


def reference(pictures: Any) -> AdmStatistics:
    of = statistics(colours(pictures))
    return AdmStatistics(of={INCEPTION: of, SPATIAL: of}, pictures=pictures)


def test_moments_in_parts_are_mean_and_covariance() -> None:
    # A mean far from zero, where differences of large sums lose digits.
    rows = torch.from_numpy(GENERATOR.normal(50.0, 0.3, (1_000, 5)))
    sums = Moments.of(rows[:1])
    for part in rows[1:].split(70):
        sums.add(Moments.of(part))
    found, expected = sums.statistics(), statistics(rows)
    np.testing.assert_allclose(found["mu"], expected["mu"], rtol=1e-12)
    np.testing.assert_allclose(found["sigma"], expected["sigma"], rtol=1e-8)


def test_the_inception_score_of_known_classes() -> None:
    certain = 100.0 * torch.eye(4).repeat(5, 1)  # four classes, each picture sure of one
    score = InceptionScore()
    score.add(certain)
    assert score.value() == pytest.approx(4.0)
    undecided = InceptionScore()
    undecided.add(torch.zeros(6, 4))
    assert undecided.value() == pytest.approx(1.0)
    # In splits of 4 + 2 pictures: the mean of the splits' scores.
    split = InceptionScore(split=4)
    split.add(certain[:6])
    assert split.value() == pytest.approx((4.0 + 2.0) / 2)


def test_generated_pictures_are_compared_with_a_reference() -> None:
    real = squares(40, 0, 200)
    same = measure_generated(batches_of(real, batch=7), reference(real), ColourNetworks())
    assert (same.gfid, same.sfid) == pytest.approx((0, 0), abs=1e-6)
    assert (same.pictures, same.precision, same.recall) == (40, 1.0, 1.0)
    brighter = measure_generated(batches_of(real + 50), reference(real), ColourNetworks())
    # The same covariance around a mean that moved by 50 in three colours.
    assert brighter.gfid == pytest.approx(3 * 50**2, rel=1e-6)
    far = measure_generated(batches_of(squares(40, 230, 256)), reference(real), ColourNetworks())
    assert (far.precision, far.recall) == (0.0, 0.0)
    without = AdmStatistics(of=reference(real).of, pictures=None)
    assert measure_generated(batches_of(real), without, ColourNetworks()).precision is None
    with pytest.raises(EvaluationError, match=r"has no mu_s and sigma_s.*flowmo statistics"):
        measure_generated(
            batches_of(real),
            AdmStatistics(of={INCEPTION: reference(real).of[INCEPTION]}, pictures=None),
            ColourNetworks(),
        )
    with pytest.raises(EvaluationError, match="rest on InceptionV3: it was left out"):
        measure_generated(batches_of(real), reference(real), Networks(NO_NETWORKS))
    with pytest.raises(EvaluationError, match="at least two generated pictures, got 1"):
        measure_generated(batches_of(real[:1]), reference(real), ColourNetworks())


def test_files_are_adms(tmp_path: Path) -> None:
    real, path = squares(12, 0, 256), tmp_path / "reference.npz"
    write_statistics(path, reference(real))
    with np.load(path) as opened:
        assert set(opened.files) == {"mu", "sigma", "mu_s", "sigma_s", "arr_0"}
        np.testing.assert_allclose(opened["mu"], real[:, 0, 0].mean(0))
    again = read_statistics(path)
    np.testing.assert_array_equal(again.pictures, real)
    np.testing.assert_array_equal(again.of[SPATIAL]["sigma"], reference(real).of[SPATIAL]["sigma"])
    for arrays, message in (
        ({"mu": np.zeros(3), "sigma": np.zeros((3, 2))}, r"\[F\] and \[F, F\].*got \[3\] and \[3,"),
        ({"arr_0": np.zeros((2, 8, 8, 3))}, r"uint8 \[N, S, S, 3\].*got float64"),
        ({"other": np.zeros(1)}, "neither mu and sigma nor arr_0, but other"),
        ({"mu": np.array([{}], object)}, "cannot be read"),  # a pickle is not opened
    ):
        np.savez(tmp_path / "bad.npz", **arrays)
        with pytest.raises(EvaluationError, match=message):
            read_statistics(tmp_path / "bad.npz")
    (tmp_path / "text.npz").write_text("no file of numpy")
    with pytest.raises(EvaluationError, match="cannot be read as ADM's statistics"):
        read_statistics(tmp_path / "text.npz")


def test_statistics_of_many_pictures_by_several_processes(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flowmo.training.evaluation.reference._CHUNK", 4)
    list_ = PictureList([str(pictures)], 32)
    networks = ColourNetworks()

    def make(out: str, *, world: int) -> None:
        for rank in reversed(range(world)):  # rank 0 waits for the others
            count = make_statistics(
                list_,
                networks,
                tmp_path / out,
                work=tmp_path / f"{out}.work",
                pictures=3,
                batch=2,
                ranks=Ranks(rank=rank, world=world),
                protocol=SERVICE,
            )
            assert count == (10 if rank == 0 else None)

    make("one.npz", world=1)
    make("three.npz", world=3)
    assert len(list((tmp_path / "one.npz.work" / "shards").iterdir())) == 3  # chunks of 4
    one, three = (read_statistics(tmp_path / f"{name}.npz") for name in ("one", "three"))
    features = torch.tensor(np.array([list_.square(n).mean((0, 1)) for n in range(10)]))
    for name in (INCEPTION, SPATIAL):
        np.testing.assert_array_equal(one.of[name]["sigma"], three.of[name]["sigma"])
        np.testing.assert_allclose(one.of[name]["sigma"], statistics(features)["sigma"], rtol=1e-5)
    assert one.pictures is not None
    np.testing.assert_array_equal(one.pictures, [list_.square(n) for n in (0, 4, 9)])
    with pytest.raises(EvaluationError, match="batch was 2 and is now 5"):
        make_statistics(
            list_,
            networks,
            tmp_path / "one.npz",
            work=tmp_path / "one.npz.work",
            pictures=0,
            batch=5,
            ranks=Ranks(),
            protocol=SERVICE,
        )


def test_the_commands_make_and_read_the_file(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "flowmo.training.evaluation.Networks", lambda *_args, **_options: ColourNetworks()
    )
    out = tmp_path / "statistics.npz"
    # Generated images are of the size already; these are cut, so it must be in the same way.
    options = [f"--out={out}", "--size=32", "--protocol=service"]
    made = CliRunner().invoke(app, ["statistics", str(pictures), *options])
    assert made.exit_code == 0, made.output
    assert f"{out}: statistics of 10 images" in made.stdout
    again = ["evaluate-samples", str(pictures), f"--reference={out}", "--size=32"]
    for samples in (again, ["evaluate-samples", str(out), f"--reference={out}"]):
        found = CliRunner().invoke(app, [*samples, f"--out={tmp_path / 'figures.json'}"])
        assert found.exit_code == 0, found.output
        figures = dict(line.split() for line in found.stdout.splitlines())
        assert list(figures)[1:] == ["gfid", "sfid", "inception_score", "precision", "recall"]
        # The file holds the pictures that it was made of, so all are where they should be.
        assert (figures["pictures"], float(figures["precision"])) == ("10", 1.0)
        assert float(figures["gfid"]) == pytest.approx(0, abs=1e-6)
