"""Train the demo checkpoint, all stages, in one call or in several that each end in time.

    python -m flowmo.training.data.demo --form pictures --size 128 --out DATA
    python -m flowmo.training.perceptual.fetch --out NETWORKS
    python -m benchmarks.gpu.train_demo --data 'DATA/*.tar' --networks NETWORKS --run RUN \
        --out OUT --minutes 10,8 --call-minutes 9

--minutes is of the recipes tiny-pretrain and tiny-sharp, between which the decoder is given a head
and a readout of images (training.checkpointing.grow). Calling it again continues the stage that is
not finished, exactly. Once both are, OUT has ``run.json`` (how each stage ended, its held-out
figures), ``results.tar`` (a folder a stage: reconstruction report, picture, log, losses, config)
and the checkpoint of the last stage, cut into parts of at most --part-mib (join them with
``cat model.safetensors.*``). They are few files, since a borrowed machine may send back only so
many.

At tiny size on a CPU: --minutes 0.2,0.1 --set model.decoder.depth=1 --set batch_size=4 --set
sample_count=2.
"""

import argparse
import importlib.util
import json
import shutil
import tarfile
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import torch

from benchmarks.environment import environment
from benchmarks.loss_curve import draw
from benchmarks.reconstruction import write_report
from flowmo.training import (
    TrainConfig,
    TrainResult,
    override,
    parse_assignments,
    recipe,
    start_from,
    train,
)
from flowmo.training.perceptual.fetch import VGG_EDGE
from flowmo.training.stages import grow, own_assignments

MIB = 2**20
RECIPES = ("tiny-pretrain", "tiny-sharp")
# What a large GPU wants of the CPU recipes: whole batches, compiled, decoding in workers.
GPU_DEFAULTS = {
    "batch_size": "256",
    "data.workers": "12",
    "compile": "true",
    "ema_decay": "0.9995",
    "steps": "1000000",
    "sample_interval": "2000",
    "checkpoint_interval": "0",
    "checkpoint_minutes": "4",
    "tensorboard": "false",
}
GPU_LEARNING_RATES = {"tiny-pretrain": "1e-3", "tiny-sharp": "5e-4"}
_FIT_CROPS = 512


def stage_config(
    name: str,
    data: Sequence[str],
    run: Path,
    *,
    minutes: float,
    gpu: bool,
    assignments: Sequence[str],
    init: Path | None = None,
    networks: Path | None = None,
) -> TrainConfig:
    """A recipe of the demo checkpoint, annealed over a budget of minutes of training.

    Args:
        name: The recipe.
        data: Tars of images, or patterns of them.
        run: The run's folder.
        minutes: The budget of training.
        gpu: Whether there is one, which wants larger batches.
        assignments: Changes ``FIELD=VALUE``, or ``RECIPE:FIELD=VALUE`` of this recipe alone.
        init: The checkpoint that the run begins with; None is the recipe's own.
        networks: The folder of the fetched perceptual networks; None leaves the recipe's file.
    """
    changes = {
        **(GPU_DEFAULTS | {"optimizer.learning_rate": GPU_LEARNING_RATES[name]} if gpu else {}),
        "data.paths": ",".join(data),
        "output": str(run),
        "max_minutes": str(minutes),
        "optimizer.anneal_over_budget": "true",
        **parse_assignments(own_assignments(name, assignments)),
    }
    config = recipe(name)
    if networks is not None and config.perceptual.network == "vgg-edge":
        changes["perceptual.weights"] = str(networks / VGG_EDGE)
    if init is not None:  # the sizes are the checkpoint's, whatever the assignments say
        config = start_from(config, str(init))
        changes = {field: text for field, text in changes.items() if not field.startswith("model.")}
    return override(config, changes)


def split_file(path: Path, out: Path, part_bytes: int) -> list[Path]:
    """Cut a file into numbered parts; returns their paths in order."""
    parts: list[Path] = []
    with path.open("rb") as file:
        while block := file.read(part_bytes):
            part = out / f"{path.name}.{len(parts):03d}"
            part.write_bytes(block)
            parts.append(part)
    return parts


