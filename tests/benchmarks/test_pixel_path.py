"""The figures of the one pixel path, on a model that knows nothing."""

import json
from pathlib import Path

import pytest

from benchmarks.pixel_path import main
from flowmo.training.data.held_out import HELD_OUT_SHA256
from tests.service.fixtures import save_model


def test_filters_and_profiles_are_told_apart(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    checkpoint = save_model(tmp_path / "checkpoint", seed=0)
    main([str(checkpoint), "--out", str(out), "--rounds", "1"])
    report = json.loads(out.read_text(encoding="utf-8"))
    assert list(report["photographs"]) == sorted(HELD_OUT_SHA256)
    assert 30 < report["psnr"]["bicubic_to_lanczos"] < 60
    assert 20 < report["psnr"]["profile_ignored"] < 45
    for name in ("reconstruction_lanczos", "reconstruction_bicubic"):
        assert report["psnr"][name] == pytest.approx(
            sum(row[name] for row in report["photographs"].values()) / 6, abs=1e-3
        )
    assert list(report["loading"]) == ["500 x 375", "3000 x 2000"]
    for row in report["loading"].values():
        assert row.keys() == {"lanczos_cpu_ms", "bicubic_cpu_ms"}
        assert min(row.values()) > 0
