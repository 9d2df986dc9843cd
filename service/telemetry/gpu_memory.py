"""How much GPU memory this process holds."""

import sys
from dataclasses import dataclass
from types import ModuleType

from flowmo.service.telemetry.instruments import Gauge, Instruments


@dataclass(frozen=True, slots=True)
class HeldMemory:
    """What this process holds on one GPU.

    Attributes:
        device: The index of the GPU in this process.
        gpu: The name that it has everywhere, as NVIDIA's tools write it.
        allocated: The bytes of tensors that there are.
        reserved: These, and what PyTorch keeps for those to come.
    """

    device: int
    gpu: str
    allocated: int
    reserved: int


def gpu_memory(torch: ModuleType | None) -> list[HeldMemory]:
    """The bytes that this process holds on each GPU that it has used.

    What PyTorch's allocator holds, that is: weights and workspace of a TensorRT engine or of ONNX
    Runtime are not in it. Nothing is asked of a GPU that this process has not used, because asking
    would make a context there, which takes hundreds of megabytes.

    Args:
        torch: The module; None if it is not loaded.

    Returns:
        Each GPU; none where there is no GPU, or none is used yet.
    """
    if torch is None or not torch.cuda.is_available() or not torch.cuda.is_initialized():
        return []
    return [
        HeldMemory(
            device=device,
            gpu=f"GPU-{torch.cuda.get_device_properties(device).uuid}",
            allocated=torch.cuda.memory_allocated(device),
            reserved=reserved,
        )
        for device in range(torch.cuda.device_count())
        if (reserved := torch.cuda.memory_reserved(device))
    ]


class GpuMemory:
    """The gauge of GPU memory, which is there from the first time that there is some.

    Args:
        instruments: Make the series.
    """

    def __init__(self, instruments: Instruments) -> None:
        self._instruments = instruments
        self._gauge: Gauge | None = None

    def sample(self) -> None:
        """Set the series of this process."""
        # Gateways of several do not load it, and have no GPU memory.
        held = gpu_memory(sys.modules.get("torch"))
        if held and self._gauge is None:
            self._gauge = self._instruments.gauge(
                "flowmo_gpu_memory_bytes",
                "GPU memory that this process's PyTorch holds: allocated by tensors, or reserved.",
                ["device", "gpu", "kind"],
            )
        for one in held:
            assert self._gauge is not None
            self._gauge.set(str(one.device), one.gpu, "allocated", to=one.allocated)
            self._gauge.set(str(one.device), one.gpu, "reserved", to=one.reserved)
