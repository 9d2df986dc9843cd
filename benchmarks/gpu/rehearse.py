"""Every script of the list at the least size, one after the other, in minutes.

    python -m benchmarks.gpu.rehearse --out OUT

On a CPU it shows that the plan runs, before a GPU is asked for; on a GPU it is the first call's
smoke: what is red there is mended before its turn comes. Each script runs in a process of its own,
as it will; OUT/rehearsal.json is written after each, with its seconds and, where it failed, its
last words. Exit status 1 if one failed. What is compiled is kept in OUT/cache for those after it.
What has passed there is not run again. Left out is what packages are missing for: serving needs the
service's.
"""

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from benchmarks.environment import environment
from flowmo.model.config import FlowMoConfig, TransformerConfig
from flowmo.model.flowmo import FlowMo
from flowmo.photographs import photograph_paths
from flowmo.training.json_report import write_json
from flowmo.training.perceptual.fetch import VGG_EDGE
from flowmo.training.perceptual.losses import feature_distance

_ROOT = Path(__file__).resolve().parents[2]
# What the service needs beside the network.
_SERVICE = ("fastapi", "uvicorn", "httptools")
_LAST_WORDS = 2000


@dataclass(frozen=True, kw_only=True, slots=True)
class Rehearsal:
    """One script at the least size.

    Attributes:
        module: The script, without ``benchmarks.``.
        arguments: Its arguments; ``--out`` is added.
        needs: A package without which it is left out.
    """

    module: str
    arguments: tuple[str, ...]
    needs: str | None = None


def small_checkpoint(folder: Path) -> Path:
    """A checkpoint of one block each, which compiles in seconds."""
    torch.manual_seed(0)
    config = FlowMoConfig(
        name="rehearsal",
        image_size=32,
        patch_size=8,
        encoder=TransformerConfig(width=32, depth=1, heads=2),
        decoder=TransformerConfig(width=64, depth=1, heads=2),
        code_length=16,
        token_bits=12,
        group_bits=4,
    )
    FlowMo(config).save_pretrained(folder)
    return folder


def training_arguments(folder: Path) -> tuple[str, ...]:
    """The demo run on the sample photographs, with a perceptual network of random weights."""
    networks = folder / "networks"
    networks.mkdir()
    save_file(feature_distance("vgg-edge", "random").features.state_dict(), networks / VGG_EDGE)
    least = {
        "model.image_size": "32",
        "model.code_length": "4",
        "model.encoder.depth": "1",
        "model.decoder.depth": "1",
        "model.sampler.steps": "2",
        "sample_count": "2",
        "batch_size": "2",
        "steps": "4",
        "log_interval": "1",
        "validation.interval": "2",
        "data.workers": "0",
        "compile": "false",
    }
    return (
        f"--data={photograph_paths()[0].parent}",
        f"--networks={networks}",
        f"--run={folder / 'run'}",
        "--minutes=1,1",
        "--call-minutes=2",
        *(f"--set={field}={value}" for field, value in least.items()),
    )


