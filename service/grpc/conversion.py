"""From the protocol's gRPC messages to its requests and answers, and from errors to statuses."""

from collections.abc import Iterator, Mapping, Sequence
from http import HTTPStatus
from typing import Any

import grpc
from pydantic import ValidationError

from flowmo.service.errors import InvalidFieldsError, TensorError
from flowmo.service.grpc.messages import DATA_TYPES, MESSAGES
from flowmo.service.http.json_bodies import field_problems
from flowmo.service.http.oip.infer import Inferred
from flowmo.service.http.oip.shared_memory import REGION
from flowmo.service.http.oip.tensors import (
    BYTES,
    InferRequest,
    InputHeader,
    Parameter,
    Parsed,
    ReadRegion,
    Tensor,
    from_bytes,
    from_json,
    raw,
)

# Where the values of each datatype are that come as numbers and not as bytes.
_CONTENTS = {
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT64": "uint64_contents",
    BYTES: "bytes_contents",
}

_CODES = {
    HTTPStatus.UNAUTHORIZED: grpc.StatusCode.UNAUTHENTICATED,
    HTTPStatus.NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    HTTPStatus.CONFLICT: grpc.StatusCode.FAILED_PRECONDITION,
    HTTPStatus.TOO_MANY_REQUESTS: grpc.StatusCode.RESOURCE_EXHAUSTED,
    499: grpc.StatusCode.CANCELLED,
    HTTPStatus.INTERNAL_SERVER_ERROR: grpc.StatusCode.INTERNAL,
    HTTPStatus.SERVICE_UNAVAILABLE: grpc.StatusCode.UNAVAILABLE,
    HTTPStatus.GATEWAY_TIMEOUT: grpc.StatusCode.DEADLINE_EXCEEDED,
}


def code_of(status: int) -> grpc.StatusCode:
    """The gRPC status of an error, by the HTTP status that the other routes answer it with."""
    return _CODES.get(status, grpc.StatusCode.INVALID_ARGUMENT)


def parsed(message: Any, read_region: ReadRegion) -> Parsed:
    """Read the tensors of a ``ModelInferRequest``.

    Args:
        message: The request.
        read_region: Reads tensors that are in shared memory.

    Raises:
        TensorError: The tensors do not fit their headers.
        InvalidFieldsError: The message is no request.
    """
    try:
        request = InferRequest.model_validate(
            {
                "id": message.id or None,
                "parameters": _parameters(message.parameters),
                "inputs": [
                    {
                        "name": one.name,
                        "shape": list(one.shape),
                        "datatype": one.datatype,
                        "parameters": _parameters(one.parameters),
                    }
                    for one in message.inputs
                ],
                "outputs": [
                    {"name": one.name, "parameters": _parameters(one.parameters)}
                    for one in message.outputs
                ]
                or None,
            }
        )
    except ValidationError as error:
        raise InvalidFieldsError(field_problems(error, "request")) from None
    contents = iter(message.raw_input_contents) if message.raw_input_contents else None
    tensors: dict[str, Tensor] = {}
    for header, sent in zip(request.inputs, message.inputs, strict=True):
        if header.name in tensors:
            raise TensorError(f"the input {header.name!r} is there twice")
        if REGION in header.parameters:
            data = memoryview(read_region(header.parameters))
            tensors[header.name] = from_bytes(header, data)
        elif contents is not None:
            tensors[header.name] = from_bytes(header, _next(contents, header))
        else:
            tensors[header.name] = _from_contents(header, sent.contents)
    if contents is not None and next(contents, None) is not None:
        raise TensorError("there are more raw_input_contents than inputs")
    return Parsed(request, tensors)


def _next(contents: Iterator[bytes], header: InputHeader) -> memoryview:
    data = next(contents, None)
    if data is None:
        raise TensorError(f"{header.name}: there are fewer raw_input_contents than inputs")
    return memoryview(data)


def _from_contents(header: InputHeader, contents: Any) -> Tensor:
    if header.datatype not in _CONTENTS:
        raise TensorError(
            f"{header.name}: the datatypes read here are {', '.join(_CONTENTS)}, got "
            f"{header.datatype!r}"
        )
    values: Sequence[Any] = getattr(contents, _CONTENTS[header.datatype])
    if header.datatype != BYTES:
        return from_json(header.model_copy(update={"data": list(values)}))
    packed = b"".join(len(one).to_bytes(4, "little") + one for one in values)
    return from_bytes(header, memoryview(packed))


def _parameters(given: Mapping[str, Any]) -> dict[str, Parameter]:
    found: dict[str, Parameter] = {}
    for name, value in given.items():
        choice = value.WhichOneof("choice")
        if choice is not None:
            found[name] = getattr(value, choice)
    return found


def set_parameter(parameter: Any, value: Parameter) -> None:
    """Put a value into an ``InferParameter``."""
    kinds = {bool: "bool_param", int: "int64_param", float: "double_param", str: "string_param"}
    setattr(parameter, kinds[type(value)], value)


def answer_of(found: Inferred, *, model: str, version: str, id: str) -> Any:  # noqa: A002
    """The ``ModelInferResponse`` of an inference.

    Args:
        found: What it gave.
        model: The model's name in the protocol.
        version: Its version.
        id: The id that the client gave the request.
    """
    answer = MESSAGES["ModelInferResponse"](model_name=model, model_version=version, id=id)
    for tensor, where in zip(found.outputs, found.placements, strict=True):
        output = answer.outputs.add(
            name=tensor.name, datatype=tensor.datatype, shape=list(tensor.shape)
        )
        for name, value in (where.region or {}).items():
            set_parameter(output.parameters[name], value)
        # One for each output, so that their places agree.
        answer.raw_output_contents.append(b"" if where.region is not None else raw(tensor))
    return answer


def config_of(described: Mapping[str, Any]) -> Any:
    """The ``ModelConfigResponse`` of a configuration as JSON has it."""
    config = dict(described)
    for kind in ("input", "output"):
        config[kind] = [
            {**one, "data_type": DATA_TYPES[one["data_type"].removeprefix("TYPE_")]}
            for one in config[kind]
        ]
    return MESSAGES["ModelConfigResponse"](config=config)


def statistics_of(described: Sequence[Mapping[str, Any]]) -> Any:
    """The ``ModelStatisticsResponse`` of statistics as JSON has them."""
    models = [
        {name: value for name, value in one.items() if name != "batch_stats"} for one in described
    ]
    return MESSAGES["ModelStatisticsResponse"](model_stats=models)
