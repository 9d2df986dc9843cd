"""What the protocol's models take and give, and the options among a request's parameters."""

from collections.abc import Collection
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field, ValidationError

from flowmo.imaging.fit import DEFAULT_SQUARE_FIT, Fit
from flowmo.imaging.reading import Pixels
from flowmo.imaging.writing import ImageFormat
from flowmo.model.config import FlowMoConfig
from flowmo.model.tokens import Tokens
from flowmo.service.engine.model_info import ModelInfo
from flowmo.service.errors import InvalidFieldsError, TensorError
from flowmo.service.http.json_bodies import field_problems
from flowmo.service.http.oip.shared_memory import OFFSET, REGION, SIZE
from flowmo.service.http.oip.tensors import (
    BYTES,
    NUMBERS,
    InferRequest,
    Parsed,
    Placement,
    Tensor,
)
from flowmo.service.http.wire.generate import GenerationOptions
from flowmo.service.http.wire.options import FitOptions, QualityOptions, SamplingOptions

TOKENIZE, DETOKENIZE, GENERATE = "tokenize", "detokenize", "generate"
PLATFORM = "flowmo"
# Parameters of the protocol and of Triton's client that ask for nothing here.
_IGNORED = {"binary_data_output", "priority", "timeout", "sequence_id", "sequence_start"} | {
    "sequence_end"
}
MAX_SEED = 2**63 - 1

O = TypeVar("O", bound=BaseModel)  # noqa: E741  (options)


class PictureParameters(SamplingOptions, QualityOptions):
    """Parameters of detokenize."""

    format: ImageFormat = Field(default="png", description="Of the output file.")


class GenerateParameters(GenerationOptions, QualityOptions):
    """Parameters of generate."""

    format: ImageFormat = Field(default="png", description="Of the output file.")


class ImageParameters(FitOptions):
    """Parameters of tokenize.

    A row of the tensor ``ids`` is one square, so that is what a picture becomes where ``ids`` are
    asked for and ``fit`` does not say otherwise; a container alone holds it as it is.
    """

    ids_datatype: Literal["INT32", "UINT16"] = Field(
        default="INT32", description="Of the output ids; UINT16 for ids of at most 16 bits."
    )

    def fit_for(self, outputs: Collection[str]) -> Fit:
        """What becomes of a picture: what was asked for, else what the outputs can hold."""
        if "fit" not in self.model_fields_set and "ids" in outputs:
            return DEFAULT_SQUARE_FIT
        return self.fit


def ids_dtype(options: ImageParameters, config: FlowMoConfig) -> type[np.integer[Any]]:
    """numpy's type of the output ids.

    Raises:
        TensorError: Ids of the model do not fit into what was asked for.
    """
    if options.ids_datatype == "INT32":
        return np.int32
    if config.group_bits > 16:
        raise TensorError(f"ids of {config.group_bits} bits do not fit into UINT16; take INT32")
    return np.uint16


def metadata(name: str, info: ModelInfo, versions: list[str]) -> dict[str, Any]:
    """Describe a model's tensors, of which each request has some, as the protocol has it."""
    config = info.config
    image = ("image", "UINT8", [-1, info.image_size, info.image_size, 3])
    ids = ("ids", "INT32", [-1, config.code_length, config.ids_per_token])
    container, file, error = (
        ("container", BYTES, [-1]),
        ("file", BYTES, [-1]),
        ("error", BYTES, [-1]),
    )
    seed, class_ = ("seed", "INT64", [-1]), ("class", BYTES, [-1])
    mask = ("mask", "UINT8", [-1, config.code_length])
    inputs, outputs = {
        TOKENIZE: ([image, file], [ids, container, error]),
        DETOKENIZE: ([ids, container, seed], [image, file, error]),
        GENERATE: ([class_, seed, ids, mask], [ids, container, image, file, error]),
    }[name]

    def described(tensors: list[tuple[str, str, list[int]]]) -> list[dict[str, Any]]:
        return [{"name": n, "datatype": d, "shape": s} for n, d, s in tensors]

    return {
        "name": name,
        "versions": versions,
        "platform": PLATFORM,
        "inputs": described(inputs),
        "outputs": described(outputs),
    }


def configuration(name: str, info: ModelInfo, max_rows: int) -> dict[str, Any]:
    """A model's configuration, as Triton's extension has it; shapes are those of a row.

    Args:
        name: The model's name in the protocol.
        info: The model that is served.
        max_rows: The most rows of one request.
    """
    described = metadata(name, info, [])

    def tensors(kind: str) -> list[dict[str, Any]]:
        return [
            {
                "name": one["name"],
                "data_type": "TYPE_STRING"
                if one["datatype"] == BYTES
                else f"TYPE_{one['datatype']}",
                "dims": one["shape"][1:] or [1],
            }
            for one in described[kind]
        ]

    return {
        "name": name,
        "platform": PLATFORM,
        "backend": PLATFORM,
        "max_batch_size": max_rows,
        # A request has some of the inputs.
        "input": [{**one, "optional": True} for one in tensors("inputs")],
        "output": tensors("outputs"),
    }


