"""``flowmo inspect``: what a ``.flowmo`` file or a checkpoint is, and whether it is intact."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flowmo.model.container import Container
from flowmo.model.container_format import ContainerHeader
from flowmo.model.errors import ContainerMismatchError, NotAContainerError

if TYPE_CHECKING:
    from flowmo.model.checkpoint import CheckpointInfo
    from flowmo.model.config import FlowMoConfig

# What the JSON calls a thing, and what people do.
_LABELS = {
    "bits_per_pixel": "bits a pixel",
    "bytes": "size",
    "code_length": "tokens (K)",
    "fingerprint_computed": "recomputed",
    "fingerprint_verified": "verified",
    "group_bits": "bits an id (G)",
    "matches_checkpoint": "matches",
    "token_bits": "bits a token (D)",
}


def inspect_command(
    target: Annotated[
        str,
        typer.Argument(help="File of tokens, or any name of a checkpoint."),
    ],
    checkpoint: Annotated[
        str | None,
        typer.Option("--checkpoint", "-c", help="For a .flowmo file: was it made by this model?"),
    ] = None,
    preset: Annotated[
        str | None, typer.Option(help="What a published .pth file holds, such as lo or hi.")
    ] = None,
    verify: Annotated[
        bool,
        typer.Option(
            help="For a checkpoint: read all weights and compare the fingerprint with theirs."
        ),
    ] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
) -> None:
    """Show what a .flowmo file or a checkpoint holds; exit with 1 if it is not what it says."""
    path = Path(target)
    if path.is_file():
        report, problem = _container_report(path, checkpoint, preset)
    elif checkpoint is not None:
        raise typer.BadParameter(
            f"--checkpoint is for a .flowmo file, and {target} is none; leave it out"
        )
    else:
        report, problem = _checkpoint_report(target, preset, verify=verify)
    typer.echo(json.dumps(report, indent=2) if as_json else _table(report))
    if problem is not None:
        typer.secho(f"error: {problem}", err=True, fg=typer.colors.RED)
        raise typer.Exit(1)


def _container_report(
    path: Path, checkpoint: str | None, preset: str | None
) -> tuple[dict[str, Any], str | None]:
    data = path.read_bytes()
    try:
        container = Container.from_bytes(data)
    except NotAContainerError as error:
        raise NotAContainerError(
            f"{path}: {error} (checkpoints are inspected as folders; `flowmo convert` makes one "
            f"of a .pth file)"
        ) from error
    tokens = container.tokens
    report: dict[str, Any] = {
        "kind": "container",
        "path": str(path),
        "version": ContainerHeader.read(data).version,
        "fingerprint": container.fingerprint,
        "width": container.width,
        "height": container.height,
        "fit": container.fit,
        "tiles": tokens.tile_count,
        "tile_size": container.tile_size,
        "overlap": container.overlap,
        "code_length": tokens.code_length,
        "token_bits": tokens.token_bits,
        "group_bits": tokens.group_bits,
        "payload_bits": tokens.payload_bits,
        "payload_bytes": tokens.payload_bytes,
        "bits_per_pixel": tokens.payload_bits / (container.width * container.height),
        "bytes": len(data),
    }
    if checkpoint is None:
        return report, None
    info, fingerprint = _checkpoint_identity(checkpoint, preset)
    try:
        container.check_model(fingerprint, info.config)
    except ContainerMismatchError as error:
        return report | {"checkpoint": checkpoint, "matches_checkpoint": False}, str(error)
    return report | {"checkpoint": checkpoint, "matches_checkpoint": True}, None


def _checkpoint_identity(name: str, preset: str | None) -> "tuple[CheckpointInfo, str]":
    """A checkpoint and its stored fingerprint, or the computed one if none is stored."""
    from flowmo.model.checkpoint import inspect_checkpoint, load_weights
    from flowmo.model.fingerprint import compute_fingerprint
    from flowmo.model.hub import resolve_checkpoint

    info = inspect_checkpoint(resolve_checkpoint(name, preset=preset))
    return info, info.fingerprint or compute_fingerprint(info.config, load_weights(info))


def _checkpoint_report(
    target: str, preset: str | None, *, verify: bool
) -> tuple[dict[str, Any], str | None]:
    from math import prod

    from flowmo.model import registry
    from flowmo.model.checkpoint import inspect_checkpoint, load_weights
    from flowmo.model.fingerprint import compute_fingerprint
    from flowmo.model.hub import resolve_checkpoint
    from flowmo.model.prior.checkpoint import PRIOR_TYPE

    folder = resolve_checkpoint(target, preset=preset)
    if registry.model_type(folder) == PRIOR_TYPE:
        return _prior_report(folder, verify=verify)
    info = inspect_checkpoint(folder)
    sizes = {name: prod(shape) for name, shape in info.shapes.items()}
    halves = {
        half: sum(size for name, size in sizes.items() if name.startswith(f"{half}."))
        for half in ("encoder", "decoder")
    }
    report: dict[str, Any] = {
        "kind": "checkpoint",
        "path": str(info.folder),
        "name": info.config.name,
        "preset": _preset_of(info.config),
        "parameters": {"total": sum(sizes.values()), **halves},
        "dtype": info.dtype,
        "bytes": info.size,
        "files": len(info.files),
        "fingerprint": info.fingerprint,
    }
    problem = None
    if verify:
        found = compute_fingerprint(info.config, load_weights(info))
        report, problem = _verified(report, found)
    return report | {"config": info.config.to_dict()}, problem


def _prior_report(folder: Path, *, verify: bool) -> tuple[dict[str, Any], str | None]:
    from math import prod

    from flowmo.model.prior.checkpoint import Prior, inspect_prior

    info = inspect_prior(folder)
    report: dict[str, Any] = {
        "kind": "prior",
        "path": str(info.folder),
        "name": info.config.name,
        "tokenizer": info.config.tokenizer,
        "parameters": {"total": sum(prod(shape) for shape in info.shapes.values())},
        "dtype": info.dtype,
        "bytes": info.size,
        "files": len(info.files),
        "fingerprint": info.fingerprint,
    }
    problem = None
    if verify:
        report, problem = _verified(report, Prior.from_pretrained(folder).fingerprint())
    return report | {"config": info.config.to_dict()}, problem


def _verified(report: dict[str, Any], found: str) -> tuple[dict[str, Any], str | None]:
    """A report with the fingerprint that the weights give, and what is wrong with it."""
    stored = report["fingerprint"]
    # Nothing stored is nothing to contradict: the weights then name the model.
    verified = None if stored is None else stored == found
    problem = None
    if verified is False:
        problem = (
            f"config.json names the fingerprint {stored}, the weights give {found}; "
            f"one of them was changed or damaged: get the checkpoint again, or save it anew"
        )
    return report | {"fingerprint_computed": found, "fingerprint_verified": verified}, problem


def _preset_of(config: "FlowMoConfig") -> str | None:
    """The preset of the same network; name and sampler are not part of it."""
    from dataclasses import replace

    from flowmo.model.config import PRESETS

    for name, known in PRESETS.items():
        if replace(config, name=known.name, sampler=known.sampler) == known:
            return name
    return None


def _table(report: dict[str, Any]) -> str:
    rows: list[tuple[str, str]] = []
    for name, value in report.items():
        label = _LABELS.get(name, name.replace("_", " "))
        if name == "config":
            rows += [(f"config: {key}", _text(key, part)) for key, part in value.items()]
        else:
            rows.append((label, _text(name, value)))
    width = max(len(label) for label, _ in rows)
    return "\n".join(f"{label:<{width}}  {value}" for label, value in rows)


def _text(name: str, value: object) -> str:
    match value:
        case dict():
            return ", ".join(f"{key} {_text(key, part)}" for key, part in value.items())
        case list():
            return " ".join(_text(name, part) for part in value) or "none"
        case True | False:
            return "yes" if value else "NO"
        case None:
            return "none"
        case float() if name == "bits_per_pixel":
            return f"{value:.4f}"
        case int() if name == "bytes":
            return f"{value:,} bytes"
        case int():
            return f"{value:,}"
        case _:
            return str(value)
