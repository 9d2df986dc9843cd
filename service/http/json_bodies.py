"""JSON from strangers: its structure is counted before anything is built of it.

A parser makes an object of each value, thirty or more bytes for two of text, and holds the
interpreter's lock meanwhile, so that a thread is no help: 32 MiB of ``[[],[],…]`` would stop every
other request for seconds and take 1.6 GB. Text without much structure, such as a picture in
base64, is harmless at any size that is accepted.
"""

import binascii
from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from flowmo.service.errors import FieldProblem, InvalidFieldsError, MalformedBodyError

M = TypeVar("M", bound=BaseModel)

# Options, whatever the route; a list of preview steps is the longest.
MAX_OPTION_VALUES = 256
# Whatever the models would take: a parser holds the interpreter's lock for 50 to 130 ns a value.
MAX_VALUES = 2**19
# Strings are copied piece by piece between escapes. Base64 has one for 64 characters at most, where
# its client escapes slashes.
_BYTES_PER_ESCAPE = 16
_ESCAPES = 4096

_SLICE_BYTES = 2**20
_WHITESPACE = b" \t\r\n"


def check_structure(data: bytes, most: int) -> None:
    """Refuse a text with more values than the route can use.

    Every value but the first follows a comma or an opening bracket, so these are counted, those
    inside of strings too; counting stops where there are too many.

    Args:
        data: The JSON text.
        most: The most values.

    Raises:
        InvalidFieldsError: There are more, or strings with more escapes than any text needs.
    """
    most = min(most, MAX_VALUES)
    text = np.frombuffer(data, np.uint8)
    found, escapes = 0, 0
    for begin in range(0, len(text), _SLICE_BYTES):
        part = text[begin : begin + _SLICE_BYTES]
        for mark in b",[{":
            found += int(np.count_nonzero(part == mark))
        escapes += int(np.count_nonzero(part == ord("\\")))
        if found > most:
            raise _refused(
                f"has more than the {most:,} values that can be used here; send fewer, or the "
                f"binary form"
            )
    if escapes > max(_ESCAPES, len(data) // _BYTES_PER_ESCAPE):
        raise _refused("has strings full of escapes; write their characters as they are")


def _refused(message: str) -> InvalidFieldsError:
    return InvalidFieldsError([FieldProblem(field="body", message=message)])


def parse_json(kind: type[M], data: bytes, *, most: int = MAX_OPTION_VALUES) -> M:
    """Parse a message from JSON text.

    Args:
        kind: The message's type.
        data: The JSON text.
        most: The most values that the text may have.

    Raises:
        MalformedBodyError: The text is not JSON.
        InvalidFieldsError: The text is JSON, but not such a message, or has more values.
    """
    check_structure(data, most)
    try:
        return kind.model_validate_json(data)
    except ValidationError as error:
        found = _errors(error)
        if any(item["type"] == "json_invalid" for item in found):
            raise MalformedBodyError("the body is not valid JSON") from None
        raise InvalidFieldsError(_described(found, "body")) from None


def field_problems(error: ValidationError, where: str) -> list[FieldProblem]:
    """List what pydantic found, without any of the input.

    Args:
        error: The error that pydantic raised.
        where: The part of the request that was validated, e.g. ``body``.
    """
    return _described(_errors(error), where)


def _errors(error: ValidationError) -> list[ErrorDetails]:
    # Once for each error: it copies the names of unknown fields, which may be megabytes long.
    return error.errors(include_url=False, include_context=False, include_input=False)


def _described(found: Sequence[ErrorDetails], where: str) -> list[FieldProblem]:
    return [
        FieldProblem(
            field=".".join((where, *(str(part)[:64] for part in item["loc"][:8]))),
            message=item["msg"],
        )
        for item in found[:16]
    ]


def from_base64(text: str) -> bytes:
    """Decode base64 of the standard alphabet, padded; whitespace is left out.

    In slices, between which other threads have their turn and which are no copy of the whole; and
    without a list of lines: there may be millions.

    Raises:
        ValueError: The text is something else.
    """
    parts, rest = [], b""
    for begin in range(0, len(text), _SLICE_BYTES):
        rest += text[begin : begin + _SLICE_BYTES].encode("ascii").translate(None, _WHITESPACE)
        # Groups of four; the last is kept for what may follow it.
        whole = max(0, len(rest) - 1) // 4 * 4
        if rest[:whole].endswith(b"="):
            raise ValueError("padding before the end")
        parts.append(binascii.a2b_base64(rest[:whole], strict_mode=True))
        rest = rest[whole:]
    parts.append(binascii.a2b_base64(rest, strict_mode=True))
    return b"".join(parts)
