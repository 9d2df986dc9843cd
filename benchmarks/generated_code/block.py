"""The code that Inductor generates for one block of a preset, on the pretended H100.

Shape legend: B rows, N patches, K latent tokens, L = K + N, d width, C head dimension.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from benchmarks.generated_code.pretended import generated_code
from flowmo.deploy.block_kernels import block_with_kernels
from flowmo.deploy.graphs import Half, grid_of
from flowmo.model import inference_network
from flowmo.model.config import preset
from flowmo.model.inference_network import InferenceBlock
from flowmo.model.kernels import choice, quantize
from flowmo.model.kernels.choice import Kernels
from flowmo.model.transformer import DoubleStreamBlock

Shape = tuple[tuple[int, ...], torch.dtype]


def _attention(q: Tensor, k: Tensor, v: Tensor, scale: float, _: object = ()) -> Tensor:
    """PyTorch would ask the GPU which backend it has."""
    out: Tensor = torch.ops.aten._scaled_dot_product_cudnn_attention(
        q, k, v, None, False, 0.0, False, False, scale=scale
    )[0]
    return out


def block_code(name: str, half: Half, rows: int, kernels: Kernels) -> str:
    """Generate the Python program whose calls are launches.

    Args:
        name: A preset.
        half: The half whose block it is; one in the middle, with both streams alive.
        rows: B.
        kernels: The switches.
    """
    config = preset(name)
    shape = config.encoder if half == "encoder" else config.decoder
    kernels = replace(kernels, txt_beside=False)  # of eager launches alone
    with torch.device("meta"):
        block = InferenceBlock(DoubleStreamBlock(shape), img_alive=True, txt_alive=True).eval()
        block = block_with_kernels(block, kernels)
    bf16, float32, width = torch.bfloat16, torch.float32, shape.width
    patches = grid_of(config)[0] ** 2
    length = config.code_length + patches
    named: dict[str, Shape] = {n: (tuple(p.shape), bf16) for n, p in block.named_parameters()}
    named |= {n: (tuple(b.shape), _dtype_of(n, b)) for n, b in block.named_buffers()}
    inputs: list[Shape] = [
        ((rows, patches, width), bf16),
        ((rows, config.code_length, width), bf16),
        ((2, length, shape.head_dim // 2), float32),
    ]
    if half == "decoder":
        # Of the whole network, as it is looked up: a block reads a slice of it.
        inputs.append(((rows, shape.depth * 12 * width), bf16))

    def compute(*values: Tensor) -> tuple[Tensor, ...]:
        parameters = dict(zip(named, values, strict=False))
        img, txt, table, *rest = values[len(named) :]
        modulation = None
        if rest:
            every = rest[0].unflatten(1, (shape.depth, 2, 6, 1, width)).movedim(0, 3)
            modulation = every[shape.depth // 2]
        arguments = (img, txt, table, modulation)
        out: tuple[Tensor, ...] = torch.func.functional_call(block, parameters, arguments)
        return out

    return _generate(compute, [*named.values(), *inputs])


def _dtype_of(name: str, buffer: Tensor) -> torch.dtype:
    """A buffer's in a model in bf16: all scales are float32, and a bias may be a buffer."""
    if buffer.dtype == quantize.DTYPE:
        return buffer.dtype
    return torch.float32 if name.endswith("_scale") else torch.bfloat16


def _generate(compute: Callable[..., Any], shapes: list[Shape]) -> str:
    """Trace on tensors of a CPU without data, and compile for those of a GPU."""
    from torch._functorch.aot_autograd import aot_module_simplified
    from torch._inductor.compile_fx import compile_fx_inner
    from torch._inductor.decomposition import select_decomp_table
    from torch._subclasses import FakeTensorMode
    from torch.fx.experimental.proxy_tensor import make_fx

    # Traced on tensors of a CPU, computed with what a GPU would be.
    with (
        patch.object(inference_network, "attention", _attention),
        patch.object(choice, "on_gpu", lambda _: True),
        FakeTensorMode(allow_non_fake_inputs=True),
        torch.no_grad(),
        generated_code() as codes,
    ):
        here = [torch.empty(size, dtype=dtype) for size, dtype in shapes]
        there = [torch.empty(size, dtype=dtype, device="cuda") for size, dtype in shapes]
        graph = make_fx(compute, tracing_mode="real")(*here)
        try:
            aot_module_simplified(
                graph,
                there,
                fw_compiler=compile_fx_inner,
                inference_compiler=compile_fx_inner,
                decompositions=select_decomp_table(),
            )
        except Exception:
            if not codes:
                raise
    return codes[-1]
