"""Tensors of the Open Inference Protocol: in JSON, or as raw bytes behind it (binary extension).

JSON of ``Inference-Header-Content-Length`` bytes, then each binary tensor, little-endian; an
element of datatype BYTES is its length in 4 bytes and then itself.
"""

import math
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field, ValidationError

from flowmo.service.errors import InvalidFieldsError, TensorError
from flowmo.service.http.json_bodies import (
    MAX_OPTION_VALUES,
    MAX_VALUES,
    check_structure,
    field_problems,
)
from flowmo.service.http.oip.shared_memory import REGION

NUMBERS = {"UINT8": "u1", "UINT16": "<u2", "INT32": "<i4", "INT64": "<i8", "UINT64": "<u8"}
BYTES = "BYTES"
# Far above any request that a body may hold; they bound the work that a hostile shape makes.
MAX_ELEMENTS = 2**27
MAX_DIMENSIONS = 8
MAX_BYTES_ELEMENTS = 4096
_LENGTH = struct.Struct("<I")

Parameter = bool | int | float | str


class InputHeader(BaseModel):
    """A tensor that came, without its bytes if these are binary."""

    name: str = Field(max_length=64)
    shape: list[int] = Field(max_length=MAX_DIMENSIONS)
    datatype: str = Field(max_length=16)
    parameters: dict[str, Parameter] = {}
    data: list[Any] | None = None


class OutputHeader(BaseModel):
    """A tensor that is wanted."""

    name: str = Field(max_length=64)
    parameters: dict[str, Parameter] = {}


class InferRequest(BaseModel):
    """The JSON of a request."""

    id: str | None = Field(default=None, max_length=256)
    parameters: dict[str, Parameter] = {}
    inputs: list[InputHeader] = Field(min_length=1, max_length=16)
    outputs: list[OutputHeader] | None = Field(default=None, max_length=16)


class InferAnswer(BaseModel):
    """The JSON of a response."""

    model_name: str
    model_version: str
    id: str | None = None
    parameters: dict[str, Parameter] = {}
    outputs: list[dict[str, Any]] = []


@dataclass(frozen=True, slots=True)
class Tensor:
    """A named tensor of a request or an answer.

    Attributes:
        name: The tensor's name in its model.
        shape: The size of each dimension.
        values: An array of that shape, or the elements of a BYTES tensor in their order.
    """

    name: str
    shape: tuple[int, ...]
    values: NDArray[Any] | list[bytes]

    @property
    def datatype(self) -> str:
        """The name of the element type in the protocol."""
        if isinstance(self.values, list):
            return BYTES
        kind = self.values.dtype.newbyteorder("<")
        return next(name for name, code in NUMBERS.items() if np.dtype(code) == kind)


@dataclass(frozen=True, slots=True)
class Parsed:
    """A request and its tensors by name."""

    request: InferRequest
    tensors: Mapping[str, Tensor]


@dataclass(frozen=True, slots=True)
class Placement:
    """Where an output goes.

    Attributes:
        binary: Whether its bytes follow the JSON.
        region: The parameters that name a place in shared memory; None if it is in the answer.
    """

    binary: bool
    region: Mapping[str, Parameter] | None = None


# Reads a tensor's bytes from where its parameters say.
ReadRegion = Callable[[dict[str, Parameter]], bytes]


def parse(
    body: bytes,
    header_length: str | None,
    *,
    max_values: int = MAX_VALUES,
    read_region: ReadRegion | None = None,
) -> Parsed:
    """Parse the body of a request.

    Args:
        body: The whole body.
        header_length: The value of ``Inference-Header-Content-Length``; None is JSON only.
        max_values: The most values that the JSON may have beside options.
        read_region: Reads tensors that are in shared memory; by default there are none.

    Raises:
        TensorError: The tensors do not fit their headers.
        InvalidFieldsError: The JSON is no request.
    """
    length = len(body)
    if header_length is not None:
        if not header_length.isdecimal() or int(header_length[:12]) > length:
            raise TensorError(
                f"Inference-Header-Content-Length must be 0 to {length}, the body's length, "
                f"got {header_length[:20]!r}"
            )
        length = int(header_length)
    text = body if length == len(body) else body[:length]
    check_structure(text, max_values + MAX_OPTION_VALUES)
    try:
        request = InferRequest.model_validate_json(text)
    except ValidationError as error:
        raise InvalidFieldsError(field_problems(error, "body")) from None
    rest = memoryview(body)[length:]
    tensors: dict[str, Tensor] = {}
    for header in request.inputs:
        if header.name in tensors:
            raise TensorError(f"the input {header.name!r} is there twice")
        size = header.parameters.get("binary_data_size")
        if REGION in header.parameters and read_region is not None:
            data = memoryview(read_region(header.parameters))
            tensors[header.name] = from_bytes(header, data)
            continue
        if size is None:
            tensors[header.name] = from_json(header)
            continue
        if not isinstance(size, int) or not 0 <= size <= len(rest):
            raise TensorError(
                f"{header.name}: binary_data_size must be 0 to {len(rest)}, the bytes that are "
                f"left, got {size!r}"
            )
        tensors[header.name] = from_bytes(header, rest[:size])
        rest = rest[size:]
    if len(rest):
        raise TensorError(f"{len(rest)} bytes follow the last binary tensor")
    return Parsed(request, tensors)


