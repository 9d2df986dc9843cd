"""``flowmo keys``: keys for clients, and the lines by which a server knows them."""

from typing import Annotated

import typer

from flowmo.cli.framework import Commands, examples

keys_app = typer.Typer(cls=Commands, help="Make API keys for a server.", no_args_is_help=True)


@keys_app.callback()
def _common() -> None:
    pass


@keys_app.command("new", epilog=examples("flowmo keys new alice >> keys.toml"))
def new_command(
    name: Annotated[
        str, typer.Argument(help="Name of whoever will use it: letters, digits, . _ -")
    ],
) -> None:
    """Make a key: the key itself goes to the client, the lines into the server's file."""
    from flowmo.service.http.keys import digest_of, is_well_formed, new_key

    if not is_well_formed(name):
        raise typer.BadParameter(f"expected letters, digits and . _ -, at most 64, got {name!r}")
    key = new_key()
    typer.echo(f"key (shown once): {key}\n", err=True)
    typer.echo(f'["{name}"]\nsha256 = "{digest_of(key)}"')
