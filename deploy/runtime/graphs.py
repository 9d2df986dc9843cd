"""The two graphs that are exported: an encoder, and one step of a decoder.

Both take and give images of one size; rotary tables are constants in them. The decoder's step takes
the modulation that its times are looked up to, not the times: a third of a decoder's weights serve
only to compute it, and a served model uses a few times again and again.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from flowmo.model.config import FlowMoConfig
from flowmo.model.inference import HALVES, Half, InferenceModel
from flowmo.model.network import with_mask
from flowmo.model.patches import patchify

__all__ = [
    "HALVES",
    "INPUTS",
    "OUTPUTS",
    "DecoderStepGraph",
    "EncoderGraph",
    "Half",
    "Part",
    "example",
    "graph_of",
    "grid_of",
]

Part = Literal["encoder", "decoder", "prior"]
"""What is exported by itself: a half of a tokenizer, or a whole prior
(:mod:`flowmo.deploy.prior_graph`)."""

INPUTS: dict[Part, tuple[str, ...]] = {
    "encoder": ("images",),
    "decoder": ("x", "condition", "modulation"),
    "prior": ("ids", "classes"),
}
OUTPUTS: dict[Part, str] = {"encoder": "code", "decoder": "velocity", "prior": "logits"}


class EncoderGraph(nn.Module):
    """Turns images, float32 [B, 3, S, S] in [-1, 1], into the code, float32 [B, K, D].

    Args:
        model: The model that is exported; shared, not copied.
    """

    table: Tensor

    def __init__(self, model: InferenceModel) -> None:
        super().__init__()
        self.network, self.config, self.dtype = model.encoder, model.config, model.dtype
        self.register_buffer("table", model.rotary(encoder=True, grid=grid_of(model.config)))

    def forward(self, images: Tensor) -> Tensor:
        """See the class."""
        patches = patchify(images.to(self.dtype), self.config.patch_size)
        code: Tensor = self.network(patches, self.table, self.config.code_length)
        return code.float()


class DecoderStepGraph(nn.Module):
    """One step: x, float32 [B, 3, S, S], condition [B, K, D + 1] and modulation [B, M] to velocity.

    Args:
        model: The model that is exported; shared, not copied. Condition and modulation have its
            dtype.
    """

    table: Tensor

    def __init__(self, model: InferenceModel) -> None:
        super().__init__()
        self.network, self.config, self.dtype = model.decoder, model.config, model.dtype
        self.register_buffer("table", model.rotary(encoder=False, grid=grid_of(model.config)))

    def forward(self, x: Tensor, condition: Tensor, modulation: Tensor) -> Tensor:
        """See the class."""
        return self.network.velocity(x, condition, modulation, self.table)


def grid_of(config: FlowMoConfig) -> tuple[int, int]:
    """The rows and columns of patches of an image."""
    side = config.image_size // config.patch_size
    return side, side


def graph_of(model: InferenceModel, half: Half) -> EncoderGraph | DecoderStepGraph:
    """Make the graph of a half, in the model's dtype and on its device."""
    graph = EncoderGraph(model) if half == "encoder" else DecoderStepGraph(model)
    return graph.eval()


def example(model: InferenceModel, half: Half, rows: int, *, seed: int = 0) -> tuple[Tensor, ...]:
    """Make inputs as a half sees them: noise, random signs, and times spread over [0, 1].

    Args:
        model: The model whose shapes, dtype and device the inputs have.
        half: The half whose inputs they are.
        rows: The batch size.
        seed: A seed; the same one gives the same rows, whatever their number.
    """
    config = model.config
    generator = torch.Generator().manual_seed(seed)
    size = config.image_size
    images, codes = [], []
    for _ in range(rows):
        images.append(torch.randn(3, size, size, generator=generator))
        bits = torch.rand(config.code_length, config.token_bits, generator=generator)
        codes.append(torch.where(bits < 0.5, -1.0, 1.0))
    x = torch.stack(images).to(model.device)
    if half == "encoder":
        return (x.clamp(-1, 1),)
    condition = with_mask(torch.stack(codes).to(model.device, model.dtype))
    modulation = model.modulation([1.0 - row / max(rows, 8) for row in range(rows)])
    return x, condition, modulation
