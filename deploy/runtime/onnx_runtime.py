"""Exported halves, computed by ONNX Runtime on a CPU."""

from pathlib import Path

import torch
from torch import Tensor

from flowmo.deploy.graphs import INPUTS, OUTPUTS
from flowmo.deploy.onnx_files import OnnxFile, file_name
from flowmo.model.errors import CompilationError
from flowmo.model.inference import InferenceModel


class OnnxSession:
    """One half.

    Args:
        file: A half exported in float32.
        threads: The CPU threads of one operation; ONNX Runtime's own choice by default.

    Raises:
        CompilationError: ONNX Runtime is missing or cannot run the file.
    """

    def __init__(self, file: OnnxFile, *, threads: int | None = None) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise CompilationError(
                f"ONNX Runtime is missing ({error}): pip install 'flowmo-serve[export]'"
            ) from None
        if file.dtype != "float32":
            raise CompilationError(
                f"ONNX Runtime's CPU has no {file.dtype} products; export {file.half} with "
                f"--dtype float32"
            )
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        # Its threads would go on looking for work after each call, on cores that others need.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if threads is not None:
            options.intra_op_num_threads = threads
        try:
            self._session = onnxruntime.InferenceSession(
                str(file.path), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:
            raise CompilationError(f"ONNX Runtime cannot load {file.path}: {error}") from error
        self._inputs, self._output = INPUTS[file.half], OUTPUTS[file.half]

    def __call__(self, *inputs: Tensor) -> Tensor:
        """Compute the output; inputs and output are as the graph has them, on the CPU."""
        arrays = {
            name: value.contiguous().numpy()
            for name, value in zip(self._inputs, inputs, strict=True)
        }
        (output,) = self._session.run([self._output], arrays)
        return torch.from_numpy(output)


class OnnxSteps:
    """The model's halves, as :class:`flowmo.model.inference.Steps`.

    Args:
        folder: A folder that ``flowmo export`` has written.
        model: The model whose weights the files must have; float32, on the CPU.
        threads: The CPU threads of one operation; ONNX Runtime's own choice by default.

    Raises:
        CompilationError: A file is missing, or has other weights.
    """

    def __init__(
        self, folder: str | Path, model: InferenceModel, *, threads: int | None = None
    ) -> None:
        files = {half: OnnxFile.read(Path(folder) / file_name(half)) for half in model.halves}
        for file in files.values():
            file.check_weights(model.fingerprint)
        self._sessions = {half: OnnxSession(files[half], threads=threads) for half in files}

    def encode(self, images: Tensor) -> Tensor:
        """See :meth:`Steps.encode`."""
        return self._sessions["encoder"](images.float())

    def velocity(self, x: Tensor, condition: Tensor, modulation: Tensor) -> Tensor:
        """See :meth:`Steps.velocity`."""
        return self._sessions["decoder"](x.float(), condition, modulation)
