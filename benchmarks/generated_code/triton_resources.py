"""The hand-written kernels compiled for sm_90a, with what they use of a multiprocessor."""

import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from flowmo.model.kernels.triton_gated_norm import gated_norm_kernel
from flowmo.model.kernels.triton_qkv import qkv_kernel
from flowmo.model.kernels.triton_quantize import quantize_kernel, warps

_TARGET = GPUTarget("cuda", 90, 32)
_USAGE = re.compile(r"REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)")
_POINTERS = {
    "x0", "x1", "update0", "update1", "added0", "added1", "normed0", "normed1", "modulation",
    "source0", "source1", "q", "k", "v",
}  # fmt: skip
_WIDE_POINTERS = {
    "q_scale0", "q_scale1", "k_scale0", "k_scale1", "table", "scales0", "scales1",
}  # fmt: skip
_FP8_POINTERS = {"values0", "values1"}
_NORMED = {"normed0", "normed1"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Resources:
    """What one kernel uses.

    Attributes:
        kernel: Its name, and what it is compiled for.
        registers: Registers a thread.
        spilled: Bytes a thread that did not fit into registers.
        shared: Bytes of shared memory a program.
        vector_accesses: Instructions in its PTX that move 8 numbers a thread of global memory: 16
            bytes, or 8 in fp8.
        global_accesses: All that move global memory.
    """

    kernel: str
    registers: int
    spilled: int
    shared: int
    vector_accesses: int
    global_accesses: int


def resources(width: int, heads: int) -> list[Resources]:
    """Compile every form that a block launches.

    Args:
        width: d.
        heads: H.
    """
    norm = {"WIDTH": width, "BLOCK": triton.next_power_of_2(width), "MODULATED": True}
    dim = width // heads
    found = [
        _compiled(
            gated_norm_kernel, name, norm | {"GATE": gate, "FIRST": first, "QUANTIZED": quantized}
        )
        for name, gate, first, quantized in (
            ("norm, modulate", -1, 0, False),
            ("gate, add, norm, modulate", 2, 3, False),
            ("gate, add", 5, -1, False),
            ("norm, modulate, quantize", -1, 0, True),
            ("gate, add, norm, modulate, quantize", 2, 3, True),
        )
    ]
    for name, wide, gelu in (("quantize", width, False), ("GELU, quantize", 4 * width, True)):
        block = triton.next_power_of_2(wide)
        constants = {"WIDTH": wide, "BLOCK": block, "GELU": gelu}
        found.append(_compiled(quantize_kernel, name, constants, num_warps=warps(block)))
    padded = {"HEADS_PADDED": triton.next_power_of_2(heads), "PADDED": triton.next_power_of_2(dim)}
    shape = {"HEADS": heads, "DIM": dim, "QUERIES0": 1, "QUERIES1": 1}
    return [*found, _compiled(qkv_kernel, "norm, rotate, joint layout", shape | padded)]


def _compiled(
    kernel: Any, name: str, constants: dict[str, Any], *, num_warps: int = 4
) -> Resources:
    signature, attributes = {}, {}
    in_fp8 = _FP8_POINTERS | (_NORMED if constants.get("QUANTIZED") else set())
    for position, argument in enumerate(kernel.arg_names):
        if argument in constants:
            signature[argument] = "constexpr"
        elif argument in in_fp8:
            signature[argument] = "*fp8e4nv"
        elif argument in _POINTERS | _WIDE_POINTERS:
            signature[argument] = "*fp32" if argument in _WIDE_POINTERS else "*bf16"
        else:
            signature[argument] = "fp32" if argument == "eps" else "i32"
        # Tensors, lengths and strides that are multiples of 16, as Inductor finds them at Lo.
        if signature[argument] not in {"constexpr", "fp32"} and not argument.startswith("which"):
            attributes[(position,)] = [["tt.divisibility", 16]]
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=attributes)
    built = triton.compile(source, target=_TARGET, options={"num_warps": num_warps})
    ptx = built.asm["ptx"]
    usage = _usage(built.asm["cubin"])
    accesses = re.findall(r"(?:ld|st)\.global\S*", ptx)
    wide = (".v4.b32", ".v2.b32") if in_fp8 & set(kernel.arg_names) else ".v4.b32"
    return Resources(
        kernel=f"{kernel.fn.__name__} ({name})",
        registers=usage[0],
        spilled=usage[1] + usage[3],
        shared=usage[2],
        vector_accesses=sum(access.endswith(wide) for access in accesses),
        global_accesses=len(accesses),
    )


def _usage(cubin: bytes) -> tuple[int, int, int, int]:
    """Registers, stack, shared and local memory, by the tool in Triton's own package."""
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "kernel.cubin"
        file.write_bytes(cubin)
        command = [str(tool), "--dump-resource-usage", str(file)]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout  # noqa: S603
    match = _USAGE.search(said)
    if match is None:
        raise RuntimeError(f"cuobjdump said nothing of registers: {said[:500]}")
    registers, stack, shared, local = (int(number) for number in match.groups())
    return registers, stack, shared, local
