"""Whether a compiled half computes what PyTorch does, on one example, before it serves."""

import torch

from deploy.graphs import HALVES, Half, example, graph_of
from model.errors import CompilationError
from model.inference import InferenceModel, Steps

# Relative error (L2) of a half. Between two right ways to compute in bfloat16 there is about 0.01;
# a wrong one is off by 0.1 and more.
LIMITS = {torch.float32: 1e-3, torch.bfloat16: 0.04, torch.float16: 0.01}
FP8_LIMIT = 0.08


def relative_errors(steps: Steps, model: InferenceModel, *, rows: int = 2) -> dict[Half, float]:
    """|steps - PyTorch| / |PyTorch| of each half, in L2.

    Args:
        steps: to be judged.
        model: the same weights; its own modules are what they are compared with.
        rows: batch size.
    """
    errors: dict[Half, float] = {}
    for half in HALVES:
        inputs = example(model, half, rows)
        with torch.inference_mode():
            expected = graph_of(model, half)(*inputs)
            got = steps.encode(*inputs) if half == "encoder" else steps.velocity(*inputs)
        errors[half] = ((got.float() - expected).norm() / expected.norm()).item()
    return errors


def check(steps: Steps, model: InferenceModel, *, limit: float | None = None) -> dict[Half, float]:
    """The errors, if they are small.

    Args:
        steps: to be judged.
        model: what they are compared with.
        limit: of each error; by the model's dtype by default.

    Raises:
        CompilationError: one is too large, or not a number.
    """
    limit = LIMITS[model.dtype] if limit is None else limit
    errors = relative_errors(steps, model)
    for half, error in errors.items():
        if not error <= limit:
            raise CompilationError(
                f"the compiled {half} differs from PyTorch by {error:.2g} (at most {limit:g} is "
                f"right in {model.dtype}): it must not serve; export and build it again"
            )
    return errors
