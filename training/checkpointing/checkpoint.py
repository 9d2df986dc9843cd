"""Checkpoints of a run on disk: one folder each, written whole or not at all.

    RUN/checkpoints/step_000001500/shard-00001-....safetensors   what process 1 of the run held
                                   state.json   format, step, data position, config

Tensors are written by torch's distributed checkpointing in its safetensors form: each process
writes its own shards, and any number of processes reads them. Nothing is pickled. A folder is
written under a temporary name, flushed, and then renamed, so a folder with its final name is
complete. Folders of format 1 (one ``state.safetensors``) are read, too.
"""

import json
import re
import shutil
import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors import SafetensorError
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import (
    HuggingFaceStorageReader,
    HuggingFaceStorageWriter,
)
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import async_save
from torch.distributed.tensor import DTensor

from flowmo.model.errors import CheckpointError
from flowmo.model.files import publish_folder
from flowmo.training.loop.mesh import Mesh

FORMAT = 2
_READABLE = (1, 2)
_RECORD = "state.json"
_NAME = re.compile(r"step_(\d{9,})")


@dataclass(frozen=True, kw_only=True, slots=True)
class Checkpoint:
    """What a checkpoint folder holds; tensors are read when they are asked for.

    Attributes:
        path: the folder.
        shapes: The shapes of the whole tensors, by name.
        progress: the training state's record.
        config: the run's config, in JSON form.
        meters: sums of the steps since the last log line, of each process that saved; empty in
            older checkpoints.
    """

    path: Path
    shapes: dict[str, tuple[int, ...]]
    progress: dict[str, Any]
    config: dict[str, Any]
    meters: list[dict[str, Any]]

    def read_into(self, tensors: Mapping[str, Tensor]) -> None:
        """Fill tensors, whole ones or shards, with those of the checkpoint.

        All processes of a run must call it together.

        Args:
            tensors: by name; each is in :attr:`shapes`, with its shape there.

        Raises:
            CheckpointError: a file is damaged.
        """
        _expect_single_process()
        try:
            load(
                dict(tensors),
                storage_reader=HuggingFaceStorageReader(str(self.path)),
                no_dist=not dist.is_initialized(),
            )
        except (OSError, SafetensorError, CheckpointException) as error:
            raise _unreadable(self.path, error) from error

    def tensors(self) -> dict[str, Tensor]:
        """All tensors, whole, on the CPU, in the dtypes they were saved in."""
        dtypes = HuggingFaceStorageReader(str(self.path)).read_metadata().state_dict_metadata
        found = {
            name: torch.empty(shape, dtype=dtypes[name].properties.dtype)  # type: ignore[union-attr]
            for name, shape in self.shapes.items()
        }
        self.read_into(found)
        return found


def checkpoint_folders(run: Path) -> list[Path]:
    """The complete checkpoints of a run, oldest first."""
    return [path for _, path in sorted(_by_step(run).items())]


def checkpoint_step(path: Path) -> int:
    """The step of a checkpoint folder."""
    match = _NAME.fullmatch(path.name)
    assert match is not None, path
    return int(match[1])


def _by_step(run: Path) -> dict[int, Path]:
    return {
        int(match[1]): path
        for path in (run / "checkpoints").glob("step_*")
        if (match := _NAME.fullmatch(path.name))
    }


def load_checkpoint(path: Path) -> Checkpoint:
    """Open a checkpoint folder.

    Raises:
        CheckpointError: files are missing, damaged, or of another format version.
    """
    try:
        record = json.loads((path / _RECORD).read_text())
        found = HuggingFaceStorageReader(str(path)).read_metadata().state_dict_metadata
    except (OSError, ValueError, SafetensorError) as error:
        raise _unreadable(path, error) from error
    if not isinstance(record, dict) or record.get("format") not in _READABLE:
        raise CheckpointError(
            f"{path} has another checkpoint format than {FORMAT}, which this version reads"
        )
    if len(list(path.glob("*.safetensors"))) < record.get("files", 1):
        raise _unreadable(path, FileNotFoundError("files of some processes are missing"))
    return Checkpoint(
        path=path,
        shapes={name: tuple(one.size) for name, one in found.items()},  # type: ignore[union-attr]
        progress=record["progress"],
        config=record["config"],
        meters=record.get("meters", []),
    )


def _unreadable(path: Path, error: BaseException) -> CheckpointError:
    return CheckpointError(
        f"{path} is no readable checkpoint ({error}); delete it to fall back to an older one"
    )


def _expect_single_process() -> None:
    # torch warns whenever one process saves or loads by itself, which is what is meant here.
    warnings.filterwarnings("ignore", message="torch.distributed is disabled, unavailable")


