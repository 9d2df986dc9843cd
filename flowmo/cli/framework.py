"""How all commands of ``flowmo`` look and fail: plain help in sections, and errors of one line.

Help is plain text: rich would read ``[...]`` in it as markup and swallow it.
"""

import re
import sys
from collections.abc import Sequence
from importlib import metadata
from typing import Any

import typer
from typer.core import TyperGroup

from flowmo.cli.server_process import ServerError
from flowmo.client import ClientError
from flowmo.model.errors import FlowMoError

EXIT_FAILED = 1
EXIT_USAGE = 2

# What a user did or has; anything else is a bug and keeps its traceback.
_EXPECTED = (FlowMoError, ClientError, ServerError)
_DISTRIBUTION = "flowmo-serve"


class Commands(TyperGroup):
    """A group of commands: listed in the sections that they name, its errors in one line each."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Show the help, as a usage error, where no command is named."""
        if not args and self.no_args_is_help and not ctx.resilient_parsing:
            typer.echo(ctx.get_help(), err=True)
            ctx.exit(EXIT_USAGE)
        return super().parse_args(ctx, args)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """List the commands by section (``rich_help_panel``), in the order of registration."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for name in self.list_commands(ctx):
            command = self.get_command(ctx, name)
            if command is None or command.hidden:
                continue
            title = getattr(command, "rich_help_panel", None) or "Commands"
            summary = (command.help or "").partition("\n\n")[0]
            sections.setdefault(title, []).append((name, " ".join(summary.split())))
        widest = max((len(name) for rows in sections.values() for name, _ in rows), default=0)
        for title, rows in sections.items():
            with formatter.section(title):
                # Padded, so that the sections' columns are in line.
                formatter.write_dl([(name.ljust(widest), text) for name, text in rows])

    def invoke(self, ctx: Any) -> Any:
        """Run the command; what a user can mend is reported in one line, with exit status 1."""
        try:
            return super().invoke(ctx)
        except _EXPECTED as error:
            _fail(str(error), EXIT_FAILED, error)
        except ModuleNotFoundError as error:
            extra = extra_of(error.name or "")
            if extra is None:
                raise
            message = f"{error.name} is not installed: pip install '{_DISTRIBUTION}[{extra}]'"
            _fail(message, EXIT_FAILED, error)
        except OSError as error:
            if error.filename is None or error.strerror is None:
                raise
            _fail(f"{error.filename}: {error.strerror}", EXIT_FAILED, error)

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        """Run the command line; a mistake in it is reported in one line, with exit status 2."""
        options: dict[str, Any] = {"windows_expand_args": windows_expand_args, **extra}
        if not standalone_mode:
            return super().main(args, prog_name, complete_var, standalone_mode=False, **options)
        try:
            status = super().main(args, prog_name, complete_var, standalone_mode=False, **options)
        except typer.Abort:
            sys.exit(EXIT_FAILED)
        except typer.TyperException as error:
            typer.secho(f"error: {_usage(error)}", err=True, fg=typer.colors.RED)
            sys.exit(getattr(error, "exit_code", EXIT_USAGE))
        sys.exit(status if isinstance(status, int) else 0)


def examples(*lines: str) -> str:
    """The end of a command's help.

    Args:
        lines: Command lines; the tests parse them.
    """
    title = "Example:" if len(lines) == 1 else "Examples:"
    # The formatter rewraps a paragraph unless it begins with \b.
    return "\b\n" + "\n".join([title, *(f"  {line}" for line in lines)])


def extra_of(module: str) -> str | None:
    """The extra of this distribution that installs a module; None if no extra does."""
    try:
        requirements = metadata.requires(_DISTRIBUTION) or []
    except metadata.PackageNotFoundError:
        return None
    wanted = _canonical(module.partition(".")[0])
    for line in requirements:
        match = re.match(r"([\w.-]+).*extra == ['\"]([\w-]+)['\"]", line)
        if match is not None and _canonical(match[1]) == wanted and match[2] != "dev":
            return match[2]
    return None


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _usage(error: typer.TyperException) -> str:
    """One line of what is wrong, and where the help is."""
    message = error.format_message() if hasattr(error, "format_message") else str(error)
    # "Invalid value: " without the name of a parameter says nothing.
    text = " ".join(message.removeprefix("Invalid value: ").split())
    ctx = getattr(error, "ctx", None)
    return text if ctx is None else f"{text.rstrip('.')} ({ctx.command_path} --help)"


def _fail(message: str, status: int, error: Exception) -> None:
    typer.secho(f"error: {message}", err=True, fg=typer.colors.RED)
    raise typer.Exit(status) from error
