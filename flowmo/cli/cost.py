"""``flowmo cost``: what a model costs to run, from its config alone."""

import json
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from flowmo.model.errors import ConfigError

if TYPE_CHECKING:
    from flowmo.deploy.cost import Cost, Gpu
    from flowmo.model.config import FlowMoConfig


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
        str | None, typer.Option(help="Name of a preset, such as lo, hi, small or tiny.")
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
    cost = cost_of(config, batch, bytes_a_value=2 if dtype == "bfloat16" else 4)
    report = _report(config, cost, GPUS[gpu.lower()])
    typer.echo(json.dumps(report, indent=2) if as_json else _table(report))


def _config(preset: str | None, checkpoint: str | None) -> "FlowMoConfig":
    from flowmo.model.config import preset as preset_of
    from flowmo.model.flowmo import FlowMo

    if (preset is None) == (checkpoint is None):
        raise typer.BadParameter("give either --preset or --checkpoint, or --train")
    if preset is not None:
        return preset_of(preset)
    assert checkpoint is not None
    return FlowMo.from_pretrained(checkpoint).config


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
    halves = {}
    for half, of_half in (("encoder", cost.encoder), ("decoder", cost.decoder)):
        halves[half] = {
            "parameters": of_half.parameters,
            "flops": of_half.flops,
            "linear_flops": of_half.linear_flops,
            "attention_flops": of_half.attention_flops,
            "weight_bytes": of_half.parameters * cost.bytes_a_value,
            "activation_bytes": of_half.activation_bytes,
            "floor_seconds": cost.seconds("encoder" if half == "encoder" else "decoder", gpu),
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


def _table(report: dict[str, Any]) -> str:
    lines = [f"{report['model']}, batch {report['batch']}, {report['gpu']}", ""]
    lines.append(f"{'one forward of the':<24}{'encoder':>14}{'decoder':>14}")
    for label, key, unit in (
        ("parameters read", "parameters", ""),
        ("operations", "flops", "FLOP"),
        ("  in linears", "linear_flops", "FLOP"),
        ("  in attention", "attention_flops", "FLOP"),
        ("weights", "weight_bytes", "B"),
        ("activations moved", "activation_bytes", "B"),
        ("least time", "floor_seconds", "s"),
    ):
        values = (_short(report[half][key], unit) for half in ("encoder", "decoder"))
        lines.append(f"{label:<24}" + "".join(f"{value:>14}" for value in values))
    fits = "fits" if report["fits"] else "does not fit"
    picture = (
        f"{report['forwards_a_picture']} forwards of the decoder, "
        f"{_short(report['picture_flops'], 'FLOP')}"
    )
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
