"""An H100 that is not there: enough of one for Inductor to write code for it, never to run any.

It changes this process for good, so it belongs in a program of its own.
"""

import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

_PROPERTIES = types.SimpleNamespace(
    name="NVIDIA H100 80GB HBM3",
    major=9,
    minor=0,
    total_memory=85 << 30,
    multi_processor_count=132,
    max_threads_per_multi_processor=2048,
    max_threads_per_block=1024,
    regs_per_multiprocessor=65536,
    warp_size=32,
    shared_memory_per_block=49152,
    shared_memory_per_block_optin=232448,
    L2_cache_size=50 << 20,
    is_integrated=False,
    gcnArchName="",
)


def _always(value: Any) -> Callable[..., Any]:
    return lambda *_, **__: value


class _Driver:
    """What Triton asks of its active driver while it compiles."""

    def get_current_target(self) -> Any:
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", 90, 32)

    def get_current_device(self) -> int:
        return 0

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cuda", 0)

    def get_device_capability(self, *_: Any) -> tuple[int, int]:
        return (9, 0)


def pretend() -> None:
    """Have torch, Inductor and Triton of this process believe in an H100.

    Raises:
        RuntimeError: This torch was built without CUDA, or Triton is not installed.
    """
    from flowmo.model.kernels.choice import triton_is_installed

    if torch.version.cuda is None or not triton_is_installed():
        raise RuntimeError(
            f"torch {torch.__version__} has no CUDA, or Triton is missing: run this in the "
            f"environment that `make gpu-codegen` makes"
        )
    import torch._dynamo.device_interface as interfaces
    import torch._inductor.config as inductor
    import torch._subclasses.fake_tensor as fake
    from torch._inductor.runtime.hints import DeviceProperties
    from torch.utils import _triton as triton_of_torch
    from triton.runtime import driver

    answers: dict[str, Any] = {
        "is_available": True,
        "is_initialized": True,
        "device_count": 1,
        "current_device": 0,
        "get_device_properties": _PROPERTIES,
        "get_device_capability": (9, 0),
        "get_rng_state": torch.zeros(16, dtype=torch.uint8),
        **dict.fromkeys(("set_rng_state", "synchronize", "_lazy_init", "set_device")),
        **dict.fromkeys(("_exchange_device", "_maybe_exchange_device"), 0),
    }
    for name, value in answers.items():
        setattr(torch.cuda, name, _always(value))
    cuda: Any = interfaces.CudaInterface
    for name in ("is_available", "current_device", "get_device_properties", "device_count"):
        setattr(cuda, name, staticmethod(_always(answers[name])))
    cuda.get_compute_capability = staticmethod(_always(90))
    cuda.synchronize = staticmethod(_always(None))
    cuda.Worker.current_device = staticmethod(_always(0))
    cuda.Worker.get_device_properties = staticmethod(_always(_PROPERTIES))
    properties = DeviceProperties(
        type="cuda",
        index=0,
        multi_processor_count=132,
        cc=90,
        major=9,
        regs_per_multiprocessor=65536,
        max_threads_per_multi_processor=2048,
        warp_size=32,
    )
    DeviceProperties.create = classmethod(_always(properties))  # type: ignore[method-assign, assignment]
    fake.init_gpu_context = _always(None)  # type: ignore[assignment]
    triton_of_torch.has_triton = _always(True)  # type: ignore[assignment]
    driver.set_active(_Driver())
    inductor.compile_threads = 1
    inductor.force_disable_caches = True
    # So that each kernel's bytes stand in the code.
    inductor.profile_bandwidth = True


class _Generated(Exception):  # noqa: N818  (it is what was wanted)
    """The code, before it is compiled."""


@contextmanager
def generated_code() -> Iterator[list[str]]:
    """Collect what Inductor generates, and let it compile and load none of it."""
    from torch._inductor.graph import GraphLowering

    codes: list[str] = []

    def keep(graph: Any) -> Any:
        code = graph.codegen()[0]
        codes.append(str(getattr(code, "value", code)))
        raise _Generated

    changed = [n for n in ("compile_to_module", "_compile_to_module") if hasattr(GraphLowering, n)]
    before = {name: getattr(GraphLowering, name) for name in changed}
    for name in changed:
        setattr(GraphLowering, name, keep)
    try:
        yield codes
    finally:
        for name, function in before.items():
            setattr(GraphLowering, name, function)
