"""The first line of a run: what is trained, on what, with what, and until when."""

import torch

from flowmo.training.loop.bar import duration
from flowmo.training.loop.mesh import Mesh
from flowmo.training.loop.state import TrainState
from flowmo.training.tasks.task import AnyTask


def start_line(task: AnyTask, state: TrainState, mesh: Mesh) -> str:
    """A run in one line.

    Args:
        task: What is trained.
        state: The model, and how far the run is.
        mesh: The run's processes.
    """
    config, done = task.config, state.progress
    parameters = sum(parameter.numel() for parameter in state.model.parameters())
    end = f"{config.steps:,} steps"
    if config.max_minutes is not None:
        end = f"at most {end} or {duration(60 * config.max_minutes)}"
    parts = [
        f"{task.title}: {config.model.name}, {parameters / 1e6:.2f} M parameters",
        f"{done.images:,} images",
        f"{_device(mesh)}, {config.precision}",
        f"batch {config.batch_size:,}",
        end if done.step == 0 else f"{end}, of which {done.step:,} are done",
    ]
    return "; ".join(parts)


def _device(mesh: Mesh) -> str:
    if mesh.device.type == "cuda":
        name = torch.cuda.get_device_name(mesh.device)
    else:
        name = f"{mesh.device.type} ({torch.get_num_threads()} threads)"
    return name if mesh.size == 1 else f"{mesh.size} processes ({mesh.parallel}) on {name}"
