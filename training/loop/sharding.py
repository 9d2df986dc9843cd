"""Sharded weights (FSDP2), and tensors that may be shards.

The rest of the code works on what this process holds of a tensor (:func:`local`), so that one
process, whole copies and shards take the same path.
"""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, Shard

from flowmo.training.config import Precision
from flowmo.training.loop.mesh import Mesh
from flowmo.training.tasks.task import ShardedPart


def shard(
    model: nn.Module,
    parts: Sequence[ShardedPart],
    mesh: Mesh,
    *,
    precision: Precision,
    compile_blocks: bool,
) -> None:
    """Shard a model's weights over the processes, in place, if the mesh is ``fsdp``.

    A block is one unit, and what a part has beside its blocks another: gathered when it runs, and
    let go of after that. Weights stay float32; with ``bf16`` they are gathered and computed with in
    bfloat16, gradients are reduced in float32.

    Args:
        model: The whole model, on the mesh's device.
        parts: What is gathered separately (:meth:`flowmo.training.tasks.task.Task.sharded_parts`);
            together they hold all weights.
        mesh: The run's processes.
        precision: The precision of the computation.
        compile_blocks: Whether to ``torch.compile`` each block first, so that gathering stays
            outside.
    """
    if mesh.parallel != "fsdp":
        return
    held = {id(p) for part in parts for p in part.root.parameters()}
    assert held == {id(p) for p in model.parameters()}, "a weight is in no part"
    # What a part gives may be a view of a projection, which nothing changes in place.
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
    policy = MixedPrecisionPolicy(
        param_dtype=torch.bfloat16 if precision == "bf16" else None,
        reduce_dtype=torch.float32,
        # Times must not lose digits; autocast sees to the rest.
        cast_forward_inputs=False,
    )
    options: dict[str, Any] = {"mesh": mesh.mesh, "mp_policy": policy}
    for part in parts:
        for block in part.blocks:
            if compile_blocks:
                block.compile()
            fully_shard(block, reshard_after_forward=True, **options)
        # What a root gathered is let go of like all else, or the average could not be exchanged for
        # it.
        fully_shard(part.root, reshard_after_forward=True, **options)


@contextmanager
def last_only(model: nn.Module, *, is_last: bool) -> Iterator[None]:
    """Gradients are reduced in a step's last micro-batch only, where weights are sharded."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.set_requires_gradient_sync(is_last, recurse=False)
    yield


def is_sharded(model: nn.Module) -> bool:
    """Whether :func:`shard` has done something."""
    return any(isinstance(module, FSDPModule) for module in model.modules())


def local(tensor: Tensor) -> Tensor:
    """What this process holds of a tensor; the tensor itself if it is whole. Shares storage."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole(tensor: Tensor) -> Tensor:
    """The whole tensor, gathered from all processes if it is sharded; detached."""
    return tensor.full_tensor().detach() if isinstance(tensor, DTensor) else tensor.detach()


def like(tensor: Tensor, held: Tensor) -> Tensor:
    """``held`` as this process' part of a tensor that is laid out like another."""
    if not isinstance(tensor, DTensor):
        return held
    return DTensor.from_local(
        held,
        tensor.device_mesh,
        tensor.placements,
        shape=tensor.shape,
        stride=tensor.stride(),
        run_check=False,
    )


def norms(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Frobenius norms of whole tensors, scalars on their device."""
    parts = torch._foreach_norm([local(tensor) for tensor in tensors])
    if not any(isinstance(tensor, DTensor) for tensor in tensors):
        return list(parts)
    squares = torch.stack(list(parts)).square()
    first = cast("DTensor", tensors[0])
    for dimension, placement in enumerate(first.placements):
        if isinstance(placement, Shard):
            dist.all_reduce(squares, group=first.device_mesh.get_group(dimension))
    return list(squares.sqrt().unbind())


def rescale(tensors: Sequence[Tensor], factors: Sequence[Tensor]) -> None:
    """Multiply each tensor by its scalar, in place."""
    torch._foreach_mul_([local(tensor) for tensor in tensors], list(factors))
