"""docs/settings.md, made of the fields of ``Settings``.

    python -m tools.settings_page

writes it; a test compares.
"""

from pathlib import Path

from flowmo.service.setting import Panel, Setting, settings_of
from flowmo.service.settings import Settings

PAGE = Path(__file__).parents[1] / "docs" / "settings.md"

_HEAD = """# Settings of the server

Each is an option of `flowmo serve`, an environment variable, and a name in the config of a
[cluster](cluster.md). Options win over variables, which win over the defaults; a variable that is
empty counts as not set. A value that is out of its range ends the start with a line that says what
came and what was expected; a variable that looks like a setting and is none is named in a warning.

This page is made by `python -m tools.settings_page` of `service/settings.py`, as the options are.
"""

_ABOUT = {
    Panel.MODEL: "In a cluster's config these belong to a model (`models.NAME`), as those of the "
    "engine do; `models` is the file's own.",
    Panel.LIMITS: "In a cluster's config these are `settings`, for each gateway.",
}


def render() -> str:
    """The page's text."""
    parts = [_HEAD]
    for panel in Panel:
        about = f"{_ABOUT[panel]}\n\n" if panel in _ABOUT else ""
        rows = [_row(one) for one in settings_of(Settings) if one.panel == panel]
        table = ["| option | variable | default | takes | |", "|---|---|---|---|---|", *rows]
        parts.append(f"## {panel}\n\n{about}" + "\n".join(table) + "\n")
    return "\n".join(parts)


def _row(one: Setting) -> str:
    default = f"`{one.default}`" if one.default else one.unset
    cells = (f"`{one.flag}`", f"`{one.variable}`", default, one.expected, one.description)
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
