"""The table of held-out quality: what a seam is, and a report with everything in it."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from benchmarks.held_out_quality import main, seam
from flowmo.model.config import FlowMoConfig, SamplerConfig, TransformerConfig
from flowmo.model.flowmo import FlowMo
from flowmo.training.data.held_out import held_out_squares
from flowmo.training.perceptual.fetch import EFFICIENTNET_LITE0, VGG_EDGE
from flowmo.training.perceptual.losses import feature_distance

PHOTOGRAPH = held_out_squares(64)["coffee.png"]


def test_a_seam_is_a_step_at_the_borders_of_patches() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    assert seam([noise], 8) == pytest.approx(1, abs=0.1)
    steps = np.arange(64) // 8 * 20
    tiles = np.broadcast_to((steps[:, None] + steps[None])[..., None] // 2, (64, 64, 3))
    grid = (tiles + noise // 64).astype(np.uint8)
    assert seam([grid], 8) > 5
    assert seam([grid], 16) < seam([grid], 8)


def test_a_photograph_has_no_seam() -> None:
    assert seam([PHOTOGRAPH], 8) == pytest.approx(1, abs=0.1)


@pytest.fixture
def networks(tmp_path: Path) -> Path:
    folder = tmp_path / "networks"
    folder.mkdir()
    for network, name in (("vgg-edge", VGG_EDGE), ("efficientnet-lite0", EFFICIENTNET_LITE0)):
        features = feature_distance(network, "random").features  # type: ignore[arg-type]
        save_file(features.state_dict(), folder / name)
    return folder


def _checkpoint(folder: Path, **changes: object) -> Path:
    part = TransformerConfig(width=16, depth=1, heads=2)
    config = FlowMoConfig(
        image_size=64,
        patch_size=16,
        encoder=part,
        decoder=part,
        code_length=64,
        token_bits=80,
        group_bits=8,
        sampler=SamplerConfig(steps=1, guidance=1.0),
    )
    torch.manual_seed(0)
    FlowMo(replace(config, **changes)).save_pretrained(folder)  # type: ignore[arg-type]
    return folder


def test_a_report_of_two_checkpoints(
    networks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    Image.fromarray(PHOTOGRAPH).resize((96, 80)).save(pictures / "wide.png")
    one = _checkpoint(tmp_path / "one")
    two = _checkpoint(tmp_path / "two", head=(4, 2))
    out = tmp_path / "reports" / "quality"
    arguments = [str(one), str(two), "--networks", str(networks), "--pictures", str(pictures)]
    main([*arguments, "--out", str(out)])
    report = json.loads(out.with_suffix(".json").read_text())
    assert set(report["sets"]) == {"photographs", "wallpapers"}
    for name, rows in report["sets"].items():
        assert set(rows) == {str(one), str(two), "jpeg", "webp", "original"}
        for method in (str(one), "jpeg"):
            row = rows[method]
            assert row["bytes"] <= 640
            for column in ("psnr", "ssim", "vgg_edge", "efficientnet_lite0"):
                mean = np.mean([each[column] for each in row["pictures"].values()])
                assert row[column] == pytest.approx(mean, abs=1e-3)
        # A network that knows nothing is farther from the pictures than a codec.
        assert rows["webp"]["efficientnet_lite0"] < rows[str(one)]["efficientnet_lite0"]
        assert rows["original"]["seam"] == pytest.approx(1, abs=0.3)
        assert out.with_name(f"quality-{name}.png").exists()
    table = out.with_suffix(".md").read_text()
    assert table == capsys.readouterr().out
    assert len(table.splitlines()) == 2 + 2 * 5


def test_no_pictures_and_other_sizes_are_errors(networks: Path, tmp_path: Path) -> None:
    one = _checkpoint(tmp_path / "one")
    empty = tmp_path / "empty"
    empty.mkdir()
    arguments = ["--networks", str(networks), "--out", str(tmp_path / "q")]
    with pytest.raises(SystemExit, match="no PNG files"):
        main([str(one), *arguments, "--pictures", str(empty)])
    two = _checkpoint(tmp_path / "two", image_size=32)
    with pytest.raises(SystemExit):
        main([str(one), str(two), *arguments])
