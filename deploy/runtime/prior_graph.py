"""The graph of a prior: one forward of it, exported as an ONNX file of its own."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from flowmo.deploy.export import Attention, check_dtype, difference, write
from flowmo.deploy.onnx_files import OnnxFile, file_name
from flowmo.model.errors import CompilationError
from flowmo.model.prior.checkpoint import Prior
from flowmo.model.prior.config import PriorConfig


class PriorGraph(nn.Module):
    """Turns ids, int64 [B, N], and classes, int64 [B], into the logits, float32 [B, N, V].

    Args:
        prior: The prior that is exported; shared, not copied.
    """

    def __init__(self, prior: Prior) -> None:
        super().__init__()
        self.network = prior

    def forward(self, ids: Tensor, classes: Tensor) -> Tensor:
        """See the class."""
        logits: Tensor = self.network(ids, classes)
        return logits.float()


def prior_example(config: PriorConfig, rows: int) -> tuple[Tensor, Tensor]:
    """Make inputs as a prior sees them: ids of which some are the mask, and classes or none.

    Args:
        config: The prior's config.
        rows: The batch size B.

    Returns:
        Ids, int64 [B, N], and classes, int64 [B], on the CPU.
    """
    generator = torch.Generator().manual_seed(rows)
    ids = torch.randint(config.mask_id + 1, (rows, config.length), generator=generator)
    masked = torch.rand(rows, config.length, generator=generator) < 0.5
    classes = torch.randint(config.null_class + 1, (rows,), generator=generator)
    return ids.masked_fill(masked, config.mask_id), classes


def export_prior(prior: Prior, folder: str | Path, *, attention: Attention = "fused") -> OnnxFile:
    """Write a prior as ``prior.onnx``; the batch size stays free.

    Args:
        prior: A prior on the CPU, in float32 or bfloat16, in which the graph computes; the logits
            are float32.
        folder: The folder of the file; made if it is not there.
        attention: See :func:`flowmo.deploy.export.export`.

    Raises:
        CompilationError: The dtype is not exported, onnxscript is missing, or PyTorch cannot.
    """
    dtype = prior.bias.dtype
    check_dtype(dtype)
    file = OnnxFile(
        path=Path(folder) / file_name("prior"),
        half="prior",
        fingerprint=prior.fingerprint(),
        config=prior.config,
        dtype=str(dtype).removeprefix("torch."),
        attention=attention,
    )
    return write(file, PriorGraph(prior).eval(), prior_example(prior.config, 2), attention)


def difference_of_prior(file: OnnxFile, prior: Prior, *, batches: Sequence[int] = (1, 3)) -> float:
    """Measure how far ONNX Runtime on this CPU is from PyTorch on the same inputs.

    Args:
        file: A prior exported in float32.
        prior: The prior that was exported, in float32.
        batches: The batch sizes to compare at.

    Returns:
        The largest absolute difference of a logit.

    Raises:
        CompilationError: The file is of another prior or dtype.
    """
    if file.half != "prior":
        raise CompilationError(f"{file.path} is of the {file.half}, not of a prior")
    file.check_weights(prior.fingerprint())
    inputs = [prior_example(prior.config, rows) for rows in batches]
    return difference(file, PriorGraph(prior), inputs, prior.bias.dtype)
