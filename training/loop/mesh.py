"""What the loop knows of the other processes: a device mesh, and how they agree.

One process is one without a process group; under ``torchrun`` or Ray Train each process finds
itself in the environment (RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT).
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from flowmo.model.errors import ConfigError
from flowmo.training.config import Parallel
from flowmo.training.loop.device import choose_device

T = TypeVar("T")

# Longer than the slowest thing that one rank does while the others wait: a checkpoint's export.
_TIMEOUT = timedelta(minutes=15)
# Gradients are reduced in pieces of this size, so that their flat copy stays small.
_BUCKET_NUMBERS = 64 * 2**20


@dataclass(frozen=True, kw_only=True, slots=True)
class Mesh:
    """This process among those of a run.

    Attributes:
        rank: The rank of this process, 0 to size - 1; 0 writes logs, pictures and models.
        size: processes of the run.
        device: where this one computes.
        parallel: ``none``, ``ddp`` (whole copies) or ``fsdp`` (sharded weights).
        mesh: the device mesh; None for one process.
    """

    rank: int = 0
    size: int = 1
    device: torch.device
    parallel: Parallel = "none"
    mesh: DeviceMesh | None = None

    @property
    def is_main(self) -> bool:
        """Whether this process speaks for the run."""
        return self.rank == 0

    def agree(self, *flags: bool, seconds: float = 0.0) -> tuple[tuple[bool, ...], float]:
        """What is true on any rank, and the main rank's number.

        Every rank must call it at the same place, so that decisions by a clock or a signal are the
        same everywhere.

        Args:
            flags: The flags of this rank.
            seconds: at least 0; only the main rank's counts.
        """
        if self.size == 1:
            return flags, seconds
        values = [float(flag) for flag in flags] + [seconds if self.is_main else 0.0]
        numbers = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(numbers, op=dist.ReduceOp.MAX)
        *found, last = numbers.tolist()
        return tuple(bool(value) for value in found), last

    def gather(self, value: T) -> list[T]:
        """All ranks' values, in the order of the ranks. Not for every step: it is slow."""
        if self.size == 1:
            return [value]
        gathered: list[T | None] = [None] * self.size
        dist.all_gather_object(gathered, value)
        return cast("list[T]", gathered)

    def share(self, count: int) -> list[int]:
        """This rank's part of the numbers below ``count``, round robin.

        All ranks have equally many, because sharded weights are gathered by all of them together:
        the last ranks may repeat the last number.
        """
        rounds = -(-count // self.size)
        return [min(self.rank + self.size * one, count - 1) for one in range(rounds)]

    def join(self, found: Mapping[int, T]) -> list[T]:
        """What all ranks found for the numbers of :meth:`share`, in the order of the numbers."""
        merged: dict[int, T] = {}
        for part in self.gather(dict(found)):
            merged |= part
        return [merged[number] for number in sorted(merged)]

    def union(self, items: Sequence[int]) -> list[int]:
        """All ranks' items, each once, in the order of the ranks."""
        (any_there,), _ = self.agree(bool(items))
        if not any_there:
            return []
        return list(dict.fromkeys(item for part in self.gather(items) for item in part))

    def of_main(self, number: float) -> float:
        """The main rank's number, so that what follows from it is the same everywhere."""
        if self.size > 1:
            held = torch.tensor(number, dtype=torch.float64)
            dist.broadcast(held, src=0)
            number = held.item()
        return number

    def mean(self, numbers: Tensor) -> Tensor:
        """Mean over the ranks of a tensor of float numbers, in place."""
        if self.size > 1:
            dist.all_reduce(numbers)
            numbers /= self.size
        return numbers

    def wait(self) -> None:
        """Until all ranks are here."""
        if self.size > 1:
            dist.barrier()

    def average_gradients(self, gradients: Sequence[Tensor]) -> None:
        """Replace gradients by their mean over the ranks (``ddp``).

        Once an optimizer step, whatever the accumulation, over flat copies of bounded size. Every
        rank must have gradients of the same parameters, which it has: all compute the same graph.
        """
        if self.parallel != "ddp":
            return
        bucket: list[Tensor] = []
        numbers = 0
        for gradient in gradients:
            if bucket and numbers + gradient.numel() > _BUCKET_NUMBERS:
                self._average(bucket)
                bucket, numbers = [], 0
            bucket.append(gradient)
            numbers += gradient.numel()
        if bucket:
            self._average(bucket)

    def _average(self, gradients: list[Tensor]) -> None:
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        self.mean(flat)
        parts = flat.split([gradient.numel() for gradient in gradients])
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view_as(gradient))


@contextmanager
def open_mesh(device: str, parallel: Parallel, *, shard_size: int | None = None) -> Iterator[Mesh]:
    """Find this process' place, and join the others for as long as the block runs.

    Args:
        device: ``auto`` or a torch device; with several processes its kind, each taking the GPU
            of its local rank.
        parallel: ``auto`` is ``none`` for one process and ``ddp`` for several.
        shard_size: with ``fsdp``, processes that share one copy of the weights; None for all.
            Copies of fewer processes than all are kept alike by averaging (hybrid sharding).

    Raises:
        ConfigError: the device cannot be used, or the sizes do not fit.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1 and parallel != "fsdp":
        if parallel == "ddp":
            raise ConfigError("parallel=ddp needs several processes: start it with torchrun")
        yield Mesh(device=choose_device(device))
        return
    if size > 1 and parallel == "none":
        raise ConfigError(f"parallel=none is one process, and torchrun started {size}: use auto")
    own = _local_device(device)
    chosen: Parallel = "ddp" if parallel == "auto" else parallel
    joined = not dist.is_initialized()
    if joined:
        if "MASTER_ADDR" not in os.environ:
            raise ConfigError(
                "several processes, or parallel=fsdp, need torchrun's environment: start it with "
                "torchrun --nproc-per-node N -m flowmo train ..."
            )
        backend = "cpu:gloo,cuda:nccl" if own.type == "cuda" else "gloo"
        dist.init_process_group(backend, timeout=_TIMEOUT)
    try:
        mesh = _device_mesh(own.type, chosen, dist.get_world_size(), shard_size)
        yield Mesh(
            rank=dist.get_rank(),
            size=dist.get_world_size(),
            device=own,
            parallel=chosen,
            mesh=mesh,
        )
    finally:
        if joined:
            dist.destroy_process_group()


def _local_device(device: str) -> torch.device:
    chosen = choose_device(device)
    if chosen.type != "cuda":
        return chosen
    local = int(os.environ.get("LOCAL_RANK", "0"))
    if local >= torch.cuda.device_count():
        raise ConfigError(
            f"process {local} of this machine has no GPU: there are {torch.cuda.device_count()}; "
            f"start as many processes as there are GPUs"
        )
    own = torch.device("cuda", local)
    torch.cuda.set_device(own)
    return own


def _device_mesh(kind: str, parallel: Parallel, size: int, shard_size: int | None) -> DeviceMesh:
    if parallel != "fsdp" or shard_size is None or shard_size == size:
        name = "shard" if parallel == "fsdp" else "replicate"
        return init_device_mesh(kind, (size,), mesh_dim_names=(name,))
    if size % shard_size:
        raise ConfigError(f"shard_size {shard_size} must divide the number of processes, {size}")
    return init_device_mesh(
        kind, (size // shard_size, shard_size), mesh_dim_names=("replicate", "shard")
    )
