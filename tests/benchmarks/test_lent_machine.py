"""The scripts and tests for a lent GPU start with the few packages that such a machine has."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.gpu.cuda_check import PYTEST_ENVIRONMENT, pytest_command

ROOT = Path(__file__).resolve().parents[2]
MACHINE = str(ROOT / "tests" / "lent_machine.py")


def run_there(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, MACHINE, *arguments],
        cwd=ROOT,
        env=os.environ | PYTEST_ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
    )


def test_what_it_lacks_cannot_be_imported() -> None:
    answer = run_there("-c", "import fastapi")
    assert "No module named 'fastapi' (on a lent machine)" in answer.stderr
    assert run_there("-c", "import torch, safetensors, rich, pytest").returncode == 0


def test_the_tests_of_a_gpu_are_collected_there() -> None:
    answer = run_there(*pytest_command("--collect-only"))
    assert answer.returncode == 0, answer.stdout + answer.stderr
    for name in ("test_compiled.py", "test_training.py"):
        assert f"tests/gpu/{name}::" in answer.stdout


SCRIPTS = {
    "attention",
    "cuda_check",
    "profile_step",
    "rehearse",
    "speed",
    "tensorrt",
    "train_demo",
}
# It loads the service, whose packages have to be carried there.
NEEDS_MORE = {"serving"}


def test_the_scripts_start_there() -> None:
    # In one process, since each import of torch takes seconds.
    modules = [f"benchmarks.gpu.{name}" for name in sorted(SCRIPTS)] + [
        "benchmarks.serving.offline"
    ]
    imports = "; ".join(f"import {module}" for module in modules)
    answer = run_there("-c", imports)
    assert answer.returncode == 0, answer.stderr


def test_each_script_is_in_the_list() -> None:
    folder = ROOT / "benchmarks" / "gpu"
    assert {path.stem for path in folder.glob("*.py")} - {"__init__"} == (SCRIPTS | NEEDS_MORE)


@pytest.mark.parametrize("module", ["flowmo.model", "flowmo.training", "flowmo.deploy.runners"])
def test_the_parts_are_imported_there(module: str) -> None:
    answer = run_there("-c", f"import {module}")
    assert answer.returncode == 0, answer.stderr
