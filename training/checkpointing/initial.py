"""Weights that a run begins with, out of a checkpoint."""

import torch

from flowmo.model.checkpoint import inspect_checkpoint, load_weights
from flowmo.model.config import FlowMoConfig
from flowmo.model.errors import ConfigError
from flowmo.model.hub import resolve_checkpoint


@torch.no_grad()
def load_initial(model: torch.nn.Module, checkpoint: str) -> None:
    """Copy a checkpoint's weights into a model of the same sizes.

    Args:
        model: a FlowMo network; its weights keep their dtype and device.
        checkpoint: folder or hub repository.

    Raises:
        CheckpointError: there is none.
        ConfigError: it is of other sizes.
    """
    config = model.config
    assert isinstance(config, FlowMoConfig)
    info = inspect_checkpoint(resolve_checkpoint(checkpoint))
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
    different = sorted(
        n for n in shapes.keys() | info.shapes if shapes.get(n) != info.shapes.get(n)
    )
    if different:
        raise ConfigError(
            f"init = {checkpoint} is a model of other sizes than the run's: {len(different)} "
            f"tensors differ, such as {different[0]}. Its sizes are taken over by --init, or by "
            f"flowmo.training.start_from"
        )
    for name, weight in load_weights(info).items():
        model.get_parameter(name).copy_(weight)
