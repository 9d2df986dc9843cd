"""Whether a compiled half computes what the network means, on one example, before it serves."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from flowmo.deploy.graphs import Half, example, graph_of
from flowmo.model.errors import CompilationError
from flowmo.model.inference import InferenceModel, Steps

# A right way to compute is about as far from float32 as PyTorch's own in the same precision; where
# that is float32 itself, only the order of sums differs.
FACTOR = 1.5
FP8_FACTOR = 6.0
SLACK = 1e-3


@dataclass(frozen=True, kw_only=True, slots=True)
class Errors:
    """The errors of one half, relative to float32 (L2).

    Attributes:
        compiled: The error of what is judged.
        plain: The error of PyTorch in the model's own precision.
    """

    compiled: float
    plain: float


def relative_errors(steps: Steps, model: InferenceModel, *, rows: int = 2) -> dict[Half, Errors]:
    """Measure how far something compiled, and PyTorch itself, are from the same weights in float32.

    Args:
        steps: What is judged.
        model: A model of the same weights; its own modules are what they are compared with.
        rows: The batch size.
    """
    return {half: _judged(steps, _reference(model, half, rows), rows) for half in model.halves}


class _Reference(NamedTuple):
    """A half's example, and what it should give."""

    half: Half
    inputs: tuple[Tensor, ...]
    plain: Tensor
    exact: Tensor


def _reference(model: InferenceModel, half: Half, rows: int) -> _Reference:
    inputs = example(model, half, rows)
    graph = graph_of(model, half)
    with torch.inference_mode():
        plain = graph(*inputs)
        exact = plain if model.dtype == torch.float32 else _wide(graph, inputs)
    return _Reference(half, inputs, plain, exact)


def _judged(steps: Steps, reference: _Reference, rows: int) -> Errors:
    """The errors of the reference's first rows."""
    plain, exact = reference.plain[:rows], reference.exact[:rows]
    with torch.inference_mode():
        got = _of(steps, reference.half)(*(value[:rows] for value in reference.inputs))
    return Errors(compiled=_distance(got, exact), plain=_distance(plain, exact))


def _of(steps: Steps, half: Half) -> Callable[..., Tensor]:
    return steps.encode if half == "encoder" else steps.velocity


def _wide(graph: torch.nn.Module, inputs: Sequence[Tensor]) -> Tensor:
    wide = copy.deepcopy(graph).float()
    # What the graph casts its input to.
    wide.dtype = torch.float32  # type: ignore[assignment]
    output: Tensor = wide(*(value.float() for value in inputs))
    return output


def _distance(value: Tensor, exact: Tensor) -> float:
    return float((value.float() - exact).norm() / exact.norm())


def check(
    steps: Steps, model: InferenceModel, buckets: Sequence[int] = (2,), *, factor: float = FACTOR
) -> dict[Half, Errors]:
    """Measure the errors at each batch size, and refuse what is further off than it may be.

    Each batch size has kernels, or a graph, of its own, and may be wrong by itself.

    Args:
        steps: What is judged.
        model: The model that it is compared with.
        buckets: The batch sizes that will be asked for.
        factor: How many times PyTorch's own error may be reached.

    Returns:
        The errors of each half at the batch size where they are nearest to their limit.

    Raises:
        CompilationError: An error is larger, or not a number.
    """
    worst: dict[Half, Errors] = {}
    for half in model.halves:
        reference, nearest = _reference(model, half, max(buckets)), -1.0
        for rows in buckets:
            error = _judged(steps, reference, rows)
            limit = factor * error.plain + SLACK
            if not error.compiled <= limit:
                raise CompilationError(
                    f"the compiled {half} at batch size {rows} is {error.compiled:.2g} away from "
                    f"float32, PyTorch in {model.dtype} is {error.plain:.2g} (at most {limit:.2g} "
                    f"is right): it must not serve; export and build it again"
                )
            if error.compiled / limit > nearest:
                worst[half], nearest = error, error.compiled / limit
    return worst
