"""Files of reference values of the published network (SPEC "Parity files").

Their weights are not stored: each is made from its own name, so a file of 200 KB pins a network.
"""

import json
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

from flowmo.model.config import FlowMoConfig, QuantizerKind, TransformerConfig
from flowmo.model.flowmo import FlowMo

# A published width multiple of 1 is 192 channels (SPEC "Shapes and presets").
CHANNELS_PER_WIDTH = 192
_QUANTIZERS: dict[str, QuantizerKind] = {"lfq": "lfq", "kl": "gaussian"}


@dataclass(frozen=True, kw_only=True, slots=True)
class ParityFile:
    """One file: the network's config, its weights' names and shapes, the expected tensors."""

    path: Path
    config: FlowMoConfig
    state_dict_shapes: dict[str, list[int]]
    loss_weights: tuple[float, float]
    tensors: dict[str, Tensor]

    def build(self) -> FlowMo:
        """The network with its made-up weights, float32, in evaluation mode.

        Raises:
            CheckpointError, RuntimeError: names or shapes are not those of our network.
        """
        with torch.device("meta"):
            network = FlowMo(self.config)
        weights = {name: made_weight(name, shape) for name, shape in self.state_dict_shapes.items()}
        network.load_state_dict(weights, strict=True, assign=True)
        return network.eval()


def made_weight(name: str, shape: list[int]) -> Tensor:
    """The weight that a parity file means by a name (SPEC "Parity files")."""
    generator = np.random.Generator(np.random.PCG64(zlib.crc32(name.encode())))
    n = generator.standard_normal(shape).astype(np.float32)
    if name.endswith(".scale"):
        return torch.from_numpy(1 + np.float32(0.1) * n)
    if len(shape) == 1:
        return torch.from_numpy(np.float32(0.1) * n)
    return torch.from_numpy(n / np.float32(np.sqrt(shape[-1])))


def read_parity_file(path: Path) -> ParityFile:
    """Read one file.

    Raises:
        KeyError, ValueError: it is not a parity file.
    """
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    if missing := {"config", "state_dict"} - set(metadata):
        raise ValueError(f"{path} is no parity file: its metadata lacks {sorted(missing)}")
    raw: dict[str, Any] = json.loads(metadata["config"])
    return ParityFile(
        path=path,
        config=FlowMoConfig(
            name=path.stem,
            image_size=max(tensors["image"].shape[2:]),
            patch_size=raw["patch_size"],
            encoder=TransformerConfig(
                width=CHANNELS_PER_WIDTH * raw["enc_mup_width"], depth=raw["enc_depth"]
            ),
            decoder=TransformerConfig(
                width=CHANNELS_PER_WIDTH * raw["mup_width"], depth=raw["dec_depth"]
            ),
            code_length=raw["code_length"],
            token_bits=raw["context_dim"],
            group_bits=raw["codebook_size_for_entropy"],
            quantizer=_QUANTIZERS[raw["quantization_type"]],
        ),
        state_dict_shapes=json.loads(metadata["state_dict"]),
        loss_weights=(raw["entropy_loss_weight"], raw["commit_loss_weight"]),
        tensors=tensors,
    )
