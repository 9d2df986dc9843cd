"""``flowmo demo``: a server of its own, and every file it promises."""

from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from flowmo.cli import app
from flowmo.cli.server_process import ServerProcess
from flowmo.imaging.fit import fit_image
from flowmo.imaging.quality import nearest_webp, psnr
from flowmo.imaging.reading import read_image
from flowmo.model.container import Container
from flowmo.photographs import photograph_paths
from tests.service.pictures import as_file, from_file, gradient


def test_photographs_go_there_and_back(tmp_path: Path, checkpoint: Path) -> None:
    out = tmp_path / "out"
    photographs = [str(path) for path in photograph_paths()[:2]]
    result = CliRunner().invoke(
        app, ["demo", *photographs, "--out", str(out), "-c", str(checkpoint)]
    )
    assert result.exit_code == 0, result.output
    names = [Path(name).name for name in photographs]
    expected = {"comparison.png", "server.log"}
    for name in names:
        expected |= {f"{name}.flowmo", f"{name}.original.png", f"{name}.flowmo.png"}
        container = Container.from_bytes((out / f"{name}.flowmo").read_bytes())
        assert len(container.tokens.pack()) == 24
        original = fit_image(read_image((photograph_paths()[0].parent / name).read_bytes()), 32)
        shown = from_file((out / f"{name}.original.png").read_bytes())
        assert np.abs(shown.astype(int) - original.pixels).max() <= 8
        assert name in result.output
    assert {path.name for path in out.iterdir()} == expected
    # Three columns and two rows of pictures, enlarged to be seen.
    sheet = from_file((out / "comparison.png").read_bytes())
    assert sheet.shape[1] > 3 * 256
    assert sheet.shape[0] > 2 * 256
    assert "Finished server process" in (out / "server.log").read_text()


def test_a_server_that_runs_already_is_used(tmp_path: Path, checkpoint: Path) -> None:
    out, photograph = tmp_path / "out", str(photograph_paths()[0])
    with ServerProcess(["--checkpoint", str(checkpoint)], log=tmp_path / "log") as server:
        result = CliRunner().invoke(
            app, ["demo", photograph, "--out", str(out), "--url", server.url]
        )
        assert result.exit_code == 0, result.output
        assert server.url in result.output
    assert (out / "comparison.png").is_file()
    assert not (out / "server.log").exists()


def test_another_server_has_its_own_checkpoint(tmp_path: Path) -> None:
    options = ["--url", "http://127.0.0.1:1", "--checkpoint", "x", "--out", str(tmp_path)]
    result = CliRunner().invoke(app, ["demo", *options])
    assert result.exit_code == 2
    assert "--checkpoint is for" in result.output


def test_psnr_of_known_differences() -> None:
    reference = np.zeros((4, 4, 3), np.uint8)
    assert psnr(reference, reference) == np.inf
    assert psnr(reference, reference + np.uint8(255)) == pytest.approx(0.0)
    assert psnr(reference, reference + np.uint8(1)) == pytest.approx(48.1308, abs=1e-4)


def test_the_rival_is_as_near_in_size_as_webp_gets() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    small, large = nearest_webp(noise, 500), nearest_webp(noise, 4000)
    assert len(small) < len(large)
    assert abs(len(large) - 4000) < 600
    assert nearest_webp(gradient(), 1)[:4] == b"RIFF"
    assert len(as_file(noise, "PNG")) > len(large)