def _count(header: InputHeader) -> int:
    if any(size < 0 for size in header.shape):
        raise TensorError(f"{header.name}: the shape {header.shape} has negative sizes")
    # Also without the sizes that are 0: numpy has a limit there, too.
    if math.prod(size for size in header.shape if size) > MAX_ELEMENTS:
        raise TensorError(
            f"{header.name}: the shape {header.shape} is too large, at most {MAX_ELEMENTS} "
            f"elements are read"
        )
    count = math.prod(header.shape)
    if header.datatype not in {*NUMBERS, BYTES}:
        raise TensorError(
            f"{header.name}: the datatypes read here are {', '.join(NUMBERS)} and {BYTES}, got "
            f"{header.datatype!r}"
        )
    return count


def from_bytes(header: InputHeader, data: memoryview) -> Tensor:
    """A tensor whose values came as raw bytes.

    Raises:
        TensorError: The bytes do not fit the header.
    """
    count, shape = _count(header), tuple(header.shape)
    if header.datatype == BYTES:
        return Tensor(header.name, shape, _elements(header, data, count))
    dtype = np.dtype(NUMBERS[header.datatype])
    if len(data) != count * dtype.itemsize:
        raise TensorError(
            f"{header.name}: {header.datatype} {header.shape} is {count * dtype.itemsize} bytes, "
            f"got {len(data)}"
        )
    return Tensor(header.name, shape, np.frombuffer(data, dtype).reshape(shape))


def _elements(header: InputHeader, data: memoryview, count: int) -> list[bytes]:
    if count > MAX_BYTES_ELEMENTS:
        raise TensorError(
            f"{header.name}: {count} elements are announced, at most {MAX_BYTES_ELEMENTS} are read"
        )
    found: list[bytes] = []
    at = 0
    while at < len(data) and len(found) < count:
        end = at + _LENGTH.size
        length = _LENGTH.unpack(data[at:end])[0] if end <= len(data) else 0
        if end + length > len(data):
            raise TensorError(f"{header.name}: element {len(found)} is longer than the tensor")
        found.append(bytes(data[end : end + length]))
        at = end + length
    if len(found) != count or at != len(data):
        raise TensorError(
            f"{header.name}: the shape {header.shape} asks for {count} elements in {len(data)} "
            f"bytes; {len(found)} take {at}"
        )
    return found


def from_json(header: InputHeader) -> Tensor:
    """A tensor whose values came as a list.

    Raises:
        TensorError: The values do not fit the header.
    """
    count, shape = _count(header), tuple(header.shape)
    if header.data is None:
        raise TensorError(f"{header.name}: there is neither data nor binary_data_size")
    flat = list(_flat(header.data))
    if len(flat) != count:
        raise TensorError(
            f"{header.name}: the shape {header.shape} asks for {count} elements, got {len(flat)}"
        )
    if header.datatype == BYTES:
        if not all(isinstance(value, str) for value in flat):
            raise TensorError(f"{header.name}: BYTES in JSON are strings")
        return Tensor(header.name, shape, [value.encode() for value in flat])
    if not all(type(value) is int for value in flat):
        raise TensorError(f"{header.name}: {header.datatype} in JSON are whole numbers")
    try:
        values = np.array(flat, NUMBERS[header.datatype])
    except OverflowError:
        raise TensorError(
            f"{header.name}: a number is out of the range of {header.datatype}"
        ) from None
    return Tensor(header.name, shape, values.reshape(shape))


def _flat(data: Sequence[Any], depth: int = 0) -> Iterator[Any]:
    if depth > MAX_DIMENSIONS:
        raise TensorError(f"lists are nested deeper than {MAX_DIMENSIONS}")
    for value in data:
        if isinstance(value, list):
            yield from _flat(value, depth + 1)
        else:
            yield value


@dataclass(frozen=True, slots=True)
class Encoded:
    """The body of an answer.

    Attributes:
        body: The whole body.
        header_length: The bytes of its JSON; None if there is nothing else.
    """

    body: bytes
    header_length: int | None


def encode(
    answer: InferAnswer, outputs: Sequence[Tensor], placements: Sequence[Placement]
) -> Encoded:
    """Make the body of an answer.

    Args:
        answer: The JSON of the answer, without its outputs.
        outputs: The tensors of the answer.
        placements: Where each of them goes; those in shared memory are there already.

    Raises:
        TensorError: A tensor that is to be JSON has bytes that are no text.
    """
    tail: list[bytes] = []
    for tensor, where in zip(outputs, placements, strict=True):
        item: dict[str, Any] = {
            "name": tensor.name,
            "datatype": tensor.datatype,
            "shape": list(tensor.shape),
        }
        if where.region is not None:
            item["parameters"] = dict(where.region)
        elif where.binary:
            data = raw(tensor)
            item["parameters"] = {"binary_data_size": len(data)}
            tail.append(data)
        else:
            item["data"] = _listed(tensor)
        answer.outputs.append(item)
    head = answer.model_dump_json(exclude_none=True).encode()
    if not tail:
        return Encoded(head, None)
    return Encoded(b"".join([head, *tail]), len(head))


def raw(tensor: Tensor) -> bytes:
    """The bytes of a tensor's values, in their order."""
    if isinstance(tensor.values, list):
        return b"".join(_LENGTH.pack(len(value)) + value for value in tensor.values)
    return tensor.values.astype(tensor.values.dtype.newbyteorder("<")).tobytes()


def _listed(tensor: Tensor) -> list[Any]:
    if not isinstance(tensor.values, list):
        listed: list[Any] = tensor.values.ravel().tolist()
        return listed
    try:
        return [value.decode() for value in tensor.values]
    except UnicodeDecodeError:
        raise TensorError(
            f"{tensor.name}: its bytes are no text, which JSON needs; ask for it with the "
            f"parameter binary_data"
        ) from None
