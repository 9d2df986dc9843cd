"""Help and errors of every command: no text lost, an example for each, mistakes in one line."""

import inspect
import re
import shlex
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from flowmo.cli.app import app
from flowmo.cli.framework import Commands, extra_of
from flowmo.model.errors import ConfigError
from flowmo.service.settings import Settings

ROOT = Path(__file__).parents[2]
WIDE = 10_000
RUN = CliRunner()


def commands(group: Any, *path: str) -> Iterator[tuple[str, Any]]:
    """Every command that does something, by its full name."""
    for name, command in group.commands.items():
        if isinstance(command, Commands):
            yield from commands(command, *path, name)
        else:
            yield " ".join((*path, name)), command


GROUP: Any = typer.main.get_command(app)
COMMANDS = dict(commands(GROUP))


def words(text: str) -> str:
    return " ".join(text.split())


def help_of(name: str) -> str:
    arguments = [*name.split(), "--help"]
    result = RUN.invoke(app, arguments, terminal_width=WIDE, max_content_width=WIDE)
    assert result.exit_code == 0, result.output
    return words(result.stdout)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_loses_no_character(name: str) -> None:
    shown, command = help_of(name), COMMANDS[name]
    assert words(inspect.cleandoc(command.help)) in shown
    ctx = command.make_context(name, [], resilient_parsing=True)
    for param in command.get_params(ctx):
        if param.name == "help":
            continue
        assert param.help, f"{name}: {param.name} has no help"
        assert words(param.help) in shown
        if isinstance(param.envvar, str):
            assert f"[env var: {param.envvar}" in shown
        if isinstance(param.show_default, str):
            assert f"default: ({param.show_default})" in shown


def test_a_declared_help_is_what_is_shown() -> None:
    declared = "Brackets [env NAME; 64 MiB], [red]markup[/red] and :warning: stay."
    small = typer.Typer(cls=Commands, rich_markup_mode=None)

    @small.callback()
    def _common() -> None:
        """See [link]."""

    @small.command("do", rich_help_panel="Section [a]")
    def _do(value: str = typer.Option("", help=declared, show_default="a [b] c")) -> None:
        """Do [something]."""

    group = RUN.invoke(small, ["--help"], terminal_width=WIDE, max_content_width=WIDE).stdout
    assert "See [link]." in group
    assert re.search(r"Section \[a\]:\n +do +Do \[something\]\.", group)
    shown = RUN.invoke(small, ["do", "--help"], terminal_width=WIDE, max_content_width=WIDE).stdout
    assert "Do [something]." in shown
    assert f"{declared}  [default: (a [b] c)]" in shown


def test_every_setting_of_the_server_names_its_variable() -> None:
    shown = help_of("serve")
    command = COMMANDS["serve"]
    ctx = command.make_context("serve", [], resilient_parsing=True)
    settings = {param.name for param in command.get_params(ctx)} & set(Settings.model_fields)
    assert len(settings) > 20
    for name in settings:
        assert f"FLOWMO_{name.upper()}" in shown


def test_commands_are_listed_in_sections() -> None:
    result = RUN.invoke(app, ["--help"], terminal_width=WIDE, max_content_width=WIDE)
    sections = re.findall(r"^(\w[\w ]*):\n((?:  .*\n)+)", result.stdout, re.MULTILINE)
    listed = {line.split()[0]: title for title, rows in sections for line in rows.splitlines()}
    assert {name.split()[0] for name in COMMANDS} <= set(listed)
    assert listed["tokenize"] == listed["demo"] == "Use a model"
    assert listed["serve"] == listed["keys"] == "Serve"
    assert listed["train"] == listed["experiment"] == "Train and evaluate"
    assert "Commands" not in dict(sections)


def examples(name: str) -> list[str]:
    lines: list[str] = (COMMANDS[name].epilog or "").splitlines()
    return [line.strip() for line in lines if line.startswith("  flowmo ")]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_help_has_examples_that_parse(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("photo.jpg").touch()  # what an option says must exist
    shown = help_of(name)
    assert examples(name)
    for line in examples(name):
        assert line in shown
        assert line.startswith(f"flowmo {name}")
        _, *arguments = shlex.split(line.partition(" >> ")[0])
        ctx = COMMANDS[name].make_context(name, arguments[len(name.split()) :])
        assert not ctx.args


def test_the_page_of_commands_has_every_command_and_its_example() -> None:
    page = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in page.splitlines()
        if line.startswith("| `flowmo ")
    ]
    expected = [
        [f"`flowmo {name}`", words(command.help.partition("\n\n")[0]), f"`{examples(name)[-1]}`"]
        for name, command in COMMANDS.items()
    ]
    assert sorted(rows) == sorted(expected)


# --- errors -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--verbose"], "No such option: --verbose"),
        (["tokenise"], "Did you mean 'tokenize'"),
        (["tokenize"], "Missing argument"),
        (["tokenize", "a.png", "--fit", "tile"], "'tile' is not one of 'native', 'crop', 'pad', "),
        (["detokenize", "a", "--steps", "0"], "--steps"),
        (["demo", "no-such-file.jpg"], "no-such-file.jpg"),
        (["keys", "new", "a b"], "expected letters, digits"),
        (["keys", "old"], "No such command 'old'"),
        (["cost"], "--preset or --checkpoint"),
        (["convert", "a.pth", "out"], "--preset or by --config"),
        (["experiment", "wall-clock", "preset:lo"], "--out"),
    ],
)
def test_a_wrong_command_line_is_one_line_and_status_2(arguments: list[str], said: str) -> None:
    result = RUN.invoke(app, arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    assert said in line
    assert line.endswith(" --help)")


@pytest.mark.parametrize("arguments", [[], ["keys"], ["experiment"]])
def test_a_group_without_a_command_shows_its_help(arguments: list[str]) -> None:
    result = RUN.invoke(app, arguments)
    assert result.exit_code == 2
    assert result.stderr.startswith(" ".join(["Usage: flowmo", *arguments]))
    assert "Commands:" in result.stderr or "Serve:" in result.stderr


def raising(error: Exception) -> Any:
    small = typer.Typer(cls=Commands, rich_markup_mode=None, pretty_exceptions_enable=False)

    @small.callback()
    def _common() -> None:
        pass

    @small.command()
    def run() -> None:
        raise error

    return RUN.invoke(small, ["run"])


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ConfigError("steps must be 1 to 1000"), "steps must be 1 to 1000"),
        (PermissionError(13, "Permission denied", "a.flowmo"), "a.flowmo: Permission denied"),
        (
            ModuleNotFoundError("No module named 'torchmetrics'", name="torchmetrics.image"),
            "torchmetrics.image is not installed: pip install 'flowmo-serve[train]'",
        ),
    ],
)
def test_what_a_user_can_mend_is_one_line_and_status_1(error: Exception, said: str) -> None:
    result = raising(error)
    assert result.exit_code == 1
    assert result.stderr == f"error: {said}\n"


@pytest.mark.parametrize(
    "error", [ZeroDivisionError(), OSError("lost"), ModuleNotFoundError(name="misspelt")]
)
def test_a_bug_keeps_its_traceback(error: Exception) -> None:
    assert raising(error).exception is error


def test_extras_are_those_of_the_distribution() -> None:
    assert extra_of("onnxscript.rewriter") == "export"
    assert extra_of("torch_fidelity") == "train"
    assert extra_of("ray.serve") == "serve"
    assert extra_of("torch") is None
    extras = set(metadata.metadata("flowmo-serve").get_all("Provides-Extra") or ())
    assert {"export", "train", "serve"} <= extras
