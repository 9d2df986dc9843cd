"""All commands of ``flowmo``, and how their errors are told."""

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from flowmo._version import __version__
from flowmo.cli.compiling import build_engine_command, export_command
from flowmo.cli.convert import convert_command
from flowmo.cli.cost import cost_command
from flowmo.cli.demo import demo_command
from flowmo.cli.doctor import doctor_command
from flowmo.cli.evaluate import evaluate_command
from flowmo.cli.experiment import experiment_app
from flowmo.cli.inspect_ import inspect_command
from flowmo.cli.keys import keys_app
from flowmo.cli.release import release_command
from flowmo.cli.serve import serve_command
from flowmo.cli.serve_options import SettingsCommand
from flowmo.cli.server_process import ServerError
from flowmo.cli.sweep import sweep_command
from flowmo.cli.tokens import detokenize_command, reconstruct_command, tokenize_command
from flowmo.cli.train import train_command
from flowmo.client import ClientError
from flowmo.model.errors import FlowMoError

# What a user did or has; anything else is a bug and keeps its traceback.
_EXPECTED = (FlowMoError, ClientError, ServerError)


class _Commands(TyperGroup):
    """Tells expected errors in one line."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except _EXPECTED as error:
            typer.secho(f"error: {error}", err=True, fg=typer.colors.RED)
            raise typer.Exit(1) from error


app = typer.Typer(
    name="flowmo",
    cls=_Commands,
    help="FlowMo: images to compact tokens and back.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"flowmo-serve {__version__}")
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show and exit."),
    ] = False,
) -> None:
    pass


for name, command in (
    ("demo", demo_command),
    ("tokenize", tokenize_command),
    ("detokenize", detokenize_command),
    ("reconstruct", reconstruct_command),
    ("inspect", inspect_command),
    ("convert", convert_command),
    ("export", export_command),
    ("build-engine", build_engine_command),
    ("cost", cost_command),
    ("evaluate", evaluate_command),
    ("doctor", doctor_command),
    ("sweep", sweep_command),
    ("train", train_command),
    ("release", release_command),
):
    app.command(name)(command)


app.command("serve", cls=SettingsCommand)(serve_command)
app.add_typer(keys_app, name="keys")
app.add_typer(experiment_app, name="experiment")


def main() -> None:
    """Entry point of the ``flowmo`` script."""
    app()
