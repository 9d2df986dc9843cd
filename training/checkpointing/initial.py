"""Weights that a run begins with, out of a checkpoint."""

import torch

from flowmo.model.checkpoint import inspect_checkpoint, load_weights
from flowmo.model.config import FlowMoConfig
from flowmo.model.errors import ConfigError
from flowmo.model.hub import resolve_checkpoint


@torch.no_grad()
def load_initial(model: torch.nn.Module, checkpoint: str, *, grown: bool = False) -> None:
    """Copy a checkpoint's weights into a model of the same sizes.

    Args:
        model: a FlowMo network; its weights keep their dtype and device.
        checkpoint: folder or hub repository.
        grown: the model may have parts that the checkpoint's lacks: it keeps its own weights where
            the checkpoint has none, and takes what there is as the first rows where its are more.

    Raises:
        CheckpointError: there is none.
        ConfigError: it is of other sizes; if ``grown``, a tensor of it has no place in the model.
    """
    config = model.config
    assert isinstance(config, FlowMoConfig)
    info = inspect_checkpoint(resolve_checkpoint(checkpoint))
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
    if grown:
        different = sorted(
            name
            for name, shape in info.shapes.items()
            if name not in shapes or shapes[name][1:] != shape[1:] or shapes[name][0] < shape[0]
        )
    else:
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
        model.get_parameter(name)[: len(weight)].copy_(weight)
