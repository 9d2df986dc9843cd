"""The speed of the loader, in small."""

import json
from pathlib import Path

import pytest

from benchmarks import data_loading
from flowmo.training.data.index import ImageIndex

# Python 3.12 warns when a process with threads forks; torch has threads, and its workers are forks.
pytestmark = pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")


def test_every_place_is_read_by_the_real_loader(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    small = ["--images", "24", "--batch", "4", "--size", "32", "--workers", "1", "--rounds", "1"]
    data_loading.main([*small, "--latency-ms", "1", "--out", str(out)])
    rows = json.loads(out.read_text(encoding="utf-8"))["rows"]
    assert [row["place"] for row in rows] == [
        "memory",
        "folder",
        "tar",
        "tar of tars",
        "data set (datasets)",
        "tar at a URL",
    ]
    for row in rows:
        assert row["images_per_second"] > 0
        expected = row["images_per_second"] / rows[0]["images_per_second"]
        assert row["share"] == pytest.approx(expected, rel=1e-3)


def test_places_hold_the_same_images(tmp_path: Path) -> None:
    places = data_loading.write_places(tmp_path, 16)
    first, *others = (ImageIndex([path]) for path in places.values())
    expected = sorted(data or b"" for data in first.read_many(range(len(first))))
    assert len(set(expected)) == 16
    for index in others:
        assert sorted(data or b"" for data in index.read_many(range(len(index)))) == expected
        index.close()


def test_too_few_images_to_time_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        data_loading.main(["--images", "10", "--batch", "8"])
    assert "two batches or more, 16" in capsys.readouterr().err
