"""Is the network right on this GPU? Step 1 of the list, before anything is timed.

    python -m benchmarks.gpu.cuda_check --out OUT

OUT/cuda_check.json has the largest error of each parity file in float32 (TF32 off) by both forms of
the network, the error of bfloat16 against float32 (code bits that differ, decoder steps), and what
pytest said of ``tests/gpu``. Exit status 1 if something is wrong. At tiny size on a CPU:
--models checkpoints/tiny --skip-tests.
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from benchmarks.environment import environment
from benchmarks.parity import compare
from benchmarks.parity_files import read_parity_file
from benchmarks.speed.measure import measure
from benchmarks.speed.variants import PLAIN, available, subject
from flowmo.deploy.graphs import HALVES
from flowmo.training.json_report import write_json

_ROOT = Path(__file__).resolve().parents[2]
_PARITY = _ROOT / "tests" / "data" / "parity"
_TESTS = _ROOT / "tests" / "gpu"
PYTEST_ENVIRONMENT = {"PYTHONPATH": str(_ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}


def parity(device: torch.device) -> list[dict[str, Any]]:
    """The worst tensor of each file and form."""
    worst = []
    for path in sorted(_PARITY.glob("*.safetensors")):
        comparisons = list(compare(read_parity_file(path), device))
        for form in dict.fromkeys(c.form for c in comparisons):
            ours = [c for c in comparisons if c.form == form]
            most = max(ours, key=lambda c: (c.error or 0.0) / c.tolerance)
            worst.append(
                {
                    "file": path.name,
                    "form": form,
                    "tensors": len(ours),
                    "worst": most.tensor,
                    "error": most.error,
                    "tolerance": most.tolerance,
                    "passed": all(c.passed for c in ours),
                }
            )
    return worst


def precision(models: Sequence[str], device: torch.device) -> list[dict[str, Any]]:
    """bfloat16 beside float32, of both halves."""
    records = []
    for name in models:
        with ExitStack() as stack:
            measured = subject(name, device, stack)
            found, _ = available([PLAIN, "serving float32", "serving bf16"], measured, [2])
            for half in HALVES:
                for record in measure(measured, half, found, rows=2, rounds=1):
                    keys = ("half", "variant", "relative_error", "bits_that_differ")
                    kept = {key: record[key] for key in keys if key in record}
                    records.append({"model": measured.network.config.name, **kept})
    return records


def pytest_command(*options: str) -> list[str]:
    """The command that runs the tests of a CUDA device, without what such a machine has not.

    Neither the project's pytest settings nor the conftest of all tests are read: their plugins are
    not installed there.

    Args:
        options: More of pytest's own.
    """
    return [
        *("-m", "pytest", "-q", "-c", os.devnull, f"--rootdir={_ROOT}", f"--confcutdir={_TESTS}"),
        *("--import-mode=importlib", "-p", "no:cacheprovider", *options, str(_TESTS)),
    ]


def gpu_tests() -> dict[str, Any]:
    """What pytest says of the tests that need a CUDA device."""
    result = subprocess.run(  # noqa: S603
        [sys.executable, *pytest_command("-rs")],
        cwd=_ROOT,
        env=os.environ | PYTEST_ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
    )
    lines = result.stdout.strip().splitlines()
    return {
        "status": result.returncode,
        "said": lines[-1] if lines else result.stderr[-500:],
        "skipped": [line for line in lines if line.startswith("SKIPPED")],
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Check everything; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu.cuda_check")
    parser.add_argument("--out", type=Path, required=True, help="folder of the report")
    parser.add_argument("--models", nargs="+", default=["checkpoints/tiny", "small"])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--skip-tests", action="store_true")
    options = parser.parse_args(arguments)
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    device = torch.device(options.device)
    found = parity(device)
    tests = None if options.skip_tests else gpu_tests()
    report = {
        "parity": found,
        "precision": precision(options.models, device),
        "tests": tests,
        "environment": environment(),
    }
    write_json(options.out / "cuda_check.json", report)
    right = all(entry["passed"] for entry in found)
    # pytest exits with 5 where it found none, which is wrong, too.
    right &= tests is None or tests["status"] == 0
    print("right" if right else "WRONG", options.out / "cuda_check.json")
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
