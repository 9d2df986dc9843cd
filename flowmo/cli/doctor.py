"""``flowmo doctor``: whether this machine can serve, and what to do if not."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flowmo.cli.local_backend import DEMO_MODEL

if TYPE_CHECKING:
    from flowmo.doctor.checks import Finding

_COLOURS = {"OK": "green", "WARN": "yellow", "FAIL": "red"}


def doctor_command(
    checkpoint: Annotated[
        str | None,
        typer.Option(
            "--checkpoint",
            "-c",
            help="Checkpoint folder, hub repository, or OWNER/NAME:FILE.pth of one.",
            show_default="the demo model",
        ),
    ] = None,
    preset: Annotated[
        str | None, typer.Option(help="What a published .pth file holds, such as lo or hi.")
    ] = None,
    engine_cache: Annotated[
        Path | None, typer.Option(help="Folder of engines.", show_default="that of flowmo serve")
    ] = None,
    max_batch: Annotated[
        int, typer.Option(help="Rows of the largest batch, for the GPU's memory.", min=1)
    ] = 16,
    host: Annotated[
        str | None, typer.Option(help="Address to listen on.", show_default="that of flowmo serve")
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(
            help="Port to listen on.", show_default="that of flowmo serve", min=0, max=65535
        ),
    ] = None,
    url: Annotated[
        str | None, typer.Option(help="A running server to look at, as http://127.0.0.1:8000.")
    ] = None,
    api_key: Annotated[
        str | None, typer.Option(envvar="FLOWMO_API_KEY", help="API key of a running server.")
    ] = None,
    training: Annotated[
        bool, typer.Option("--training", help="Check what training and evaluation need, too.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
) -> None:
    """Check this machine: Python, GPU, TensorRT, checkpoint, engines, limits, a running server.

    Ends with status 1 if something will not work.
    """
    from flowmo.doctor.checks import examine
    from flowmo.doctor.probe import Wanted, probe
    from flowmo.service.settings import DEFAULT_HOST, DEFAULT_PORT

    wanted = Wanted(
        checkpoint=checkpoint or DEMO_MODEL,
        preset=preset,
        cache=engine_cache,
        batch=max_batch,
        host=host or DEFAULT_HOST,
        # A server that runs already has the default port.
        port=(0 if url else DEFAULT_PORT) if port is None else port,
        url=url,
        api_key=api_key,
        training=training,
    )
    findings = examine(probe(wanted))
    if as_json:
        typer.echo(json.dumps({name: asdict(found) for name, found in findings.items()}, indent=2))
    else:
        _show(findings)
    if any(finding.level == "FAIL" for finding in findings.values()):
        raise typer.Exit(1)


def _show(findings: "dict[str, Finding]") -> None:
    for name, finding in findings.items():
        level = typer.style(f"{finding.level:<4}", fg=_COLOURS[finding.level])
        typer.echo(f"{level}  {name:<14} {finding.text}")
        if finding.mend:
            typer.echo(f"{'':<6}{'':<14} -> {finding.mend}")
    count = dict.fromkeys(_COLOURS, 0)
    for finding in findings.values():
        count[finding.level] += 1
    typer.echo(f"{count['OK']} well, {count['WARN']} to mind, {count['FAIL']} to mend")