def report(config: TrainConfig, result: TrainResult, out: Path) -> float:
    """Everything of a finished stage that is worth committing, into ``out``; its held-out PSNR."""
    run = Path(config.output)
    write_report(_weights(result), out / "reconstruction")
    shutil.copy(run / "log.jsonl", out / "log.jsonl")
    shutil.copy(run / "config.json", out / "config.json")
    if importlib.util.find_spec("matplotlib") is not None:
        draw(run / "log.jsonl", out / "loss.png")
    figures = json.loads((out / "reconstruction.json").read_text(encoding="utf-8"))["averages"]
    psnr: float = figures["flowmo"]["psnr"]
    return psnr


def _weights(result: TrainResult) -> Path:
    return result.best or result.export


def collect(finished: Sequence[tuple[TrainConfig, TrainResult]], out: Path, part: int) -> None:
    """Results of all stages and the best one's checkpoint, in few files."""
    scores: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as temporary:
        for config, result in finished:
            name = Path(config.output).name
            scores[name] = report(config, result, Path(temporary, name))
        with tarfile.open(out / "results.tar", "w") as tar:
            tar.add(temporary, arcname="results")
    # The last stage's is the one to look at, whatever its PSNR: it was trained for that.
    config, result = finished[-1]
    best, chosen = Path(config.output).name, _weights(result)
    split_file(chosen / "model.safetensors", out, part)
    shutil.copy(chosen / "config.json", out / "config.json")
    write_state(out, finished, scores, best)


def write_state(
    out: Path,
    runs: Sequence[tuple[TrainConfig, TrainResult]],
    scores: dict[str, float],
    best: str | None,
) -> None:
    """``run.json``: how far each stage is."""
    stages = {
        Path(config.output).name: {
            **asdict(result),
            "checkpoint": result.checkpoint.name,
            "export": result.export.name,
            "best": None if result.best is None else result.best.name,
            "held_out_psnr": scores.get(Path(config.output).name),
        }
        for config, result in runs
    }
    state = {"stages": stages, "chosen": best, "environment": environment()}
    (out / "run.json").write_text(json.dumps(state, indent=2) + "\n", encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line, train, and collect the results when the budget is used up."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu.train_demo")
    parser.add_argument("--data", action="append", required=True, help="tars; repeatable")
    parser.add_argument("--networks", type=Path, required=True, help="the fetched ones")
    parser.add_argument("--run", type=Path, required=True, help="the runs' folder, kept by calls")
    parser.add_argument("--out", type=Path, required=True, help="where results go")
    parser.add_argument("--minutes", default="10,8", help="budget of each stage over all calls")
    parser.add_argument("--call-minutes", type=float, default=9.0, help="limit of this call")
    parser.add_argument("--part-mib", type=float, default=15.0)
    parser.add_argument("--set", action="append", default=[], metavar="[RECIPE:]FIELD=VALUE")
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    ends = time.monotonic() + 60 * options.call_minutes
    runs: list[tuple[TrainConfig, TrainResult]] = []
    for name, minutes in zip(RECIPES, map(float, options.minutes.split(",")), strict=True):
        init = None
        if runs:
            init = options.run / "grown"
            sharp = recipe(name)
            sharp = replace(sharp, data=replace(sharp.data, paths=tuple(options.data)))
            grow(_weights(runs[-1][1]), sharp, init, crops=_FIT_CROPS)
        config = stage_config(
            name,
            options.data,
            options.run / name,
            minutes=minutes,
            gpu=torch.cuda.is_available(),
            assignments=options.set,
            init=init,
            networks=options.networks,
        )
        left = max(0.0, ends - time.monotonic()) / 60
        result = train(config, resume=True, call_minutes=left)
        runs.append((config, result))
        print(f"{name}: {result.stopped} at step {result.step}, {result.seconds / 60:.1f} minutes")
        if result.stopped == "interrupted":
            write_state(options.out, runs, {}, None)
            return
    collect(runs, options.out, int(options.part_mib * MIB))


if __name__ == "__main__":
    main()
