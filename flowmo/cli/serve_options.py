"""The options of ``flowmo serve``: made of the fields of ``Settings``, so that both agree."""

import inspect
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

if TYPE_CHECKING:
    from flowmo.service.setting import Setting
    from flowmo.service.settings import Settings

_SHORT = {"checkpoint": "-c"}
_GIVEN = "flowmo.cli.serve_options"


class SettingsCommand(TyperCommand):
    """A command with an option for each setting, made only when the command is used.

    ``flowmo --help`` waits for none of what defines the settings.
    """

    def get_params(self, ctx: Any) -> Any:
        """The settings' options, then the command's own."""
        return [*_options(), *super().get_params(ctx)]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """List the options by panel where the help is plain text."""
        panels: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            title = getattr(param, "rich_help_panel", None) or "Help"
            if (record := param.get_help_record(ctx)) is not None:
                panels.setdefault(title, []).append(record)
        for title, records in panels.items():
            with formatter.section(title):
                formatter.write_dl(records)

    def invoke(self, ctx: Any) -> Any:
        """Set the settings aside for :func:`given_settings`, and run the command."""
        values = {option.name: ctx.params.pop(option.name) for option in _options()}
        # Variables are shown by the options and read by Settings, the one place that knows how.
        ctx.meta[_GIVEN] = {
            name: value
            for name, value in values.items()
            if getattr(ctx.get_parameter_source(name), "name", "") == "COMMANDLINE"
        }
        return super().invoke(ctx)


def given_settings(context: typer.Context) -> "Settings":
    """Settings by command line, environment and defaults, in this order.

    A variable that looks like a setting and is none is named in a warning.

    Args:
        context: Of a command of the class :class:`SettingsCommand`.

    Raises:
        typer.Exit: A value is wrong; what is wrong has been printed, a line each.
    """
    from flowmo.service.setting import PREFIX, unknown_variables
    from flowmo.service.settings import Settings

    given: Mapping[str, Any] = context.meta[_GIVEN]
    is_json = given.get("log_format", os.environ.get(f"{PREFIX}LOG_FORMAT")) == "json"
    for sentence in unknown_variables(Settings, os.environ):
        if is_json:  # as is every line of that log
            line = {"level": "WARNING", "logger": _GIVEN, "message": sentence}
            typer.echo(json.dumps(line), err=True)
        else:
            typer.secho(f"warning: {sentence}", err=True, fg=typer.colors.YELLOW)
    with usage_errors():
        return Settings(**given)


@contextmanager
def usage_errors(within: str = "") -> Iterator[None]:
    """Print what is wrong with settings, a line each, and end with status 2.

    Args:
        within: What comes before the names of settings that are not of the command line.

    Raises:
        typer.Exit: The block raised a ``pydantic.ValidationError``.
    """
    from pydantic import ValidationError

    from flowmo.service.setting import problems
    from flowmo.service.settings import Settings

    try:
        yield
    except ValidationError as error:
        for problem in problems(error, Settings, within=within):
            typer.secho(f"error: {problem}", err=True, fg=typer.colors.RED)
        raise typer.Exit(2) from None


@cache
def _options() -> list[Any]:
    from flowmo.service.setting import settings_of
    from flowmo.service.settings import Settings

    def take() -> None: ...

    parameters = [_parameter(one) for one in settings_of(Settings)]
    take.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    take.__annotations__ = {one.name: one.annotation for one in parameters}
    maker = typer.Typer(add_completion=False)
    maker.command()(take)
    options: Any = typer.main.get_command(maker)
    return list(options.params)


def _parameter(one: "Setting") -> inspect.Parameter:
    """An option that carries its text as it is: Settings checks and converts it.

    Its default is there to be shown; what is not on the command line is left to Settings.
    """
    names = [one.flag]
    if one.is_switch:
        names = [f"{one.flag}/--no-{one.flag.removeprefix('--')}"]
    if one.name in _SHORT:
        names.append(_SHORT[one.name])
    option = typer.Option(
        *names,
        help=one.description,
        envvar=one.variable,
        show_envvar=True,
        show_default=one.unset or bool(one.default),
        metavar=one.kind if one.is_repeated else None if one.is_switch else f"<{one.kind}>",
        rich_help_panel=one.panel,
    )
    kind: Any = bool if one.is_switch else list[str] if one.is_repeated else str
    return inspect.Parameter(
        one.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=one.default == "true" if one.is_switch else one.default or None,
        annotation=Annotated[kind | None, option],
    )
