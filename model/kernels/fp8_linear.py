"""A linear whose weight and input are in fp8, a scale an output and a scale a token.

Shape legend: B rows, N tokens, K inputs, M outputs.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowmo.model.kernels import choice
from flowmo.model.kernels.quantize import Quantized, quantized

# What the products of a GPU want of both sides of a weight.
_ALIGNMENT = 16


class Fp8Linear(nn.Module):
    """The product of a quantized activation and a quantized weight, and its bias.

    On a GPU it is ``torch._scaled_mm``. Elsewhere products of the same numbers are summed in
    float32, and scaled and rounded as there: to measure errors, not to be quick.

    The sums are PyTorch's fast ones: Hopper then keeps them in its tensor cores, with some 14 bits,
    and does not add parts of them in float32. At Lo's longest sum, 4608 numbers, that is a
    thousandth where rounding to fp8 is 4 % of each number, and other sums are a third slower.

    Args:
        linear: The layer, whose weight [M, K] is quantized now and whose bias is shared;
            :func:`fits` says whether it can be.
    """

    weight: Tensor
    weight_scale: Tensor
    bias: Tensor

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        values, scales = quantized(linear.weight.detach())
        self.register_buffer("weight", values)
        self.register_buffer("weight_scale", scales.t().contiguous())  # [1, M]
        self.register_buffer("bias", linear.bias.detach())

    def forward(self, x: Quantized) -> Tensor:
        """Compute [B, N, M], in the bias's dtype, of an input [B, N, K]."""
        rows, scales = x.values.flatten(0, 1), x.scales.flatten(0, 1)
        if choice.on_gpu(rows):
            out = torch._scaled_mm(
                rows,
                self.weight.t(),
                scale_a=scales,
                scale_b=self.weight_scale,
                bias=self.bias,
                out_dtype=self.bias.dtype,
                use_fast_accum=True,
            )
        else:
            sums = F.linear(rows.float(), self.weight.float())
            out = (sums * scales * self.weight_scale + self.bias).to(self.bias.dtype)
        product: Tensor = out.unflatten(0, x.values.shape[:2])
        return product


def fits(linear: nn.Linear) -> bool:
    """Whether a GPU can multiply by the weight in fp8: both of its sides are multiples of 16."""
    return not (linear.in_features % _ALIGNMENT or linear.out_features % _ALIGNMENT)