class CheckpointWriter:
    """Writes checkpoints while training goes on.

    A save copies the tensors to memory of the host and returns; the files are written by a thread.
    The next save, and the end of the block, wait for it. What fails there is raised by
    :meth:`check`, or then.

    Args:
        run: the run's folder, one that all processes see.
        mesh: The mesh of the run.
    """

    def __init__(self, run: Path, mesh: Mesh) -> None:
        self._folder, self._mesh = run / "checkpoints", mesh
        # Collectives of the writing thread must not meet those of the training thread.
        self._group = dist.new_group(backend="gloo") if mesh.size > 1 else None
        # Page-locked buffers, kept for the next save: copies from a GPU run at the bus' speed.
        self._stager = (
            DefaultStager(
                StagingOptions(
                    use_pinned_memory=True,
                    use_shared_memory=False,
                    use_async_staging=False,
                    use_non_blocking_copy=True,
                )
            )
            if mesh.device.type == "cuda"
            else None
        )
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._pending: Future[None] | None = None
        if mesh.is_main:
            for leftover in self._folder.glob(".step_*"):  # of a process that was killed
                shutil.rmtree(leftover, ignore_errors=True)
        mesh.wait()

    def save(
        self,
        tensors: Mapping[str, Tensor],
        *,
        progress: dict[str, Any],
        config: dict[str, Any],
        meters: Sequence[dict[str, Any]] = (),
        before: Callable[[], None] | None = None,
        then: Callable[[Path], None] | None = None,
    ) -> Path:
        """Begin to write a checkpoint; all processes call it together.

        Args:
            tensors: The tensors of the training state; they may change as soon as this returns.
            progress: its record; ``step`` names the folder.
            config: the run's config, in JSON form.
            meters: sums since the last log line, of each process.
            before: is called on the writing thread of the main process before the folder gets its
                name: where there is a checkpoint, what this does is done.
            then: the same after that, with the folder.

        Returns:
            The folder that it will have.

        Raises:
            CheckpointError: the save before could not be written.
        """
        self.wait()
        target = self._folder / f"step_{progress['step']:09d}"
        temporary = target.with_name(f".{target.name}.new")
        if self._mesh.is_main:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
        self._mesh.wait()
        record = {
            "format": FORMAT,
            "progress": progress,
            "config": config,
            "meters": list(meters),
        }
        _expect_single_process()
        # torch would deal out whole copies too, but only when each process has copied all of them.
        whole_copies = self._mesh.parallel == "ddp"
        mine = dealt(tensors, self._mesh.rank, self._mesh.size) if whole_copies else tensors
        writing: Any = async_save(
            # Those on the CPU would be written as they are then; the others are copied by torch.
            {name: _copied(tensor) for name, tensor in mine.items()},
            storage_writer=HuggingFaceStorageWriter(str(temporary), save_distributed=True),
            async_stager=self._stager,
            process_group=self._group,
            no_dist=self._mesh.size == 1,
        )

        def finish() -> None:
            writing.result()  # of all processes: it ends with a collective
            if not self._mesh.is_main:
                return
            if before is not None:
                before()
            self._publish(temporary, target, record)
            if then is not None:
                then(target)

        self._pending = self._pool.submit(finish)
        return target

    def submit(self, job: Callable[[], None]) -> None:
        """Have something else done on the writing thread, in its turn.

        Raises:
            CheckpointError: the save before could not be written.
        """
        self.wait()
        self._pending = self._pool.submit(job)

    def _publish(self, temporary: Path, target: Path, record: dict[str, Any]) -> None:
        # Not every process has something to write.
        record |= {"files": len(list(temporary.glob("*.safetensors")))}
        (temporary / _RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        publish_folder(temporary, target)

    def check(self) -> None:
        """Raise what has failed so far, without waiting.

        Raises:
            CheckpointError: the last save could not be written.
        """
        if self._pending is not None and self._pending.done():
            self.wait()

    def wait(self) -> None:
        """Until what was begun is on disk.

        Raises:
            CheckpointError: it could not be written.
        """
        pending, self._pending = self._pending, None
        if pending is None:
            return
        try:
            pending.result()
        except (OSError, SafetensorError, CheckpointException) as error:
            raise CheckpointError(f"a checkpoint could not be written: {error}") from error

    def close(self) -> None:
        """Wait, and end the thread.

        Raises:
            CheckpointError: the last checkpoint could not be written.
        """
        try:
            self.wait()
        finally:
            self._pool.shutdown()
            if self._stager is not None:
                self._stager.close()


def dealt(tensors: Mapping[str, Tensor], rank: int, size: int) -> dict[str, Tensor]:
    """A process' share of tensors that all have: the largest first, to whoever has least so far."""
    loads = [0] * size
    mine = {}
    for name in sorted(tensors, key=lambda name: (-tensors[name].nbytes, name)):
        owner = loads.index(min(loads))
        loads[owner] += tensors[name].nbytes
        if owner == rank:
            mine[name] = tensors[name]
    return mine


def _copied(tensor: Tensor) -> Tensor:
    held = tensor.to_local() if isinstance(tensor, DTensor) else tensor
    return tensor.detach().clone() if held.device.type == "cpu" else tensor.detach()
