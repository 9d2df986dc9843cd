"""Both halves, or a prior, computed by TensorRT engines on this machine's GPU."""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from flowmo.deploy.cuda_graphs import CudaGraphs
from flowmo.deploy.graphs import INPUTS, OUTPUTS, Half, Part
from flowmo.deploy.padding import in_buckets
from flowmo.deploy.tensorrt.keys import Manifest
from flowmo.deploy.tensorrt.libraries import Library, make_logger
from flowmo.deploy.tensorrt.report import inspected_lines, layer_report
from flowmo.model.errors import CompilationError

_DTYPES = {
    "float": torch.float32,
    "bf16": torch.bfloat16,
    "half": torch.float16,
    "int64": torch.int64,
}


class EngineHalf:
    """One engine: an execution context a bucket, on PyTorch's tensors and stream.

    Contexts have no memory of their own: each would keep what the largest bucket needs. All of them
    use what :meth:`use_memory` is given, for only one computes at a time.

    Args:
        half: The half that the engine computes, or a whole prior.
        engine: The verified bytes of the engine.
        manifest: What lay beside them.
        library: The library that built the engine.
        device: A CUDA device.
        cuda_graphs: Whether to replay each bucket as a graph.

    Attributes:
        weights_bytes: The bytes of the engine, nearly all of them weights, on the device.

    Raises:
        CompilationError: The library cannot load it here, or its inputs and outputs are others.
    """

    def __init__(
        self,
        half: Part,
        engine: bytes,
        manifest: Manifest,
        library: Library,
        device: torch.device,
        *,
        cuda_graphs: bool = True,
    ) -> None:
        self._half, self._device, self._api = half, device, library.api
        self._messages = make_logger(library)
        check_bindings(half, manifest.bindings)
        self._runtime = library.api.Runtime(self._messages)
        with _present(device):
            self._engine = self._runtime.deserialize_cuda_engine(engine)
        if self._engine is None:
            raise CompilationError(
                f"{library.name} {library.version} cannot load the {half}'s engine on this "
                f"machine: {self._messages.first_error()}"
            )
        self._bindings = manifest.bindings
        self._contexts: dict[int, Any] = {}
        with _present(device):
            for profile, bucket in enumerate(manifest.key.buckets):
                self._contexts[bucket] = self._context(profile, bucket)
        self._buckets = manifest.key.buckets
        self._memory: Tensor | None = None
        self.weights_bytes = manifest.size
        self._compute = CudaGraphs(self._execute) if cuda_graphs else self._execute

    def __call__(self, *inputs: Tensor) -> Tensor:
        """Inputs as the graph has them, on the device; the output is valid until the next call."""
        return in_buckets(self._compute, self._buckets, inputs)

    @property
    def device(self) -> torch.device:
        """The device that the engine was loaded to."""
        return self._device

    @property
    def memory_bytes(self) -> int:
        """The device memory that a context needs while it computes, in bytes."""
        return int(self._engine.device_memory_size_v2)

    def use_memory(self, memory: Tensor) -> None:
        """Have every context compute in one piece of memory.

        Args:
            memory: uint8 [at least :attr:`memory_bytes`] on the device, which nothing else uses
                while this engine computes. It is kept.
        """
        self._memory = memory
        for context in self._contexts.values():
            context.set_device_memory(memory.data_ptr(), memory.numel())

    def report(self, depth: int) -> dict[str, Any]:
        """Say what the library's inspector finds in the engine that was loaded.

        Args:
            depth: The blocks of the half's network.

        Returns:
            A report a bucket, as of :func:`flowmo.deploy.tensorrt.report.layer_report`.
        """
        inspector = self._engine.create_engine_inspector()
        reports = {}
        for bucket, context in self._contexts.items():
            inspector.execution_context = context
            text = inspector.get_engine_information(self._api.LayerInformationFormat.JSON)
            reports[str(bucket)] = layer_report(inspected_lines(text), profiles=1, depth=depth)
        return reports

    def _context(self, profile: int, bucket: int) -> Any:
        strategy = self._api.ExecutionContextAllocationStrategy.USER_MANAGED
        context = self._engine.create_execution_context(strategy)
        if context is None:
            raise CompilationError(
                f"no memory for the {self._half}'s batches of {bucket}: "
                f"{self._messages.first_error()}; serve smaller ones with --max-batch"
            )
        stream = torch.cuda.current_stream(self._device)
        context.set_optimization_profile_async(profile, stream.cuda_stream)
        stream.synchronize()
        for name in INPUTS[self._half]:
            context.set_input_shape(name, (bucket, *self._bindings[name]["shape"]))
        return context

    def _execute(self, *inputs: Tensor) -> Tensor:
        rows = inputs[0].shape[0]
        context = self._contexts[rows]
        # Engines read memory as it lies, and as the type that they were built for.
        tensors = {
            name: value.to(_DTYPES[self._bindings[name]["dtype"]]).contiguous()
            for name, value in zip(INPUTS[self._half], inputs, strict=True)
        }
        output_name = OUTPUTS[self._half]
        binding = self._bindings[output_name]
        output = torch.empty(
            (rows, *binding["shape"]), dtype=_DTYPES[binding["dtype"]], device=self._device
        )
        for name, value in (tensors | {output_name: output}).items():
            context.set_tensor_address(name, value.data_ptr())
        stream = torch.cuda.current_stream(self._device).cuda_stream
        if not context.execute_async_v3(stream):
            raise RuntimeError(f"the {self._half}'s engine failed: {self._messages.first_error()}")
        return output


