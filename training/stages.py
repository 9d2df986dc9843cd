"""Recipes of several stages, which one command runs from the first step to the last.

    OUT/RECIPE/      the run of each stage (flowmo.training.loop.trainer)
    OUT/grown/       what a stage begins with that gives the model before it a head
    OUT/stages.json  what each stage came to: steps, samples, hours, operations

A stop, whatever instant it comes at, costs what it costs a single run: the same command with
``resume`` goes through the stages again, and those that are done have nothing left to do.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from flowmo.model.errors import ConfigError
from flowmo.model.flowmo import FlowMo
from flowmo.training.checkpointing.grow import crops_of, fit_images, with_a_head
from flowmo.training.checkpointing.resume import find_checkpoint
from flowmo.training.config import TrainConfig
from flowmo.training.cost import training_cost
from flowmo.training.json_report import write_json
from flowmo.training.loop.mesh import open_mesh
from flowmo.training.overrides import override, parse_assignments
from flowmo.training.perceptual.weights import LIBRARY, RANDOM
from flowmo.training.recipes import STAGED_RECIPES, Stage, recipe
from flowmo.training.tasks.registry import start_from

STAGES_FILE = "stages.json"
_FETCHED = ("vgg-edge", "efficientnet-lite0")


@dataclass(frozen=True, kw_only=True, slots=True)
class StageResult:
    """How a stage ended.

    Attributes:
        recipe: Its recipe.
        stopped: Why it ended, as in :class:`flowmo.training.TrainResult`.
        step: The number of steps done, over all parts.
        seconds: The training time, over all parts.
        model: The model folder that it gave: the best validation's, or the last average.
    """

    recipe: str
    stopped: str
    step: int
    seconds: float
    model: Path


Run = Callable[[TrainConfig], StageResult]
"""Trains one stage, or goes on with it."""


def stage_configs(
    name: str, assignments: Sequence[str] = (), *, data: Sequence[str] = (), out: Path | None = None
) -> dict[str, TrainConfig]:
    """The runs of a recipe of several stages, by the name of each stage's recipe.

    Args:
        name: One of :data:`flowmo.training.recipes.STAGED_RECIPES`.
        assignments: Changes ``FIELD=VALUE`` of all stages, ``RECIPE:FIELD=VALUE`` of one. Fields of
            the model are the first stage's alone; the later ones have its sizes.
        data: Where the images are; the recipes' own by default.
        out: The folder of all runs; ``runs/NAME`` by default.

    Raises:
        ConfigError: A change names no stage or no field, is of no use to a stage that it is meant
            for, or would change the model between the stages.
    """
    stages = STAGED_RECIPES[name]
    folder = Path("runs", name) if out is None else out
    recipes = [stage.recipe for stage in stages]
    for one in assignments:
        named = _stage_of(one)
        if named is not None and named not in recipes:
            raise ConfigError(f"{one!r} names no stage of {name}: they are {', '.join(recipes)}")
        field = one.partition("=")[0].rpartition(":")[2]
        if named in recipes[1:] and field.startswith("model."):
            raise ConfigError(f"{one!r} would change the model that {named} goes on with")
    configs = {}
    for number, own in enumerate(recipes):
        changes = parse_assignments(own_assignments(own, assignments))
        if number > 0:
            changes = {key: text for key, text in changes.items() if not key.startswith("model.")}
        config = override(recipe(own), {**changes, "output": str(folder / own)})
        if data:
            config = replace(config, data=replace(config.data, paths=tuple(data)))
        configs[own] = config
    return configs


def own_assignments(recipe_name: str, assignments: Sequence[str]) -> list[str]:
    """Of changes ``[RECIPE:]FIELD=VALUE`` those of a recipe, without its name.

    Args:
        recipe_name: The recipe.
        assignments: The changes of all recipes.
    """
    return [
        one.removeprefix(f"{recipe_name}:")
        for one in assignments
        if _stage_of(one) in (None, recipe_name)
    ]


def _stage_of(assignment: str) -> str | None:
    name, colon, _ = assignment.partition("=")[0].partition(":")
    return name if colon else None


def train_stages(
    stages: Sequence[Stage], configs: Sequence[TrainConfig], run: Run, *, resume: bool = False
) -> list[StageResult]:
    """Run stages in order, each with what the one before it gave.

    Args:
        stages: What each stage begins with.
        configs: The run of each; the folder that holds the first one's output holds all results.
        run: Trains one of them, and resumes what is there.
        resume: Whether runs that are there already are gone on with.

    Returns:
        The results of the stages up to the first that was interrupted.

    Raises:
        ConfigError: A folder holds a run and ``resume`` is false, or a stage needs a file that is
            not there; nothing was trained then.
    """
    for config in configs:
        _check_network(config)
        if not resume:
            find_checkpoint(Path(config.output), resume=False)
    folder = Path(configs[0].output).parent
    results: list[StageResult] = []
    # One group for all stages: what is made between them is made by one process.
    with open_mesh(configs[0].device, "auto") as mesh:
        for stage, config in zip(stages, configs, strict=True):
            begun = config
            if results:
                init = results[-1].model
                if stage.grow:
                    if mesh.is_main:
                        grow(init, config, folder / "grown", crops=stage.crops)
                    init = folder / "grown"
                mesh.wait()
                begun = start_from(config, str(init))
            results.append(run(begun))
            if mesh.is_main:
                _note(folder / STAGES_FILE, begun, results[-1])
            if results[-1].stopped == "interrupted":
                break
    return results


def grow(checkpoint: Path, config: TrainConfig, folder: Path, *, crops: int) -> None:
    """Make what a stage begins with (:mod:`flowmo.training.checkpointing.grow`), once.

    Args:
        checkpoint: The model of the stage before.
        config: The stage's run, which has the head and the data.
        folder: Where it goes; what is there stays.
        crops: The number of crops that the readout of images is fitted to.
    """
    if (folder / "config.json").exists():  # written last
        return
    model = with_a_head(FlowMo.from_pretrained(checkpoint), config.model.head)
    images = crops_of(
        config.data.paths, model.config, count=crops, least_scale=config.data.min_crop_scale
    )
    fit_images(model, images).save_pretrained(folder, dtype=torch.float32)


def _check_network(config: TrainConfig) -> None:
    # A stage that begins in hours must not find out then that a file is missing.
    network, source = config.perceptual.network, config.perceptual.weights
    if network in _FETCHED and source not in (LIBRARY, RANDOM) and not Path(source).is_file():
        raise ConfigError(
            f"{Path(config.output).name} needs {source}, which is not there: fetch it with `python "
            f"-m flowmo.training.perceptual.fetch --out {Path(source).parent}`, or name the file "
            f"with -s {Path(config.output).name}:perceptual.weights=FILE"
        )


def _note(path: Path, config: TrainConfig, result: StageResult) -> None:
    """Put a stage's result into the file of all of them."""
    known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    samples = result.step * config.batch_size
    known[result.recipe] = {
        "stopped": result.stopped,
        "steps": result.step,
        "samples": samples,
        "hours": result.seconds / 3600,
        "petaflop": training_cost(config).flops * result.step / 1e15,
        "model": str(result.model),
    }
    write_json(path, known)
