"""Every recipe by two processes on a CPU, at tiny size, each stage from the one before.

    python -m benchmarks.recipes --out benchmarks/results/training/recipes.json

Sizes, batch and steps are small, networks' weights random; all other fields are the recipe's own,
but for ``compile``. Each run is stopped after half of its steps and resumed by the
same command. It shows that the recipes run together, not what they give.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.environment import environment
from flowmo.model.flowmo import FlowMo
from flowmo.photographs import photograph_paths
from flowmo.training.json_report import write_json
from flowmo.training.recipes import RECIPES

STEPS = 4

_SIZES = (
    *("model.image_size=32", "model.code_length=16"),
    *(
        f"model.{half}.{size}"
        for half in ("encoder", "decoder")
        for size in ("width=32", "heads=2", "depth=1")
    ),
)
_SMALL = (
    *("device=cpu", "compile=false", "tensorboard=false", "batch_size=8", "sample_count=2"),
    *("data.workers=0", "log_interval=1", "checkpoint_interval=0"),
)
_LPIPS = ("perceptual.weights=random",)
# What a recipe needs beside: where it begins, and what it may not be without.
_BEGINS: dict[str, str] = {
    "tiny-sharp": "grown",
    "tiny-post-train": "tiny-demo/export",
    "tiny-distill": "tiny-post-train/export",
    "post-train": "lo/export",
    "distill": "post-train/best",
}
_FIELDS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("fewer-params", "lo", "hi", "continuous", "tiny-sharp", "distill"), _LPIPS),
    "post-train": (*_LPIPS, "validation.lpips_weights=random", "post_train.steps=2"),
    "distill": (*_LPIPS, "distill.teacher=INIT"),
    "tiny-distill": ("distill.teacher=INIT", "distill.teacher_steps=2"),
}
# The order in which each finds what it begins with.
ORDER = (
    *("tiny-demo", "tiny-sharp", "tiny-post-train", "tiny-distill"),
    *("fewer-params", "lo", "hi", "continuous", "post-train", "distill", "finetune"),
)


def run(name: str, root: Path, *, processes: int) -> dict[str, Any]:
    """One recipe in two parts; what it logged and exported."""
    pictures = str(next(iter(photograph_paths())).parent)
    fields = [*_SMALL, *_FIELDS.get(name, ())]
    validation = RECIPES[name]().validation
    if validation.interval:
        fields += ["validation.interval=2", "validation.count=2", f"validation.paths={pictures}"]
    command = ["-m", "flowmo", "train", name, "--data", pictures, "--out", str(root / name)]
    if name in _BEGINS:
        begins = str(root / _BEGINS[name])
        command += ["--init", begins]
        fields = [field.replace("INIT", begins) for field in fields]
    elif name != "finetune":
        fields += _SIZES
    begin = time.perf_counter()
    for steps in (STEPS // 2, STEPS):
        sets = [part for field in (*fields, f"steps={steps}") for part in ("-s", field)]
        _torchrun([*command, *sets, "--resume"], processes)
    lines = [json.loads(line) for line in (root / name / "log.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line]
    held_out = [
        {key: value for key, value in line.items() if key.startswith("validation") or key == "step"}
        for line in lines
        if any(key.startswith("validation") for key in line)
    ]
    exported = FlowMo.from_pretrained(root / name / "export")
    return {
        "steps": len(losses),
        "losses": losses,
        "held_out": held_out,
        "exported_as": str(next(exported.parameters()).dtype).removeprefix("torch."),
        "finite": all(bool(torch.isfinite(p).all()) for p in exported.parameters()),
        "seconds": time.perf_counter() - begin,
    }


def _torchrun(arguments: list[str], processes: int) -> None:
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    done = subprocess.run(  # noqa: S603 (our own command)
        [*start, f"--nproc-per-node={processes}", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(arguments)} failed:\n{done.stderr[-4000:]}")


def main() -> None:
    """Run all recipes and write what came of them."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--only", nargs="*", default=list(ORDER), help="recipes, in this order")
    arguments = parser.parse_args()
    assert sorted(ORDER) == sorted(RECIPES), "a recipe is missing here"
    rows: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for name in arguments.only:
            if name == "tiny-sharp":
                _grow(root)
            rows[name] = run(name, root, processes=arguments.processes)
            print(name, {key: rows[name][key] for key in ("steps", "losses", "exported_as")})
    report = {
        "processes": arguments.processes,
        "fields": [*_SIZES, *_SMALL],
        "recipes": rows,
        "environment": environment(),
    }
    write_json(arguments.out, report)


def _grow(root: Path) -> None:
    pictures = str(next(iter(photograph_paths())).parent)
    subprocess.run(  # noqa: S603 (our own command)
        [
            *(sys.executable, "-m", "flowmo.training.checkpointing.grow"),
            *(str(root / "tiny-demo" / "export"), "--data", pictures, "--out", str(root / "grown")),
        ],
        check=True,
    )


if __name__ == "__main__":
    main()
