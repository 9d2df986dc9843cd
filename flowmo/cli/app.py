"""All commands of ``flowmo``."""

from collections.abc import Callable
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from flowmo._version import __version__
from flowmo.cli.adm import evaluate_samples_command, statistics_command
from flowmo.cli.compiling import build_engine_command, export_command
from flowmo.cli.convert import convert_command
from flowmo.cli.cost import cost_command
from flowmo.cli.demo import demo_command
from flowmo.cli.doctor import doctor_command
from flowmo.cli.evaluate import evaluate_command
from flowmo.cli.evaluate_generation import evaluate_generation_command
from flowmo.cli.experiment_tables import experiment_app
from flowmo.cli.fetch import fetch_command
from flowmo.cli.framework import Commands, examples
from flowmo.cli.generate import generate_command
from flowmo.cli.inspect_ import inspect_command
from flowmo.cli.keys import keys_app
from flowmo.cli.release import release_command
from flowmo.cli.serve import serve_command
from flowmo.cli.serve_options import SettingsCommand
from flowmo.cli.sweep import sweep_command
from flowmo.cli.tokenize_dataset import tokenize_dataset_command
from flowmo.cli.tokens import detokenize_command, reconstruct_command, tokenize_command
from flowmo.cli.train import train_command

_EXIT_STATUS = (
    "\b\nExit status: 0 done; 1 something failed, and is named; 2 the command line is wrong;\n"
    "130 interrupted (flowmo train --resume goes on)."
)

app = typer.Typer(
    name="flowmo",
    cls=Commands,
    help="FlowMo: images to compact tokens and back.",
    epilog=_EXIT_STATUS,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"max_content_width": 100},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"flowmo-serve {__version__}")
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    pass


def _add(
    section: str,
    name: str,
    command: Callable[..., Any],
    *lines: str,
    cls: type[TyperCommand] | None = None,
) -> None:
    app.command(name, cls=cls, rich_help_panel=section, epilog=examples(*lines))(command)


_USE = "Use a model"
_add(_USE, "demo", demo_command, "flowmo demo", "flowmo demo photo.jpg --out results")
_add(
    _USE,
    "tokenize",
    tokenize_command,
    "flowmo tokenize photo.jpg",
    "flowmo tokenize photos/ --out tokens/ --url http://127.0.0.1:8000",
)
_add(
    _USE,
    "detokenize",
    detokenize_command,
    "flowmo detokenize photo.jpg.flowmo --steps 8 --seed 1",
    "flowmo detokenize tokens/ --out images/ --format webp",
)
_add(
    _USE,
    "reconstruct",
    reconstruct_command,
    "flowmo reconstruct photo.jpg --out again.png",
    "flowmo reconstruct photos/ --checkpoint ksarge/FlowMo:flowmo_lo.pth --preset lo",
)
_add(
    _USE,
    "generate",
    generate_command,
    "flowmo generate --class scenes",
    "flowmo generate --class surfaces --tokens generated/scenes-0.flowmo --keep 0-31 --out edited/",
    "flowmo generate --prior runs/prior/best --checkpoint runs/lo/export --class cat --count 4",
)

_SERVE = "Serve"
_add(
    _SERVE,
    "serve",
    serve_command,
    "flowmo serve",
    "flowmo serve --checkpoint owner/name --host 0.0.0.0 --api-keys-file keys.toml",
    cls=SettingsCommand,
)
app.add_typer(keys_app, name="keys", rich_help_panel=_SERVE)
_add(
    _SERVE,
    "doctor",
    doctor_command,
    "flowmo doctor",
    "flowmo doctor --checkpoint checkpoints/tiny --url http://127.0.0.1:8000",
)

_TRAIN = "Train and evaluate"
_add(
    _TRAIN,
    "train",
    train_command,
    "flowmo train finetune --data photos/",
    "flowmo train tiny-demo --data photos/ --out runs/tiny --resume",
)
_add(
    _TRAIN,
    "tokenize-dataset",
    tokenize_dataset_command,
    "flowmo tokenize-dataset photos/ --out tokens/ --checkpoint tiny --labels folder --flips",
)
_add(
    _TRAIN,
    "evaluate",
    evaluate_command,
    "flowmo evaluate checkpoints/tiny --data photos/ --out evaluation --against codec:webp",
)
_add(
    _TRAIN,
    "evaluate-generation",
    evaluate_generation_command,
    "flowmo evaluate-generation runs/prior/best --tokenizer runs/lo/export "
    "--reference VIRTUAL_imagenet256_labeled.npz --out generation --temperature 0.9,1,1.1",
)
_add(
    _TRAIN,
    "evaluate-samples",
    evaluate_samples_command,
    "flowmo evaluate-samples generated/ --reference VIRTUAL_imagenet256_labeled.npz --device cuda",
)
_add(
    _TRAIN,
    "statistics",
    statistics_command,
    "flowmo statistics imagenet-train.tar --out imagenet256.npz --device cuda",
)
_add(
    _TRAIN,
    "sweep",
    sweep_command,
    "flowmo sweep checkpoints/tiny --data photos/ --steps 1,2,4,8 --guidance 1,1.5",
)
app.add_typer(experiment_app, name="experiment", rich_help_panel=_TRAIN)
_add(
    _TRAIN,
    "release",
    release_command,
    "flowmo release runs/tiny release/ --license apache-2.0 --push owner/name",
)

_CHECKPOINTS = "Checkpoints"
_add(
    _CHECKPOINTS,
    "inspect",
    inspect_command,
    "flowmo inspect photo.jpg.flowmo",
    "flowmo inspect checkpoints/tiny --json",
)
_add(
    _CHECKPOINTS,
    "convert",
    convert_command,
    "flowmo convert flowmo_lo.pth checkpoints/lo --preset lo",
)
_add(
    _CHECKPOINTS,
    "fetch",
    fetch_command,
    "flowmo fetch s3://models/lo checkpoints/lo",
    "flowmo fetch ksarge/FlowMo:flowmo_lo.pth checkpoints/lo --preset lo",
)
_add(
    _CHECKPOINTS,
    "cost",
    cost_command,
    "flowmo cost --preset lo --gpu h100 --batch 16",
)

_COMPILE = "Compile"
_add(_COMPILE, "export", export_command, "flowmo export checkpoints/lo onnx/ --dtype float32")
_add(
    _COMPILE,
    "build-engine",
    build_engine_command,
    "flowmo build-engine checkpoints/lo --max-batch 16",
)


def main() -> None:
    """Run the ``flowmo`` script."""
    app(prog_name="flowmo")
