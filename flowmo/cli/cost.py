"""``flowmo cost``: what a model costs to run, from its config alone."""

import json
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from flowmo.model.errors import ConfigError

if TYPE_CHECKING:
    from flowmo.deploy.cost import Cost, ForwardCost, Gpu
    from flowmo.deploy.prior_cost import PriorCost
    from flowmo.model.config import FlowMoConfig
    from flowmo.model.prior.config import PriorConfig


_PREFIXES = (
    (1e15, "P"),
    (1e12, "T"),
    (1e9, "G"),
    (1e6, "M"),
    (1e3, "k"),
    (1, ""),
    (1e-3, "m"),
    (1e-6, "µ"),
)


def cost_command(
    preset: Annotated[
        str | None, typer.Option(help="Name of a preset, such as lo, hi, small, tiny or prior.")
    ] = None,
    checkpoint: Annotated[
        str | None, typer.Option("--checkpoint", "-c", help="Checkpoint, instead of a preset.")
    ] = None,
    batch: Annotated[int, typer.Option(help="Rows of one forward.", min=1)] = 1,
    gpu: Annotated[
        str, typer.Option(help="GPU to compute for: h100, h200, a100, l40s or l4.")
    ] = "h100",
    dtype: Annotated[
        Literal["bfloat16", "float32"], typer.Option(help="Dtype of weights and activations.")
    ] = "bfloat16",
    train: Annotated[
        str | None,
        typer.Option(
            help="Recipe of a run of stage 1A or of a prior, instead of a model to serve."
        ),
    ] = None,
    gpus: Annotated[int, typer.Option(help="GPUs that train, with --train.", min=1)] = 8,
    assignments: Annotated[
        list[str] | None,
        typer.Option(
            "--set", "-s", metavar="FIELD=VALUE", help="With --train, as in flowmo train."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
) -> None:
    """Show operations, bytes, least time and memory of a model, or of a training run."""
    from flowmo.deploy.cost import GPUS, cost_of
    from flowmo.deploy.prior_cost import cost_of_prior
    from flowmo.model.prior.config import PriorConfig

    if gpu.lower() not in GPUS:
        raise ConfigError(f"gpu must be one of {', '.join(GPUS)}, got {gpu!r}")
    if train is not None:
        if preset is not None or checkpoint is not None:
            raise typer.BadParameter("--train names a recipe; leave --preset and --checkpoint out")
        found = _training_report(train, assignments or [], gpus, GPUS[gpu.lower()])
        typer.echo(json.dumps(found, indent=2) if as_json else _training_table(found))
        return
    if assignments:
        raise typer.BadParameter("--set changes a recipe: give --train RECIPE, too")
    config = _config(preset, checkpoint)
    size, chosen = 2 if dtype == "bfloat16" else 4, GPUS[gpu.lower()]
    if isinstance(config, PriorConfig):
        report = _prior_report(config, cost_of_prior(config, batch, bytes_a_value=size), chosen)
    else:
        report = _report(config, cost_of(config, batch, bytes_a_value=size), chosen)
    typer.echo(json.dumps(report, indent=2) if as_json else _table(report))


def _config(preset: str | None, checkpoint: str | None) -> "FlowMoConfig | PriorConfig":
    from flowmo.model import registry
    from flowmo.model.checkpoint import inspect_checkpoint
    from flowmo.model.config import preset as preset_of
    from flowmo.model.hub import resolve_checkpoint
    from flowmo.model.prior.checkpoint import PRIOR_TYPE, inspect_prior
    from flowmo.model.prior.config import PRIOR_PRESETS

    if (preset is None) == (checkpoint is None):
        raise typer.BadParameter("give either --preset or --checkpoint, or --train")
    if preset is not None:
        return PRIOR_PRESETS.get(preset) or preset_of(preset)
    assert checkpoint is not None
    folder = resolve_checkpoint(checkpoint)
    if registry.model_type(folder) == PRIOR_TYPE:
        return inspect_prior(folder).config
    return inspect_checkpoint(folder).config


def _training_report(name: str, assignments: list[str], gpus: int, gpu: "Gpu") -> dict[str, Any]:
    from flowmo.training import recipe
    from flowmo.training.cost import training_cost
    from flowmo.training.overrides import override, parse_assignments

    config = override(recipe(name), parse_assignments(assignments))
    cost = training_cost(config, gpus=gpus)
    # Adam and the average read and write all they keep; gradients cross the machine meanwhile.
    moved = 2 * sum(cost.memory[part] for part in ("weights", "gradients", "adam", "average"))
    seconds = cost.flops / gpus / gpu.bf16_flops + moved / gpu.bytes_a_second
    return {
        "recipe": name,
        "gpus": gpus,
        "gpu": gpu.name,
        "recompute": config.recompute,
        "micro_batch": cost.micro_batch,
        "parameters": cost.parameters,
        "memory_bytes": {**cost.memory, "all": cost.memory_bytes},
        # Workspaces, fragments and the driver take some of a GPU.
        "fits": cost.memory_bytes <= 0.9 * gpu.memory_bytes,
        "step_flops": cost.flops,
        "step_floor_seconds": seconds,
        "steps": cost.steps,
        "days": cost.steps * seconds / 86_400,
        "uncounted": cost.uncounted,
    }


def _training_table(report: dict[str, Any]) -> str:
    title = (
        f"{report['recipe']} on {report['gpus']} x {report['gpu']}, micro-batches of "
        f"{report['micro_batch']}, recompute={report['recompute']}"
    )
    lines = [
        title,
        "",
        "memory of one GPU, eager",
    ]
    lines += [
        f"  {part:<22}{_short(size, 'B'):>14}" for part, size in report["memory_bytes"].items()
    ]
    fits = "fits with a tenth to spare" if report["fits"] else "does not fit with a tenth to spare"
    lines += [
        f"  {fits}",
        "",
        f"{'operations a step':<24}{_short(report['step_flops'], 'FLOP'):>14}",
        f"{'least time a step':<24}{_short(report['step_floor_seconds'], 's'):>14}",
        f"{'steps':<24}{report['steps']:>14,}",
        f"{'least time of the run':<24}{report['days']:>9.1f} days",
    ]
    if report["uncounted"]:
        lines.append(f"note: {report['uncounted']}")
    return "\n".join(lines)


def _report(config: "FlowMoConfig", cost: "Cost", gpu: "Gpu") -> dict[str, Any]:
    halves = {
        "encoder": _forward(cost.encoder, cost.bytes_a_value, cost.seconds("encoder", gpu)),
        "decoder": _forward(cost.decoder, cost.bytes_a_value, cost.seconds("decoder", gpu)),
    }
    floor = halves["decoder"]["floor_seconds"] * cost.forwards
    rows = cost.decoder.rows
    return {
        "model": config.name,
        "gpu": gpu.name,
        "batch": rows,
        **halves,
        "forwards_a_picture": cost.forwards,
        "picture_flops": cost.decoder.flops // rows * cost.forwards,
        "decode_floor_seconds": floor,
        "decode_pictures_a_second": rows / floor,
        "encode_pictures_a_second": rows / halves["encoder"]["floor_seconds"],
        "modulation_parameters": cost.modulation_parameters,
        "memory_bytes": cost.memory_bytes,
        "fits": cost.memory_bytes <= gpu.memory_bytes,
    }


def _prior_report(config: "PriorConfig", cost: "PriorCost", gpu: "Gpu") -> dict[str, Any]:
    floor = cost.seconds(gpu) * cost.forwards
    rows = cost.forward.rows
    return {
        "model": config.name,
        "gpu": gpu.name,
        "batch": rows,
        "prior": _forward(cost.forward, cost.bytes_a_value, cost.seconds(gpu)),
        "steps": cost.steps,
        "forwards_a_picture": cost.forwards,
        "picture_flops": cost.forward.flops // rows * cost.forwards,
        "generate_floor_seconds": floor,
        "generate_pictures_a_second": rows / floor,
        "memory_bytes": cost.memory_bytes,
        "fits": cost.memory_bytes <= gpu.memory_bytes,
    }


def _forward(cost: "ForwardCost", bytes_a_value: int, floor: float) -> dict[str, Any]:
    return {
        "parameters": cost.parameters,
        "flops": cost.flops,
        "linear_flops": cost.linear_flops,
        "attention_flops": cost.attention_flops,
        "weight_bytes": cost.parameters * bytes_a_value,
        "activation_bytes": cost.activation_bytes,
        "floor_seconds": floor,
    }


def _table(report: dict[str, Any]) -> str:
    parts = [part for part in ("encoder", "decoder", "prior") if part in report]
    lines = [f"{report['model']}, batch {report['batch']}, {report['gpu']}", ""]
    lines.append(f"{'one forward of the':<24}" + "".join(f"{part:>14}" for part in parts))
    for label, key, unit in (
        ("parameters read", "parameters", ""),
        ("operations", "flops", "FLOP"),
        ("  in linears", "linear_flops", "FLOP"),
        ("  in attention", "attention_flops", "FLOP"),
        ("weights", "weight_bytes", "B"),
        ("activations moved", "activation_bytes", "B"),
        ("least time", "floor_seconds", "s"),
    ):
        values = (_short(report[part][key], unit) for part in parts)
        lines.append(f"{label:<24}" + "".join(f"{value:>14}" for value in values))
    fits = "fits" if report["fits"] else "does not fit"
    picture = (
        f"{report['forwards_a_picture']} forwards of the {parts[-1]}, "
        f"{_short(report['picture_flops'], 'FLOP')}"
    )
    if "steps" in report:
        picture += f", in {report['steps']} steps"
        floor = (
            f"{_short(report['generate_floor_seconds'], 's')} a batch, "
            f"{report['generate_pictures_a_second']:.4g} pictures' tokens/s generated"
        )
    else:
        floor = (
            f"{_short(report['decode_floor_seconds'], 's')} a batch, "
            f"{report['decode_pictures_a_second']:.4g} pictures/s decoded, "
            f"{report['encode_pictures_a_second']:.4g} encoded"
        )
    lines += [
        "",
        f"{'a picture':<24}{picture}",
        f"{'at the least time':<24}{floor}",
        f"{'memory of a replica':<24}{_short(report['memory_bytes'], 'B')}: {fits}",
    ]
    return "\n".join(lines)


def _short(value: float, unit: str) -> str:
    """Four digits and a prefix: 3.603 TFLOP, 0.46 ms."""
    for factor, prefix in _PREFIXES:
        if value >= factor:
            return f"{value / factor:.4g} {prefix}{unit}"
    return f"{value:.4g} {unit}"
