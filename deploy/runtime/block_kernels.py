"""A half's network with hand-written kernels in its blocks, beside the one that has none."""

import copy
from dataclasses import replace
from typing import TypeVar

import torch
from torch import nn

from flowmo.deploy.regional import shallow
from flowmo.model.errors import CompilationError
from flowmo.model.inference_network import InferenceBlock, InferenceDecoder, InferenceEncoder
from flowmo.model.kernels.choice import NO_KERNELS, Kernels, triton_is_installed

N = TypeVar("N", bound=InferenceEncoder | InferenceDecoder)


def usable(kernels: Kernels, device: torch.device, *, fp8: bool) -> Kernels:
    """Those of the wanted kernels that this model can use.

    Args:
        kernels: What is wanted.
        device: Where the model is; kernels are for CUDA devices.
        fp8: Whether the linears are computed in fp8: they have no epilogue for GELU.

    Raises:
        CompilationError: There is no such device, or Triton is not installed.
    """
    if kernels == NO_KERNELS:
        return kernels
    if device.type != "cuda":
        raise CompilationError(
            f"hand-written kernels are for a CUDA device, the model is on {device}; leave them out"
        )
    if kernels.need_triton and not triton_is_installed():
        raise CompilationError(
            "the kernels fused-qkv and fused-norm need Triton: pip install triton, or do without"
        )
    return replace(kernels, gelu_epilogue=False) if fp8 else kernels


def with_kernels(network: N, kernels: Kernels) -> N:
    """The same network, its weights shared and not copied, whose blocks use kernels.

    The network itself goes on without them: it is what the other is checked against.

    Args:
        network: A half of a model.
        kernels: The switches, all of them usable.
    """
    if kernels == NO_KERNELS:
        return network
    own = shallow(network)
    blocks = []
    for block in network.blocks:
        assert isinstance(block, InferenceBlock)
        twin = copy.copy(block)
        twin.kernels = kernels
        blocks.append(twin)
    own.blocks = nn.ModuleList(blocks)
    return own
