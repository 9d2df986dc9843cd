"""Checkpoints of a run on disk: one folder each, written whole or not at all.

    RUN/checkpoints/step_000001500/state.safetensors   every tensor of the training state
                                   state.json          format, step, data position, config

Nothing is pickled. A folder is written under a temporary name, flushed, and then renamed, so a
folder with its final name is complete.
"""

import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from model.errors import CheckpointError
from training.files import replacing_folder

FORMAT = 1
_TENSORS, _RECORD = "state.safetensors", "state.json"
_NAME = re.compile(r"step_(\d{9,})")


@dataclass(frozen=True, kw_only=True, slots=True)
class Checkpoint:
    """What a checkpoint folder holds.

    Attributes:
        path: the folder.
        tensors: the training state's tensors, on the CPU.
        progress: the training state's record.
        config: the run's config, in JSON form.
    """

    path: Path
    tensors: dict[str, Tensor]
    progress: dict[str, Any]
    config: dict[str, Any]


def checkpoint_folders(run: Path) -> list[Path]:
    """The complete checkpoints of a run, oldest first."""
    found = [
        (int(match[1]), path)
        for path in (run / "checkpoints").glob("step_*")
        if (match := _NAME.fullmatch(path.name))
    ]
    return [path for _, path in sorted(found)]


def save_checkpoint(
    run: Path,
    *,
    tensors: dict[str, Tensor],
    progress: dict[str, Any],
    config: dict[str, Any],
    keep: int,
) -> Path:
    """Write a checkpoint and delete all but the latest ``keep``.

    Args:
        run: the run's folder.
        tensors: the training state's tensors.
        progress: its record; ``step`` names the folder.
        config: the run's config, in JSON form.
        keep: how many checkpoints stay.

    Returns:
        The checkpoint's folder.
    """
    target = run / "checkpoints" / f"step_{progress['step']:09d}"
    with replacing_folder(target) as temporary:
        cpu = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        save_file(cpu, temporary / _TENSORS)
        record = {"format": FORMAT, "progress": progress, "config": config}
        (temporary / _RECORD).write_text(json.dumps(record, indent=2) + "\n")
    for old in checkpoint_folders(run)[:-keep]:
        shutil.rmtree(old)
    return target


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint folder.

    Raises:
        CheckpointError: files are missing, damaged, or of another format version.
    """
    try:
        record = json.loads((path / _RECORD).read_text())
        tensors = load_file(path / _TENSORS)
    except (OSError, ValueError, SafetensorError) as error:
        raise CheckpointError(
            f"{path} is no readable checkpoint ({error}); delete it to fall back to an older one"
        ) from error
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise CheckpointError(
            f"{path} has another checkpoint format than {FORMAT}, which this version reads"
        )
    return Checkpoint(
        path=path, tensors=tensors, progress=record["progress"], config=record["config"]
    )