def _present(device: torch.device) -> AbstractContextManager[object]:
    """The library knows no device but the thread's present one; ``cuda`` without a number is it."""
    return nullcontext() if device.index is None else torch.cuda.device(device)


def check_bindings(half: Part, bindings: Mapping[str, Mapping[str, Any]]) -> None:
    """Check that an engine takes and gives what a half, or a prior, does.

    Raises:
        CompilationError: It has other inputs or outputs.
    """
    expected = dict.fromkeys(INPUTS[half], "input") | {OUTPUTS[half]: "output"}
    found = {name: binding["kind"] for name, binding in bindings.items()}
    if found != expected:
        raise CompilationError(
            f"the {half}'s engine has {found}, expected {expected}; build it again"
        )
    for name, binding in bindings.items():
        if binding["dtype"] not in _DTYPES:
            raise CompilationError(
                f"{name} of the {half}'s engine is {binding['dtype']}, expected one of "
                f"{sorted(_DTYPES)}; build it again"
            )


class TensorRTSteps:
    """Engines of a model's halves, as :class:`flowmo.model.inference.Steps`.

    Both halves compute on one stream, one after the other, and so in the same memory.

    Args:
        engines: The engine of each half that is computed; at least one, all on one device.

    Attributes:
        memory_bytes: The device memory that all batches of all engines compute in, in bytes.
    """

    def __init__(self, engines: Mapping[Half, EngineHalf]) -> None:
        self._engines = engines
        self.memory_bytes = max(engine.memory_bytes for engine in engines.values())
        (device,) = {engine.device for engine in engines.values()}
        # PyTorch's allocator aligns by 512 bytes; 256 are asked for.
        memory = torch.empty(max(1, self.memory_bytes), dtype=torch.uint8, device=device)
        for engine in engines.values():
            engine.use_memory(memory)

    def memory_by_owner(self) -> dict[str, int]:
        """See :class:`flowmo.model.halves.HoldsMemory`."""
        engines = sum(engine.weights_bytes for engine in self._engines.values())
        return {"engines": engines, "engines' activations": self.memory_bytes}

    def encode(self, images: Tensor) -> Tensor:
        """See :meth:`Steps.encode`."""
        return self._engines["encoder"](images)

    def velocity(self, x: Tensor, condition: Tensor, modulation: Tensor) -> Tensor:
        """See :meth:`Steps.velocity`."""
        return self._engines["decoder"](x, condition, modulation)
