r"""Every recipe by two processes on a CPU, at tiny size, each stage from the one before.

    torchrun --nproc-per-node 2 -m benchmarks.recipes --work /tmp/recipes \
        --out benchmarks/results/training/recipes.json

Sizes, batch and steps are small, networks' weights random; all other fields are the recipe's own,
but for ``compile``. Each run is stopped after half of its steps and resumed. It shows that the
recipes run, one on the other, by several processes; not what they give.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.environment import environment
from flowmo.model.flowmo import FlowMo
from flowmo.photographs import photograph_paths
from flowmo.training import TrainConfig, override, parse_assignments, recipe, start_from, train
from flowmo.training.checkpointing.grow import main as grow
from flowmo.training.json_report import write_json
from flowmo.training.loop.mesh import open_mesh
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
    "tiny-post-train": "tiny-pretrain/export",
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
    *("tiny-pretrain", "tiny-sharp", "tiny-post-train", "tiny-distill"),
    *("fewer-params", "lo", "hi", "continuous", "post-train", "distill", "finetune"),
)


def config_of(name: str, root: Path) -> TrainConfig:
    """A recipe at tiny size."""
    pictures = str(photograph_paths()[0].parent)
    fields = [*_SMALL, *_FIELDS.get(name, ())]
    config = recipe(name)
    if config.validation.interval:
        fields += ["validation.interval=2", "validation.count=2", f"validation.paths={pictures}"]
    if name in _BEGINS:
        begins = str(root / _BEGINS[name])
        fields = [field.replace("INIT", begins) for field in fields]
        config = start_from(config, begins)
    elif name != "finetune":
        fields += _SIZES
    changes = parse_assignments([*fields, f"output={root / name}", f"data.paths={pictures}"])
    return override(config, changes)


def run(name: str, root: Path) -> dict[str, Any]:
    """One recipe in two parts; what it logged and exported."""
    config = config_of(name, root)
    for steps in (STEPS // 2, STEPS):
        train(replace(config, steps=steps), resume=True)
    lines = [json.loads(line) for line in (root / name / "log.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line]
    held_out = [
        {key: value for key, value in line.items() if key.startswith("validation") or key == "step"}
        for line in lines
        if any(key.startswith("validation") for key in line)
    ]
    exported = FlowMo.from_pretrained(root / name / "export")
    return {
        "task": config.task,
        "init": config.optimizer.init,
        "accumulation": config.accumulation,
        "perceptual": config.perceptual.network,
        "precision": config.precision,
        "steps": len(losses),
        "losses": losses,
        "held_out": held_out,
        "exported_as": str(next(exported.parameters()).dtype).removeprefix("torch."),
        "finite": all(bool(torch.isfinite(p).all()) for p in exported.parameters()),
    }


def main() -> None:
    """Run all recipes and write what came of them."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True, help="an empty folder for the runs")
    parser.add_argument("--only", nargs="*", default=list(ORDER), help="recipes, in this order")
    arguments = parser.parse_args()
    tokenizers = [name for name, config in RECIPES.items() if config().task != "prior"]
    assert sorted(ORDER) == sorted(tokenizers), "a recipe is missing here"
    rows: dict[str, Any] = {}
    root = arguments.work
    # One group for all runs: processes are found once.
    with open_mesh("cpu", "auto") as mesh:
        for name in arguments.only:
            if name == "tiny-sharp" and mesh.is_main:
                _grow(root)
            mesh.wait()
            rows[name] = run(name, root)
            if mesh.is_main:
                print(name, {key: rows[name][key] for key in ("losses", "exported_as")}, flush=True)
        if mesh.is_main:
            report = {
                "processes": mesh.size,
                "fields": [*_SIZES, *_SMALL],
                "recipes": rows,
                "environment": environment(),
            }
            write_json(arguments.out, report)


def _grow(root: Path) -> None:
    """What ``python -m flowmo.training.checkpointing.grow`` does between the two recipes."""
    pictures = str(photograph_paths()[0].parent)
    begins, out = str(root / "tiny-pretrain" / "export"), str(root / "grown")
    grow([begins, "--data", pictures, "--out", out, "--crops", "16"])


if __name__ == "__main__":
    main()
