"""Initial weights and Adam's learning rates in muP (supplement A.1; docs/decisions/0016).

The forward pass is the published one at every width, so muP lives only in the initial scales and
in one learning rate a tensor. With r = width / base width, by the tensor's role:

    role      initial standard deviation        Adam's rate
    input     1 / sqrt(fan_in)                  eta
    hidden    1 / sqrt(fan_in)                  eta / r
    readout   1 / sqrt(fan_in r), or 0          eta / r
    vector    0, 1 or a unit normal             eta

That is ``optimizer.init=adaln-zero``. With ``published`` every Linear begins as PyTorch has it,
uniform within 1 / sqrt(fan_in) (a standard deviation of 1 / sqrt(3 fan_in)), and the width's part
is the same: readouts are divided by sqrt(r), and biases of hidden and readout layers multiplied by
it, because their bound, too, shrinks with fan_in.

The rule is muP's table for Adam with its multipliers absorbed (Yang and Hu, "Tensor Programs V",
table 3). At r = 1 it is the standard parametrization.
"""

import math
from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor, nn

from flowmo.model.config import FlowMoConfig
from flowmo.training.config import OptimizerConfig
from flowmo.training.tasks.task import ParameterGroup

Role = Literal["input", "hidden", "readout", "vector"]

# Their input dimension does not grow with the width.
_INPUTS = ("img_in", "txt_in", "time_in.in_layer")
# Their output dimension does not.
_READOUTS = ("final_layer_img.linear", "final_layer_txt.linear", "out")
_PATCH_READOUT = "decoder.final_layer_img.linear"
# The only readout that training starts from a non-zero value: from a zero code every sign would
# be the same. Velocity 0 on the other hand is the best constant guess.
_CODE_READOUT = "encoder.final_layer_txt.linear"
_MODULATION = (".img_mod.lin", ".txt_mod.lin", ".adaLN_modulation.1")
_GATE_CHUNKS = (2, 5)  # of the six chunks of a block's modulation: shift, scale, gate, twice


def role(name: str, parameter: Tensor) -> Role:
    """What the width does to a parameter, by its name in the network."""
    if parameter.ndim < 2:
        return "vector"
    owner = name.removesuffix(".weight").partition(".")[2]
    if owner in _INPUTS:
        return "input"
    return "readout" if owner in _READOUTS else "hidden"


def width_ratio(name: str, config: FlowMoConfig, optimizer: OptimizerConfig) -> float:
    """r of the half of the network that holds the parameter; 1 if not in muP."""
    if optimizer.parametrization == "standard" or name.startswith("head."):
        return 1.0  # a head's channels do not grow with the width
    if optimizer.base_width is None:
        return 1.0
    half = config.encoder if name.startswith("encoder.") else config.decoder
    return half.width / optimizer.base_width


@torch.no_grad()
def initialize(
    model: nn.Module, config: FlowMoConfig, optimizer: OptimizerConfig, *, seed: int
) -> None:
    """Set every parameter of a FlowMo network to its initial value, in place.

    With ``published`` the layers are PyTorch's and the residual gates 0. With ``adaln-zero``
    modulations and the velocity readout start at 0 (adaLN-zero), residual gates at
    ``optimizer.initial_gate``, biases at 0 except those of ``txt_in``: they are all that the text
    stream holds where its input is nothing (the encoder's zero vectors, the null condition), and
    a layer norm of exact zeros would multiply gradients by 1000. All K tokens share that vector
    and differ from the first attention on by their rotary positions.

    Args:
        model: network with the parameter names of the published checkpoints.
        config: its config.
        optimizer: parametrization, base width, kind of initial values and initial gate.
        seed: The seed of a CPU generator, so that the weights are the same on every device.
    """
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        owner, _, kind = name.rpartition(".")
        if kind == "scale":
            parameter.fill_(1.0)
        elif optimizer.init == "published" and not name.startswith("head."):
            _published(model, name, parameter, config, optimizer, generator)
        elif owner.endswith(_MODULATION):
            parameter.zero_()
            if kind == "bias" and owner.endswith(".lin"):
                for chunk in _GATE_CHUNKS:
                    parameter.view(6, -1)[chunk] = optimizer.initial_gate
        elif kind == "bias":
            std = 1.0 if owner.endswith(".txt_in") else 0.0
            _normal(parameter, std, generator)
        else:
            std = 1.0 / math.sqrt(parameter[0].numel())
            if role(name, parameter) == "readout":
                ratio = width_ratio(name, config, optimizer)
                std = std / math.sqrt(ratio) if owner == _CODE_READOUT else 0.0
            _normal(parameter, std, generator)
            if name == "head.pixels.weight":
                # The noise would drown what else the head sees, and it would learn to say nothing.
                parameter[:, 3:] = 0.0
            if owner == _PATCH_READOUT and config.head:
                # Its last rows feed the head, whose own readout starts at 0.
                rest = parameter[config.patch_dim :]
                _normal(rest, 1.0 / math.sqrt(parameter.shape[1]), generator)


def _published(
    model: nn.Module,
    name: str,
    parameter: Tensor,
    config: FlowMoConfig,
    optimizer: OptimizerConfig,
    generator: torch.Generator,
) -> None:
    """PyTorch's default of a Linear, in muP away from the base width; gates closed."""
    owner, _, kind = name.rpartition(".")
    weight = model.get_parameter(f"{owner}.weight")
    ratio = width_ratio(name, config, optimizer)
    of_layer = role(f"{owner}.weight", weight)
    bound = 1.0 / math.sqrt(weight.shape[1])
    if kind == "weight" and of_layer == "readout":
        bound /= math.sqrt(ratio)
    elif kind == "bias" and of_layer != "input":
        bound *= math.sqrt(ratio)
    parameter.copy_(torch.rand(parameter.shape, generator=generator) * (2 * bound) - bound)
    if owner.endswith(_MODULATION) and owner.endswith(".lin"):
        for chunk in _GATE_CHUNKS:
            rows = parameter.view(6, -1, *parameter.shape[1:])[chunk]
            rows.fill_(optimizer.initial_gate if kind == "bias" else 0.0)


def _normal(parameter: Tensor, std: float, generator: torch.Generator) -> None:
    if std == 0.0:
        parameter.zero_()
    else:
        parameter.copy_(torch.randn(parameter.shape, generator=generator) * std)


def parameter_groups(
    model: nn.Module, config: FlowMoConfig, optimizer: OptimizerConfig
) -> list[ParameterGroup]:
    """Every parameter once, grouped by its multiple of the learning rate.

    Weight decay, where asked for, is on matrices only.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for parameter, multiplier in _multipliers(model, config, optimizer):
        decay = optimizer.weight_decay if parameter.ndim >= 2 else 0.0
        groups.setdefault((multiplier, decay), []).append(parameter)
    return [ParameterGroup(*key, parameters) for key, parameters in groups.items()]


def _multipliers(
    model: nn.Module, config: FlowMoConfig, optimizer: OptimizerConfig
) -> Iterator[tuple[nn.Parameter, float]]:
    for name, parameter in model.named_parameters():
        scaled = role(name, parameter) in ("hidden", "readout")
        multiplier = 1 / width_ratio(name, config, optimizer) if scaled else 1.0
        yield parameter, multiplier * (optimizer.head_rate if name.startswith("head.") else 1.0)
