"""A network of two blocks a half, with weights that do something."""

from torch import nn

from flowmo.model.config import FlowMoConfig, TransformerConfig
from flowmo.model.flowmo import FlowMo
from flowmo.model.inference import InferenceModel


def made(width: int, heads: int) -> InferenceModel:
    half = TransformerConfig(width=width, depth=2, heads=heads, rope_dims=(0, 4, 4))
    sizes = {"code_length": 1, "token_bits": 4, "group_bits": 2}
    network = FlowMo(
        FlowMoConfig(image_size=8, patch_size=4, encoder=half, decoder=half, **sizes)  # type: ignore[arg-type]
    )
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.3)
    return InferenceModel(network)
