"""Whether a compiled half computes what the network means, on one example, before it serves."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass

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
    errors: dict[Half, Errors] = {}
    for half in model.halves:
        inputs = example(model, half, rows)
        graph = graph_of(model, half)
        with torch.inference_mode():
            plain = graph(*inputs)
            exact = plain if model.dtype == torch.float32 else _wide(graph, inputs)
            got = _of(steps, half)(*inputs)
        errors[half] = Errors(compiled=_distance(got, exact), plain=_distance(plain, exact))
    return errors


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


def check(steps: Steps, model: InferenceModel, *, factor: float = FACTOR) -> dict[Half, Errors]:
    """Measure the errors, and refuse what is further off than it may be.

    Args:
        steps: What is judged.
        model: The model that it is compared with.
        factor: How many times PyTorch's own error may be reached.

    Raises:
        CompilationError: An error is larger, or not a number.
    """
    errors = relative_errors(steps, model)
    for half, error in errors.items():
        limit = factor * error.plain + SLACK
        if not error.compiled <= limit:
            raise CompilationError(
                f"the compiled {half} is {error.compiled:.2g} away from float32, PyTorch in "
                f"{model.dtype} is {error.plain:.2g} (at most {limit:.2g} is right): it must not "
                f"serve; export and build it again"
            )
    return errors
