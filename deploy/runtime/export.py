"""Exports the halves of a checkpoint to ONNX files (opset 23)."""

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from flowmo.deploy.fp8_graph import quantize_graph
from flowmo.deploy.graphs import INPUTS, OUTPUTS, Half, example, graph_of
from flowmo.deploy.onnx_files import OnnxFile, file_name
from flowmo.model.attention import attention_form
from flowmo.model.errors import CompilationError
from flowmo.model.inference import InferenceModel

# The first that has the operator Attention.
OPSET = 23
# A protobuf file ends at 2 GB; from here on weights lie beside it.
EXTERNAL_BYTES = 256 * 2**20
Attention = Literal["fused", "explicit"]
DTYPES = (torch.float32, torch.bfloat16)


def export(
    model: InferenceModel,
    folder: str | Path,
    half: Half,
    *,
    attention: Attention = "fused",
    fp8_ranges: Mapping[str, float] | None = None,
) -> OnnxFile:
    """Write a half as ``encoder.onnx`` or ``decoder_step.onnx``; the batch size stays free.

    Args:
        model: A model on the CPU, in float32 or bfloat16: the graph computes in its dtype, and
            takes and gives images and codes in float32.
        folder: The folder of the files; made if it is not there.
        half: The half to write.
        attention: ``fused`` is the operator Attention, ``explicit`` two products and a softmax.
        fp8_ranges: What :func:`flowmo.deploy.fp8_graph.activation_ranges` has found of this half:
            the blocks' linears are then quantized to fp8.

    Raises:
        CompilationError: The dtype is not exported, onnxscript is missing, or PyTorch cannot.
    """
    check_dtype(model.dtype)
    file = OnnxFile(
        path=Path(folder) / file_name(half),
        half=half,
        fingerprint=model.fingerprint,
        config=model.config,
        dtype=str(model.dtype).removeprefix("torch."),
        attention=attention,
        quantization="none" if fp8_ranges is None else "fp8",
    )
    return write(
        file, graph_of(model, half), example(model, half, 2), attention, fp8_ranges=fp8_ranges
    )


def check_dtype(dtype: torch.dtype) -> None:
    """Check that graphs are exported in a dtype.

    Raises:
        CompilationError: They are not.
    """
    if dtype not in DTYPES:
        raise CompilationError(
            f"float32 and bfloat16 are exported, the model is in {dtype}; fp16 overflows in "
            f"this network's activations"
        )


def write(
    file: OnnxFile,
    graph: nn.Module,
    inputs: tuple[Tensor, ...],
    attention: Attention,
    *,
    fp8_ranges: Mapping[str, float] | None = None,
) -> OnnxFile:
    """Record a graph and write it, with what its file says about itself.

    Args:
        file: What is written, and where.
        graph: A module on the CPU.
        inputs: Its inputs, of two rows: PyTorch takes a size of 1 for a constant.
        attention: See :func:`export`, as of the next one.
        fp8_ranges: The ranges of activations.

    Returns:
        The same file.

    Raises:
        CompilationError: onnxscript is missing, or PyTorch cannot.
    """
    try:
        from onnxscript import optimizer
    except ImportError as error:
        raise CompilationError(
            f"exporting needs onnx and onnxscript ({error}): pip install 'flowmo-serve[export]'"
        ) from None
    batch = torch.export.Dim("batch", min=1, max=1024)
    try:
        with attention_form(attention), _quietly(), torch.no_grad():
            program = torch.onnx.export(
                graph,
                inputs,
                dynamo=True,
                opset_version=OPSET,
                dynamic_shapes=tuple({0: batch} for _ in inputs),
                input_names=list(INPUTS[file.half]),
                output_names=[OUTPUTS[file.half]],
                verbose=False,
                # It would fold the RMS norms into an operator that takes bfloat16 and gives
                # float32, as ONNX allows; TensorRT's parser takes its output for bfloat16.
                optimize=False,
            )
            assert program is not None
            optimizer.optimize_ir(program.model)
            if fp8_ranges is not None:
                quantize_graph(program.model, fp8_ranges)
    except torch.onnx.OnnxExporterError as error:
        raise CompilationError(f"PyTorch cannot export this {file.half}: {error}") from error
    file.path.parent.mkdir(parents=True, exist_ok=True)
    program.model.metadata_props.update(file.metadata())
    values = (value.const_value for value in program.model.graph.initializers.values())
    weights = sum(value.nbytes for value in values if value is not None)
    program.save(str(file.path), external_data=weights > EXTERNAL_BYTES)
    return file


@contextmanager
def _quietly() -> Iterator[None]:
    """Silence the exporter, which warns of a missing torchvision and of its own deprecations."""
    logger = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def largest_difference(
    file: OnnxFile, model: InferenceModel, *, batches: Sequence[int] = (1, 3)
) -> float:
    """Measure how far ONNX Runtime on this CPU is from PyTorch on the same inputs.

    Args:
        file: A half exported in float32; ONNX Runtime's CPU has no bfloat16 products.
        model: The model that was exported, in float32.
        batches: The batch sizes to compare at.

    Returns:
        The largest absolute difference of an output.

    Raises:
        CompilationError: The file is of another model or dtype.
    """
    if file.half == "prior":
        raise CompilationError(f"{file.path} is a prior, not a half of {model.config.name!r}")
    file.check_weights(model.fingerprint)
    inputs = [example(model, file.half, rows) for rows in batches]
    return difference(file, graph_of(model, file.half), inputs, model.dtype)


def difference(
    file: OnnxFile, graph: nn.Module, examples: Sequence[tuple[Tensor, ...]], dtype: torch.dtype
) -> float:
    """The largest absolute difference of ONNX Runtime from a module, over some inputs.

    Args:
        file: What was exported of it, in float32.
        graph: The module.
        examples: Its inputs.
        dtype: The dtype that it computes in.

    Raises:
        CompilationError: One of them is not in float32.
    """
    from flowmo.deploy.onnx_runtime import OnnxSession

    if file.dtype != "float32" or dtype != torch.float32:
        raise CompilationError(
            f"only float32 can be compared on a CPU, got a {file.dtype} file and a {dtype} "
            f"model; export with --dtype float32"
        )
    session = OnnxSession(file)
    worst = 0.0
    for inputs in examples:
        with torch.inference_mode():
            expected: Tensor = graph(*inputs)
        worst = max(worst, (session(*inputs) - expected).abs().max().item())
    return worst
