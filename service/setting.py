"""One setting: its field, and what its option, its documentation and its errors say of it."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from enum import StrEnum
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin

import annotated_types
from pydantic import BaseModel, Field, ValidationError
from pydantic.config import JsonDict
from pydantic.fields import FieldInfo

PREFIX = "FLOWMO_"
# Variables of this prefix that are not the server's: the client's key, the folder of converted
# checkpoints, the file of a node's log, and those that Kubernetes sets for a Service whose name
# begins with "flowmo".
_OTHERS = re.compile(
    r"FLOWMO_(API_KEY|CACHE|LOG_FILE|(.+_)?(SERVICE_(HOST|PORT.*)|PORT(_\d+_.+)?))"
)


class Panel(StrEnum):
    """Groups of settings, in the order of ``flowmo serve --help``."""

    MODEL = "Model"
    NETWORK = "Network"
    LIMITS = "Limits"
    ENGINE = "Engine"
    LOGGING = "Logging"


def setting(
    panel: Panel, description: str, *, default: Any, unset: str = "", flag: str = "", **limits: Any
) -> Any:
    """A field that is an option of ``flowmo serve``, too.

    Args:
        panel: The group that it is shown in.
        description: A sentence for the help and the documentation.
        default: The value when nobody says.
        unset: What is done then, if the default is None or empty.
        flag: The option's name, if it is not made of the field's.
        limits: ``ge``, ``gt``, ``le``, ``lt`` or ``pattern``, as of :func:`pydantic.Field`.
    """
    shown: JsonDict = {"panel": panel.value, "unset": unset, "flag": flag}
    return Field(default=default, description=description, json_schema_extra=shown, **limits)


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """What people read of a field.

    Attributes:
        name: The field's name, which is also its name in a Ray config.
        panel: The group that it is shown in.
        flag: The option of ``flowmo serve``.
        variable: The environment variable.
        description: A sentence.
        kind: The type of its values, as a placeholder.
        expected: The values that it takes, in words.
        default: The default as text; empty if there is none.
        unset: What is done without a value, if there is no default.
        is_switch: The option takes no value.
        is_repeated: The option may be given several times.
    """

    name: str
    panel: Panel
    flag: str
    variable: str
    description: str
    kind: str
    expected: str
    default: str
    unset: str
    is_switch: bool
    is_repeated: bool


def settings_of(model: type[BaseModel]) -> tuple[Setting, ...]:
    """The settings of a model whose fields are all made by :func:`setting`, panel by panel."""
    found = [_describe(name, field) for name, field in model.model_fields.items()]
    return tuple(one for panel in Panel for one in found if one.panel == panel)


def _describe(name: str, field: FieldInfo) -> Setting:
    extra = field.json_schema_extra
    assert isinstance(extra, dict), name
    kind, noun = _type(field)
    return Setting(
        name=name,
        panel=Panel(str(extra["panel"])),
        flag=str(extra["flag"]) or "--" + name.replace("_", "-"),
        variable=PREFIX + name.upper(),
        description=field.description or "",
        kind=kind,
        expected=noun + _range(field),
        default=_default(name, field),
        unset=str(extra["unset"]),
        is_switch=field.annotation is bool,
        is_repeated=kind in (_NAMED, _ORIGIN),
    )


_NAMED = "NAME=CHECKPOINT"
_ORIGIN = "ORIGIN"
_TYPES = {
    bool: ("true|false", "true or false"),
    int: ("int", "an integer"),
    float: ("float", "a number"),
    Path: ("path", "a path"),
    str: ("str", "a text"),
}


def _type(field: FieldInfo) -> tuple[str, str]:
    kinds = [kind for kind in (get_args(field.annotation) or ()) if kind is not NoneType]
    if get_origin(field.annotation) is Literal:
        choices = [str(choice) for choice in get_args(field.annotation)]
        return "|".join(choices), "one of " + ", ".join(choices)
    if get_origin(field.annotation) is dict:
        return _NAMED, "NAME=CHECKPOINT,NAME=CHECKPOINT"
    if get_origin(field.annotation) is tuple:
        return _ORIGIN, "ORIGIN,ORIGIN"
    kind = kinds[0] if kinds else field.annotation
    return _TYPES[kind]  # type: ignore[index]


def _range(field: FieldInfo) -> str:
    least = most = None
    for limit in field.metadata:
        if isinstance(limit, annotated_types.Ge):
            least = f"from {limit.ge}"
        elif isinstance(limit, annotated_types.Gt):
            least = f"above {limit.gt}"
        elif isinstance(limit, annotated_types.Le):
            most = f"to {limit.le}"
    if least and not most:
        least = least.replace("from", "of at least")
    return "".join(f" {part}" for part in (least, most) if part)


def _default(name: str, field: FieldInfo) -> str:
    value = field.default
    if value is None or value in ("", {}, ()):
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    mebi = 1024 * 1024
    if name.endswith("_bytes") and value >= mebi and value % mebi == 0:
        return f"{value} ({value // mebi} MiB)"
    return f"{value:g}" if isinstance(value, float) else str(value)


# --- what is wrong ------------------------------------------------------------------------------


def problems(error: ValidationError, model: type[BaseModel], *, within: str = "") -> list[str]:
    """What is wrong with values, a line for each: the setting, what came, what was expected.

    Args:
        error: The error of the model's validation.
        model: The model.
        within: What comes before the names, if the values are not of a command line.
    """
    known = {one.name: one for one in settings_of(model)}
    return [_problem(dict(found), known, within) for found in error.errors()]


def _problem(found: dict[str, Any], known: Mapping[str, Setting], within: str) -> str:
    name = str(found["loc"][0]) if found["loc"] else ""
    if name not in known:
        return f"{within}{name}: there is no such setting{_suggestion(name, known)}"
    one = known[name]
    label = f"{within}{name}" if within else f"{one.flag} ({one.variable})"
    if found["type"] == "value_error":  # a sentence of our own
        return f"{label}: {found['ctx']['error']}"
    text = f"{label}: expected {one.expected}, got {found['input']!r}"
    if str(found["input"]).startswith("tcp://"):
        text += (
            "; Kubernetes sets that for a Service named flowmo unless enableServiceLinks is false"
        )
    return text


def _suggestion(name: str, known: Mapping[str, Setting]) -> str:
    near = get_close_matches(name, known, n=1, cutoff=0.75)
    return f"; did you mean {near[0]}?" if near else ""


def unknown_variables(model: type[BaseModel], environment: Mapping[str, str]) -> Iterator[str]:
    """A sentence for each variable that looks like a setting and is none.

    Args:
        model: The model.
        environment: Variables of the process.
    """
    known = {one.variable: one for one in settings_of(model)}
    for name in environment:
        if name.startswith(PREFIX) and name not in known and not _OTHERS.fullmatch(name):
            yield f"{name} is set, but is no setting of this version{_suggestion(name, known)}"
