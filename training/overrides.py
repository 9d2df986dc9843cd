"""``key=value`` changes of a config, parsed by each field's type annotation.

``optimizer.learning_rate=3e-4``, ``model.encoder.width=192``, ``data.paths=a,b``,
``max_minutes=none``, ``compile=true``.
"""

import dataclasses
import difflib
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

from flowmo.model.errors import ConfigError
from flowmo.model.strict import to_dict
from flowmo.training.config import AnyTrainConfig

C = TypeVar("C", bound=AnyTrainConfig)

_FLAGS = {"true": True, "yes": True, "on": True, "1": True}
_FLAGS |= {"false": False, "no": False, "off": False, "0": False}


def field_types(config: Any) -> dict[str, Any]:
    """The dotted names of every leaf field of a (nested) config, with its annotation.

    A nested config is what the field holds, whatever its annotation leaves open.
    """
    leaves: dict[str, Any] = {}
    for name, annotation in typing.get_type_hints(type(config)).items():
        value = getattr(config, name)
        if dataclasses.is_dataclass(value):
            leaves |= {f"{name}.{k}": v for k, v in field_types(value).items()}
        else:
            leaves[name] = annotation
    return leaves


def parse_assignments(assignments: Sequence[str]) -> dict[str, str]:
    """Split ``["a.b=1", ...]``; a later assignment of a field wins.

    Raises:
        ConfigError: no ``=`` in an assignment.
    """
    parsed: dict[str, str] = {}
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        if not equals or not name.strip():
            raise ConfigError(
                f"an override is written field=value, such as optimizer.learning_rate=3e-4; "
                f"got {assignment!r}"
            )
        parsed[name.strip()] = text.strip()
    return parsed


def override(config: C, assignments: Mapping[str, str]) -> C:
    """A copy of a run with some fields replaced; all of them are validated together.

    Args:
        config: The run.
        assignments: The new values as text, by dotted field name.

    Raises:
        ConfigError: No such field (the message names the nearest), a text that is not of the
            field's type, or values that do not fit together.
    """
    leaves = field_types(config)
    data = to_dict(config)
    for name, text in assignments.items():
        if name not in leaves:
            raise ConfigError(_unknown(name, leaves))
        *parents, last = name.split(".")
        holder = data
        for parent in parents:
            holder = holder[parent]
        holder[last] = parse_text(leaves[name], text, path=name)
        # A config stores the rotary split that its head size implied; a new head size implies
        # a new one unless that is given too.
        rope = ".".join([*parents, "rope_dims"])
        if last in ("width", "heads") and rope in leaves and rope not in assignments:
            holder["rope_dims"] = []
    return type(config).from_dict(data)


def _unknown(name: str, leaves: Mapping[str, Any]) -> str:
    by_last = [leaf for leaf in leaves if leaf.rpartition(".")[2] == name.rpartition(".")[2]]
    near = list(dict.fromkeys(by_last + difflib.get_close_matches(name, leaves, n=3)))
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    return f"no field {name!r}; {hint}The fields are: {', '.join(sorted(leaves))}"


def parse_text(annotation: Any, text: str, *, path: str) -> Any:
    """Read one value of a type annotation from text.

    Raises:
        ConfigError: the text is not of that type.
    """
    origin, args = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        if type(None) in args and text.lower() in ("none", "null", ""):
            return None
        inner = [arg for arg in args if arg is not type(None)]
        return parse_text(inner[0], text, path=path)
    if origin is tuple:
        parts = [part.strip() for part in text.split(",")]
        return [parse_text(args[0], part, path=path) for part in parts if part]
    if origin is Literal or annotation is str:
        return text  # the strict reader checks the choices
    if annotation is bool:
        if text.lower() not in _FLAGS:
            raise ConfigError(f"{path} must be true or false, got {text!r}")
        return _FLAGS[text.lower()]
    assert annotation in (int, float), f"{path}: cannot read {annotation} from text"
    try:
        return annotation(text.replace("_", ""))
    except ValueError:
        kind = "a whole number" if annotation is int else "a number"
        raise ConfigError(f"{path} must be {kind}, got {text!r}") from None
