"""Without torchvision and torchmetrics: what needs neither works, and what is left out is named."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from flowmo.model.config import FlowMoConfig
from flowmo.model.flowmo import FlowMo
from flowmo.training.config import TrainConfig, ValidationConfig
from tests.training.students import quiet

# As where only the core is installed: these names cannot be imported.
_PROGRAM = """
import sys
for name in ("torchvision", "torchmetrics", "torch_fidelity", "tensorboard"):
    sys.modules[name] = None
from flowmo.cli import main
main()
"""


def _flowmo(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    here = os.pathsep.join([str(Path.cwd()), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, "-c", _PROGRAM, *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": here},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


@pytest.fixture
def checkpoint(micro_model: FlowMoConfig, tmp_path: Path) -> Path:
    FlowMo(micro_model).save_pretrained(tmp_path / "micro")
    return tmp_path / "micro"


def test_evaluate_measures_psnr_and_says_what_is_missing(
    checkpoint: Path, pictures: Path, tmp_path: Path
) -> None:
    out = tmp_path / "evaluation"
    done = _flowmo("evaluate", checkpoint, "-d", pictures, "-o", out, "--limit", "3")
    assert done.returncode == 0, done.stderr
    report = json.loads((out / "report.json").read_text())
    found = report["methods"]["flowmo"]
    assert found["psnr"] > 0
    assert {found[name] for name in ("ssim", "lpips", "rfid", "precision", "recall")} == {None}
    reason = "torchmetrics is not installed: pip install 'flowmo-serve[train]'"
    assert f"note: No SSIM (which torchmetrics computes): {reason}." in done.stderr
    assert "No rFID (--inception): torchvision is not installed" in done.stderr


def test_networks_that_nobody_asked_for_are_not_missed(
    checkpoint: Path, pictures: Path, tmp_path: Path
) -> None:
    off = [word for name in ("lpips", "inception", "vgg") for word in (f"--{name}", "none")]
    out = tmp_path / "evaluation"
    done = _flowmo("evaluate", checkpoint, "-d", pictures, "-o", out, "--limit", "3", *off)
    assert done.returncode == 0, done.stderr
    assert list(json.loads((out / "report.json").read_text())["missing"]) == ["ssim"]


def test_sweep_compares_by_psnr(checkpoint: Path, pictures: Path) -> None:
    done = _flowmo("sweep", checkpoint, "-d", pictures, "--limit", "2", "--steps", "1,2")
    assert done.returncode == 0, done.stderr
    assert "note: no SSIM: torchmetrics is not installed" in done.stderr
    rows = [line.split() for line in done.stdout.splitlines()[1:]]
    assert [(row[0], row[-1]) for row in rows] == [("1", "-"), ("2", "-")]


def test_release_writes_its_card_with_the_figures_that_there_are(
    run_config: Callable[..., TrainConfig], pictures: Path, tmp_path: Path
) -> None:
    config = run_config(steps=1, validation=ValidationConfig(paths=(str(pictures),), count=2))
    quiet(config)
    out = tmp_path / "release"
    done = _flowmo("release", config.output, out)
    assert done.returncode == 0, done.stderr
    assert "note: no SSIM: torchmetrics is not installed" in done.stderr
    metrics = json.loads((out / "metrics.json").read_text())
    assert list(metrics["held_out"]) == ["psnr"]
    assert list(metrics["missing"]) == ["ssim"]
    card = (out / "README.md").read_text()
    assert "PSNR (dB)" in card
    assert "SSIM" not in card


def test_training_validates_by_psnr_and_refuses_to_decide_by_what_it_lacks(
    run_config: Callable[..., TrainConfig], pictures: Path, tmp_path: Path
) -> None:
    program = """
import json, sys
sys.modules["torchmetrics"] = None
from flowmo.training import TrainConfig, train
train(TrainConfig.from_dict(json.loads(sys.argv[1])))
"""

    def run(metric: str) -> subprocess.CompletedProcess[str]:
        config = run_config(
            steps=2,
            validation=ValidationConfig(interval=2, paths=(str(pictures),), count=2, metric=metric),
            output=str(tmp_path / metric),
        )
        here = os.pathsep.join([str(Path.cwd()), os.environ.get("PYTHONPATH", "")])
        return subprocess.run(
            [sys.executable, "-c", program, json.dumps(config.to_dict())],
            env=os.environ | {"PYTHONPATH": here},
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )

    done = run("psnr")
    assert done.returncode == 0, done.stderr
    lines = [json.loads(x) for x in (tmp_path / "psnr" / "log.jsonl").read_text().splitlines()]
    assert {"validation_psnr"} == {k for line in lines for k in line if "validation" in k}
    refused = run("ssim")
    assert refused.returncode != 0
    assert "validation.metric=ssim cannot be measured: torchmetrics is not" in refused.stderr
