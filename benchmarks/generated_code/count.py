"""Launches and memory traffic of a program that Inductor generated.

The unit U is one activation of a row, tokens x width x 2 bytes: what has to be read or written at
least once where two kernels meet. Products and attention are counted, their traffic is not: it is
theirs whatever lies between them.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

_NARROW = "bfloat16"
_BYTES = {
    "float8_e4m3fn": 1,
    "bfloat16": 2,
    "float16": 2,
    "float32": 4,
    "int64": 8,
    "int32": 4,
    "bool": 1,
}
_ALLOCATED = re.compile(
    r"^\s*(\w+) = (?:empty_strided_cuda|rand_strided)\(\(([\d, ]*)\), \([\d, ]*\),.*?torch\.(\w+)"
)
_RENAMED = re.compile(r"^\s*(\w+) = (?:reinterpret_tensor\((\w+), \(([\d, ]*)\)|(\w+); del \w+)")
# What an operator outside Inductor gave.
_ASSERTED = re.compile(r"^\s*assert_size_stride\((\w+), \(([\d, ]*)\)")
_LAUNCH = re.compile(r"^\s*(\w+)\.run\((.*), stream=\w+\)")
_PRODUCT = re.compile(r"extern_kernels\.(\w+)\(|torch\.ops\.aten\.(_addmm_activation|_scaled_mm)\b")
_ATTENTION = re.compile(r"= torch\.ops\.aten\.(_scaled_dot_product_\w+)")
_TENSOR = re.compile(r"reinterpret_tensor\((\w+), \(([\d, ]*)\)|\b((?:arg|buf)\d+(?:_\d+)?)\b")
_GENERATED = re.compile(
    r"^(\w+) = async_compile\.triton\('\w+', '''(.*?)'''", re.MULTILINE | re.DOTALL
)
_GIGABYTES = re.compile(r"'kernel_num_gb': ([\d.e+-]+)")
# Smaller float32 buffers are statistics of tokens or heads, or the rotary table.
_ACTIVATION_SHARE = 0.05


@dataclass(frozen=True, kw_only=True, slots=True)
class Launch:
    """One call. ``kind`` is elementwise, product or attention; ``size`` its traffic in bytes."""

    kind: str
    name: str
    size: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Counts:
    """What a block launches and moves.

    Attributes:
        launches: All of them.
        elementwise: Those that are neither products nor attention.
        units: U that the elementwise ones read and write.
        float32_activations: Buffers in float32 of the size of an activation.
    """

    launches: int
    elementwise: int
    units: float
    float32_activations: int


def launches(code: str) -> Iterator[Launch]:
    """The calls of the program in their order."""
    kernels = dict(_GENERATED.findall(code))
    sizes: dict[str, tuple[int, str]] = {}
    lines = code[code.rindex("def call(") :].splitlines()
    for line in [*lines[_line_of(lines, "def get_args") :], *lines]:
        _remember(line, sizes)
    for line in lines:
        _remember(line, sizes)  # a name may be used again
        if (match := _LAUNCH.match(line)) is not None:
            name, arguments = match.groups()
            yield Launch(
                kind="elementwise",
                name=name,
                size=_size(arguments, sizes, kernels.get(name, "")),
            )
        elif (match := _ATTENTION.search(line)) is not None:
            yield Launch(kind="attention", name=match[1], size=0.0)
        elif "assert_" not in line and (match := _PRODUCT.search(line)) is not None:
            yield Launch(kind="product", name=match[1] or match[2], size=0.0)


def count(code: str, *, rows: int, tokens: int, width: int) -> Counts:
    """Count a program.

    Args:
        code: What Inductor generated.
        rows: The batch size that it is for.
        tokens: Those of both streams.
        width: The network's.
    """
    unit = rows * tokens * width * 2
    found = list(launches(code))
    elementwise = [launch for launch in found if launch.kind == "elementwise"]
    wide = 0
    for line in code[code.rindex("def call(") :].splitlines():
        match = _ALLOCATED.match(line)
        if match is not None and match[1].startswith("buf") and match[3] == "float32":
            wide += _bytes(match[2], "float32") >= _ACTIVATION_SHARE * unit
    return Counts(
        launches=len(found),
        elementwise=len(elementwise),
        units=round(sum(launch.size for launch in elementwise) / unit, 2),
        float32_activations=wide,
    )


def _line_of(lines: list[str], start: str) -> int:
    return next((i for i, line in enumerate(lines) if line.lstrip().startswith(start)), len(lines))


def _remember(line: str, sizes: dict[str, tuple[int, str]]) -> None:
    if (match := _ALLOCATED.match(line)) is not None:
        name, shape, dtype = match.groups()
        sizes[name] = (_bytes(shape, dtype), dtype)
    elif (match := _RENAMED.match(line)) is not None:
        name, viewed, shape, other = match.groups()
        size, dtype = sizes.get(viewed or other, (0, _NARROW))
        sizes[name] = (_bytes(shape, dtype) if viewed else size, dtype)
    elif (match := _ASSERTED.match(line)) is not None and match[1] not in sizes:
        sizes[match[1]] = (_bytes(match[2], _NARROW), _NARROW)


def _size(arguments: str, sizes: dict[str, tuple[int, str]], kernel: str) -> float:
    """What a kernel reads and writes.

    A hand-written one reads or writes each tensor whole, and once. Of its own kernels Inductor says
    it: parts of tensors, but twice what is read twice, which is at most every tensor whole.
    """
    given: dict[str, int] = {}
    for position, (viewed, shape, plain) in enumerate(_TENSOR.findall(arguments)):
        name = viewed or plain
        size, dtype = sizes.get(name, (0, _NARROW))
        in_place = f"in_out_ptr{position}" in kernel  # these come first
        given[name] = (_bytes(shape, dtype) if viewed else size) * (2 if in_place else 1)
    whole = float(sum(given.values()))
    match = _GIGABYTES.search(kernel)
    return whole if match is None else min(whole, float(match[1]) * 1e9)


def _bytes(shape: str, dtype: str) -> int:
    return prod(int(n) for n in shape.split(",") if n.strip()) * _BYTES[dtype]
