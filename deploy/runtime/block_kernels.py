"""A half's network with hand-written kernels in its blocks, beside the one that has none."""

from dataclasses import replace
from typing import TypeVar

import torch
from torch import nn

from flowmo.deploy.regional import shallow
from flowmo.model.errors import CompilationError
from flowmo.model.inference_network import InferenceBlock, InferenceDecoder, InferenceEncoder
from flowmo.model.kernels.choice import NO_KERNELS, Kernels, triton_is_installed
from flowmo.model.kernels.fp8_linear import Fp8Linear, fits

# fp8 products exist from Ada and Hopper on.
_FP8_CAPABILITY = (8, 9)

N = TypeVar("N", bound=InferenceEncoder | InferenceDecoder)
S = TypeVar("S", bound=nn.Module)


def usable(kernels: Kernels, device: torch.device, dtype: torch.dtype, *, fp8: bool) -> Kernels:
    """Those of the wanted kernels that this model can use.

    Args:
        kernels: What is wanted.
        device: Where the model is. Kernels are for CUDA devices; ``fp8_rowwise`` by itself is
            computed anywhere, elsewhere to measure its errors.
        dtype: The model's; what fp8 products of a GPU give is bfloat16.
        fp8: Whether torchao computes the linears in fp8: they have no epilogue for GELU.

    Raises:
        CompilationError: There is no such device, Triton is not installed, or fp8 is wanted twice
            or of a model that is not in bfloat16.
    """
    if kernels == NO_KERNELS:
        return kernels
    if kernels.fp8_rowwise and fp8:
        raise CompilationError("fp8 by torchao and the kernel fp8-rowwise exclude each other")
    if device.type != "cuda":
        if kernels == Kernels(fp8_rowwise=True):
            return kernels
        raise CompilationError(
            f"hand-written kernels are for a CUDA device, the model is on {device}; leave them out"
        )
    if kernels.need_triton and not triton_is_installed():
        raise CompilationError(
            "the kernels fused-qkv and fused-norm need Triton: pip install triton, or do without"
        )
    if kernels.fp8_rowwise:
        need_fp8_products(device)
        if dtype != torch.bfloat16:
            raise CompilationError(
                f"fp8-rowwise is for models in bfloat16, this one is in {dtype}: use --dtype "
                f"bfloat16, or leave it out"
            )
    return replace(kernels, gelu_epilogue=False) if fp8 or kernels.fp8_rowwise else kernels


def need_fp8_products(device: torch.device) -> None:
    """Refuse a device that cannot multiply in fp8.

    Raises:
        CompilationError: It is not a GPU, or an older one.
    """
    if device.type != "cuda" or torch.cuda.get_device_capability(device) < _FP8_CAPABILITY:
        raise CompilationError(
            f"fp8 needs a GPU of compute capability 8.9 or above (Ada, Hopper), the model is on "
            f"{device}; leave fp8 out"
        )


def with_kernels(network: N, kernels: Kernels) -> N:
    """The same network, its weights shared and not copied, whose blocks use kernels.

    The network itself goes on without them: it is what the other is checked against. With
    ``fp8_rowwise`` the weights of the blocks' linears are quantized copies, of half the bytes;
    blocks with a linear that has a side that is no multiple of 16 stay as they are.

    Args:
        network: A half of a model.
        kernels: The switches, all of them usable.
    """
    if kernels == NO_KERNELS:
        return network
    own = shallow(network)
    own.blocks = nn.ModuleList(block_with_kernels(block, kernels) for block in network.blocks)
    return own


def block_with_kernels(block: nn.Module, kernels: Kernels) -> InferenceBlock:
    """A block of :func:`with_kernels`."""
    assert isinstance(block, InferenceBlock)
    own = shallow(block)
    own.kernels = replace(kernels, fp8_rowwise=kernels.fp8_rowwise and _fits(block))
    if own.kernels.fp8_rowwise:
        own.img, own.txt = _in_fp8(block.img), _in_fp8(block.txt)
    return own


def _fits(block: nn.Module) -> bool:
    # All of a block or none: its kernels write all inputs of its products alike.
    return all(fits(module) for module in block.modules() if isinstance(module, nn.Linear))


def _in_fp8(stream: S) -> S:
    own = shallow(stream)
    for name, module in stream.named_children():
        assert isinstance(module, nn.Linear)
        own.add_module(name, Fp8Linear(module))
    return own
