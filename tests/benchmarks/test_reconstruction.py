"""The reconstruction report: fair rivals, right figures, files that can be read."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.reconstruction import CODECS, averages, measure, write_report
from flowmo.model.config import FlowMoConfig, SamplerConfig, TransformerConfig
from flowmo.model.flowmo import FlowMo
from flowmo.training.data.held_out import HELD_OUT_SHA256, held_out_squares
from flowmo.training.evaluation.codecs import best_codec
from flowmo.training.evaluation.methods import mean_colour

PHOTOGRAPH = held_out_squares(64)["astronaut.png"]


def test_figures_of_known_pictures() -> None:
    equal = measure(PHOTOGRAPH, PHOTOGRAPH, 3)
    assert equal.psnr == float("inf")
    assert equal.ssim == pytest.approx(1.0)
    grey = np.full((32, 32, 3), 100, np.uint8)
    assert measure(grey, grey + 10, None).psnr == pytest.approx(28.1308, abs=1e-3)


def test_mean_colour_is_the_best_constant() -> None:
    best = measure(PHOTOGRAPH, mean_colour(PHOTOGRAPH), None).psnr
    assert best > measure(PHOTOGRAPH, mean_colour(PHOTOGRAPH) + 3, None).psnr


@pytest.mark.parametrize("codec", CODECS)
def test_a_codec_keeps_to_its_bytes_and_uses_them(codec: str) -> None:
    small, large = (best_codec(PHOTOGRAPH, codec, budget) for budget in (900, 3000))
    assert small is not None
    assert large is not None
    assert small[1] <= 900
    assert large[1] <= 3000
    psnrs = [measure(PHOTOGRAPH, pixels, size).psnr for pixels, size in (small, large)]
    assert psnrs[0] + 1 < psnrs[1]
    assert psnrs[0] > measure(PHOTOGRAPH, mean_colour(PHOTOGRAPH), None).psnr


def test_no_file_is_small_enough_for_ten_bytes() -> None:
    assert best_codec(PHOTOGRAPH, "JPEG", 10) is None


def test_averages_are_over_the_photographs_that_have_a_method() -> None:
    one, two = (measure(PHOTOGRAPH, PHOTOGRAPH + np.uint8(k), 5) for k in (1, 2))
    rows = {"a": {"x": one, "y": two}, "b": {"x": two}}
    means = averages(rows)
    assert means["x"]["psnr"] == pytest.approx((one.psnr + two.psnr) / 2, abs=1e-3)
    assert means["y"]["psnr"] == pytest.approx(two.psnr, abs=1e-3)


def test_report_of_a_checkpoint(tmp_path: Path) -> None:
    part = TransformerConfig(width=16, depth=1, heads=2)
    config = FlowMoConfig(
        image_size=32,
        patch_size=8,
        encoder=part,
        decoder=part,
        code_length=32,
        token_bits=160,
        group_bits=8,
        sampler=SamplerConfig(steps=2),
    )
    FlowMo(config).save_pretrained(tmp_path / "checkpoint")
    write_report(tmp_path / "checkpoint", tmp_path / "new" / "report")
    report = json.loads((tmp_path / "new" / "report.json").read_text(encoding="utf-8"))
    assert report["token_bytes"] == 640
    assert set(report["photographs"]) == {Path(name).stem for name in HELD_OUT_SHA256}
    assert {"flowmo", "mean_colour", "webp"} <= set(report["averages"])
    with Image.open(tmp_path / "new" / "report.png") as picture:
        assert picture.width > 6 * 32
