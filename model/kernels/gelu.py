"""The MLP's first layer: a product, its bias and GELU (tanh).

Shape legend: B rows, N tokens, d width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowmo.model.kernels import choice


def linear_gelu(x: Tensor, linear: nn.Linear, *, epilogue: bool) -> Tensor:
    """GELU(tanh) of a linear of x [B, N, d].

    Args:
        x: The input.
        linear: The layer; with ``epilogue`` its weight is a plain tensor, not one in fp8.
        epilogue: Whether, on a CUDA device, the product itself adds the bias and applies GELU: the
            activation of 4 d is written once and never read back. There PyTorch's operator is the
            tanh form; on a CPU it is the erf form, and is not used.
    """
    if epilogue and choice.on_gpu(x):
        out = torch.ops.aten._addmm_activation(
            linear.bias, x.flatten(0, 1), linear.weight.t(), use_gelu=True
        )
        wide: Tensor = out.unflatten(0, x.shape[:2])
        return wide
    return F.gelu(linear(x), approximate="tanh")