def options_of(request: InferRequest, kind: type[O]) -> O:
    """Validate the options among a request's parameters.

    Raises:
        InvalidFieldsError: An option is unknown or out of range.
    """
    given = {name: value for name, value in request.parameters.items() if name not in _IGNORED}
    try:
        return kind.model_validate(given)
    except ValidationError as error:
        raise InvalidFieldsError(field_problems(error, "parameters")) from None


def wanted_outputs(request: InferRequest, known: tuple[str, ...]) -> dict[str, Placement]:
    """The names of the wanted outputs, and where each goes.

    Returns:
        The first of ``known``, if the request names none.

    Raises:
        TensorError: The request names an output that there is not.
    """
    everything = bool(request.parameters.get("binary_data_output", False))
    if not request.outputs:
        return {known[0]: Placement(everything)}
    wanted = {}
    for output in request.outputs:
        if output.name not in known:
            raise TensorError(f"the outputs are {', '.join(known)}, got {output.name!r}")
        given = output.parameters
        region = {name: given[name] for name in (REGION, SIZE, OFFSET) if name in given}
        binary = bool(given.get("binary_data", everything))
        wanted[output.name] = Placement(binary, region if REGION in region else None)
    return wanted


def one_of(parsed: Parsed, first: str, second: str, also: tuple[str, ...] = ()) -> Tensor:
    """Find the one of two inputs that the request has.

    Args:
        parsed: The request and its tensors.
        first: The name of one input.
        second: The name of the other.
        also: The names of inputs that may stand beside either.

    Raises:
        TensorError: The request has neither, both, or an unknown input.
    """
    tensors = parsed.tensors
    unknown = tensors.keys() - {first, second, *also}
    if unknown or (first in tensors) == (second in tensors):
        raise TensorError(
            f"the inputs are {first} or {second}"
            f"{''.join(f', and {name}' for name in also)}; got {', '.join(sorted(tensors))}"
        )
    return tensors[first if first in tensors else second]


def elements(tensor: Tensor) -> list[bytes]:
    """The elements of a BYTES tensor.

    Raises:
        TensorError: The tensor holds numbers.
    """
    if not isinstance(tensor.values, list):
        raise TensorError(f"{tensor.name} must be {BYTES}, got {tensor.datatype}")
    return tensor.values


def numbers(tensor: Tensor, shape: tuple[int, ...], *datatypes: str) -> NDArray[Any]:
    """The values of a tensor of numbers.

    Args:
        tensor: A tensor as the request has it.
        shape: The shape of one row.
        datatypes: The datatypes that may be used.

    Raises:
        TensorError: The tensor has another shape or datatype.
    """
    values = tensor.values
    if isinstance(values, list) or tensor.datatype not in datatypes or values.shape[1:] != shape:
        sizes = ", ".join(map(str, ("rows", *shape)))
        raise TensorError(
            f"{tensor.name} must be {' or '.join(datatypes)} [{sizes}], got {tensor.datatype} "
            f"{list(tensor.shape)}"
        )
    if not values.ndim:
        raise TensorError(f"{tensor.name} needs a dimension for its rows")
    return values


def pixels_of(tensor: Tensor, info: ModelInfo) -> list[Pixels]:
    """The square pictures of a tensor, one a row, each uint8 [S, S, 3].

    Raises:
        TensorError: The tensor has another shape or datatype.
    """
    size = info.image_size
    return list(numbers(tensor, (size, size, 3), "UINT8"))


def seeds_of(parsed: Parsed, rows: int, default: int) -> list[int]:
    """A seed for each row.

    Args:
        parsed: The request and its tensors.
        rows: The number of rows.
        default: The seed of every row of a request without seeds.

    Raises:
        TensorError: There is not one seed for each row, or one is out of range.
    """
    if "seed" not in parsed.tensors:
        return [default] * rows
    tensor = parsed.tensors["seed"]
    trailing = (1,) if len(tensor.shape) == 2 else ()
    values = numbers(tensor, trailing, *(name for name in NUMBERS if name != "UINT8")).ravel()
    seeds = [int(value) for value in values]
    if len(seeds) != rows or not all(0 <= seed <= MAX_SEED for seed in seeds):
        raise TensorError(f"seed must be {rows} numbers of 0 to {MAX_SEED}, one a row")
    return seeds


def token_sets_of(tensor: Tensor, info: ModelInfo) -> list[Tokens]:
    """The token sets of a tensor of ids, one a row.

    Raises:
        TensorError: The tensor has another shape or datatype, or ids out of range.
    """
    config = info.config
    shape = (config.code_length, config.ids_per_token)
    values = numbers(tensor, shape, "INT32", "INT64", "UINT16")
    limit = 2**config.group_bits
    if values.size and not ((values >= 0) & (values < limit)).all():
        raise TensorError(f"ids must be 0 to {limit - 1}")
    return [Tokens(ids=ids, group_bits=config.group_bits) for ids in values.astype(np.int32)]