def rehearsals(folder: Path, *, cuda: bool) -> list[Rehearsal]:
    """All scripts, in the order of the list.

    Args:
        folder: Where what they need is made.
        cuda: Whether there is a GPU to run compiled forms and engines on.
    """
    checkpoint = str(small_checkpoint(folder / "checkpoint"))
    variants = ["serving bf16", "compiled bf16"]
    variants += ["compiled bf16 without compiled with whole-decode"]
    variants += ["compiled bf16 without compiled with fp8-rowwise"]
    if cuda:
        variants += [
            "compiled bf16 without compiled with all whole-decode",
            "compiled bf16 without compiled with all+fp8-rowwise",
            "kernels-fp8 bf16",
            "compiled-fp8 bf16",
        ]
    return [
        Rehearsal(
            module="gpu.cuda_check",
            arguments=("--models", checkpoint, *(() if cuda else ("--skip-tests",))),
        ),
        Rehearsal(module="gpu.train_demo", arguments=training_arguments(folder)),
        Rehearsal(
            module="gpu.speed",
            arguments=(
                *("--models", checkpoint, "--batches=2", "--encode-batches=2"),
                *("--decode-batches=1", "--rounds=1", "--decode-rounds=1"),
                f"--variants={','.join(variants)}",
            ),
        ),
        Rehearsal(module="gpu.attention", arguments=("--tokens=64", "--rows=1,2", "--rounds=1")),
        Rehearsal(module="gpu.profile_step", arguments=(checkpoint, "--rows=2", "--steps=1")),
        Rehearsal(
            module="gpu.tensorrt",
            arguments=(
                *(checkpoint, "--max-batch=2", "--rounds=1", "--attention", "fused"),
                *(() if cuda else ("--architectures", "sm89")),
            ),
            needs="tensorrt_rtx",
        ),
        Rehearsal(
            module="gpu.serving",
            arguments=("--models", checkpoint, "--quick"),
            needs=next((name for name in _SERVICE if not _is_here(name)), "fastapi"),
        ),
    ]


def _is_here(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def run(rehearsal: Rehearsal, out: Path, *, limit: float) -> dict[str, Any]:
    """Run one script.

    Args:
        rehearsal: The script and its arguments.
        out: The folder of its reports, and of the cache beside them.
        limit: The most seconds that it may take.

    Returns:
        Its name, its state (passed, failed or left out), its seconds and, if need be, why.
    """
    record: dict[str, Any] = {"script": rehearsal.module}
    if rehearsal.needs is not None and not _is_here(rehearsal.needs):
        return record | {"state": "left out", "why": f"{rehearsal.needs} is not installed"}
    reports = out / rehearsal.module.rpartition(".")[2]
    command = [sys.executable, "-m", f"benchmarks.{rehearsal.module}", f"--out={reports}"]
    path = os.pathsep.join(filter(None, [str(_ROOT), os.environ.get("PYTHONPATH", "")]))
    begin = time.monotonic()
    try:
        result = subprocess.run(  # noqa: S603
            [*command, *rehearsal.arguments],
            env=os.environ | {"PYTHONPATH": path, "TORCHINDUCTOR_CACHE_DIR": str(out / "cache")},
            capture_output=True,
            text=True,
            check=False,
            timeout=limit,
        )
        status, said = result.returncode, result.stdout + result.stderr
    except subprocess.TimeoutExpired:
        status, said = -1, f"not done after {limit:.0f} s"
    record |= {"seconds": round(time.monotonic() - begin, 1)}
    if status == 0:
        return record | {"state": "passed"}
    return record | {"state": "failed", "status": status, "said": said[-_LAST_WORDS:]}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run all, or those that are named; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu.rehearse")
    parser.add_argument("--out", type=Path, required=True, help="folder of the reports")
    parser.add_argument("--only", nargs="+", default=[], help="scripts, as speed attention")
    parser.add_argument("--limit", type=float, default=300.0, help="seconds of one script")
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / "rehearsal.json"
    before = json.loads(path.read_text(encoding="utf-8"))["scripts"] if path.is_file() else []
    passed = {record["script"]: record for record in before if record["state"] == "passed"}
    records: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for rehearsal in rehearsals(Path(folder), cuda=torch.cuda.is_available()):
            if options.only and rehearsal.module.rpartition(".")[2] not in options.only:
                continue
            record = passed.get(rehearsal.module) or run(
                rehearsal, options.out, limit=options.limit
            )
            records.append(record)
            seconds = record.get("seconds", 0.0)
            print(f"{record['state']:9} {seconds:6} s  {record['script']}", flush=True)
            if "said" in record:
                print(record["said"], file=sys.stderr, flush=True)
            report = {"scripts": records, "environment": environment()}
            write_json(path, report)
    return 1 if any(record["state"] == "failed" for record in records) else 0


if __name__ == "__main__":
    sys.exit(main())
