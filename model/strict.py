"""Frozen dataclasses to JSON-safe dictionaries and back, by their type annotations.

Unknown fields, missing fields and values of another type are errors that name the field's path.
All configs are read by it: those of models, of training runs, and what is nested in them.
"""

import dataclasses
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

from flowmo.model.errors import ConfigError

T = TypeVar("T")


def to_dict(value: Any) -> Any:
    """Dataclasses to dictionaries and tuples to lists, recursively."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_dict(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, tuple):
        return [to_dict(item) for item in value]
    return value


def from_dict(
    cls: type[T],
    data: Mapping[str, Any],
    *,
    path: str = "",
    types: Mapping[str, type] | None = None,
) -> T:
    """Build the dataclass ``cls`` from :func:`to_dict`'s form.

    Args:
        cls: The dataclass to build.
        data: Its fields by name; those with a default may be left out.
        path: The dotted prefix that error messages put before a field's name.
        types: The types of fields whose annotation does not say enough, such as a field whose
            dataclass depends on another field's value.

    Raises:
        ConfigError: an unknown or missing field, or a value of a wrong type.
    """
    if not isinstance(data, Mapping):
        raise ConfigError(f"{path or cls.__name__} must be a mapping of fields, got {data!r}")
    hints = typing.get_type_hints(cls) | dict(types or {})
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    if surplus := sorted(set(data) - set(fields)):
        raise ConfigError(f"{path or cls.__name__} has no field {surplus}; it has {sorted(fields)}")
    required = (
        name
        for name, f in fields.items()
        if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    )
    if missing := sorted(set(required) - set(data)):
        raise ConfigError(f"{path or cls.__name__} lacks the fields {missing}")
    prefix = f"{path}." if path else ""
    return cls(
        **{name: coerce(hints[name], value, path=prefix + name) for name, value in data.items()}
    )


def coerce(annotation: Any, value: Any, *, path: str) -> Any:
    """Check a JSON-like value against an annotation, and convert lists to tuples.

    Args:
        annotation: A dataclass, a plain type, a ``Literal``, an optional or a ``tuple``.
        value: The value as JSON has it.
        path: The dotted name of the field, for error messages.

    Raises:
        ConfigError: the value is of another type.
    """
    origin, args = get_origin(annotation), get_args(annotation)
    if dataclasses.is_dataclass(annotation) and isinstance(annotation, type):
        return from_dict(annotation, value, path=path)
    if origin is Literal:
        if value not in args:
            raise ConfigError(f"{path} must be one of {list(args)}, got {value!r}")
        return value
    if origin in (Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        inner = [arg for arg in args if arg is not type(None)]
        assert len(inner) == 1, f"{path}: only optional unions are supported, got {annotation}"
        return coerce(inner[0], value, path=path)
    if origin is tuple:
        return _coerce_tuple(args, value, path=path)
    if annotation is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    # bool is a subclass of int, but a flag where a number belongs is a mistake.
    if not isinstance(value, annotation) or (isinstance(value, bool) and annotation is not bool):
        raise ConfigError(f"{path} must be of type {annotation.__name__}, got {value!r}")
    return value


def _coerce_tuple(args: tuple[Any, ...], value: Any, *, path: str) -> tuple[Any, ...]:
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise ConfigError(f"{path} must be a list, got {value!r}")
    items = [args[0]] * len(value) if args[-1] is Ellipsis else list(args)
    if len(items) != len(value):
        raise ConfigError(f"{path} must have {len(items)} values, got {value!r}")
    return tuple(
        coerce(kind, item, path=f"{path}[{i}]")
        for i, (kind, item) in enumerate(zip(items, value, strict=True))
    )
