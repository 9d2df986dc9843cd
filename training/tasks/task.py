"""What the loop asks of whatever it trains, and nothing else: the contract of a task.

A task owns everything that depends on the model's class or on what a sample is: how the model is
built and grouped for the optimizer, what data it reads, which random numbers a step draws, the
loss, what is shown and measured while training, and how the averaged weights become a checkpoint.
The loop owns steps, learning rates, gradients, averages, processes, checkpoints and logs.

The loop calls a task in this order, in every process of the run:

    config = cls.complete(config)            # what the data decides
    task = cls(config, device)
    data = task.open_data(report)            # before anything slow
    model = task.build_model()               # whole, on the CPU; then moved, and sharded perhaps
    task.start(model, data)                  # after a checkpoint was restored
    each step   task.freeze(model, step)
                inputs = task.inputs(batch)  # this process' part
                draws = task.draw(generators)           # the whole batch's, alike in all processes
                for each micro-batch
                    draws = task.prepare(model, inputs, draws, positions)
                    objective = task.objective(model, inputs, draws)
    when due    task.sample(model), task.validate(model), task.export(weights, folder)

Inputs and draws are tensors whose first dimension is the batch's, or named tuples of such tensors
and of None (:func:`flowmo.training.tasks.batch.split`), so that a batch of images and one of token
ids and labels take the same path.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Generic, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor, nn

from flowmo.imaging.reading import Pixels
from flowmo.model.errors import ConfigError
from flowmo.training.config import AnyTrainConfig
from flowmo.training.loop.generators import Generators
from flowmo.training.loop.mesh import Mesh
from flowmo.training.tasks.objective import Objective

M = TypeVar("M", bound=nn.Module)
B = TypeVar("B", bound="Batch")
I = TypeVar("I")  # noqa: E741 - the inputs
D = TypeVar("D")

Report = Callable[[str], None]


class Batch(Protocol):
    """One step's samples as the loader gives them, on the CPU."""

    @property
    def unreadable(self) -> Sequence[int]:
        """The indices of samples that could not be read and that others stand in for."""
        ...


class TrainingData(Protocol):
    """Samples by position; the content of a batch is a pure function of seed and position."""

    def __len__(self) -> int:
        """The number of samples of an epoch."""
        ...

    def load(self, report: Report) -> None:
        """Bring into memory what is to be kept there; called once, before the first batch."""
        ...

    def batches(
        self, *, start: int, steps: int, part: tuple[int, int], pin: bool
    ) -> AbstractContextManager[Iterator[Any]]:
        """The batches of ``steps`` steps.

        Args:
            start: The position of the first sample, counted from the start of the run.
            steps: The number of batches.
            part: (i, n) for the i-th of n equal pieces of each batch.
            pin: Whether batches go to page-locked memory, for a GPU.
        """
        ...

    def name(self, index: int) -> str:
        """Where a sample is, for messages."""
        ...

    def check_unreadable(self, known: Sequence[int]) -> None:
        """Bear some unreadable samples, and no more.

        Raises:
            DataError: There are too many.
        """
        ...

    def close(self) -> None:
        """Close the files that reads have opened."""
        ...


class ParameterGroup(NamedTuple):
    """Tensors that share a learning rate and a weight decay.

    Attributes:
        multiplier: The factor on the run's learning rate.
        weight_decay: The decoupled decay.
        parameters: The tensors.
    """

    multiplier: float
    weight_decay: float
    parameters: list[nn.Parameter]


class ShardedPart(NamedTuple):
    """A part of a model that is gathered by itself where weights are sharded.

    Attributes:
        root: The module that is called as a whole.
        blocks: Modules in it that are gathered one after the other.
    """

    root: nn.Module
    blocks: Sequence[nn.Module] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Samples:
    """What the averaged weights produce, for people.

    Attributes:
        pixels: A picture, uint8 [h, w, 3]; None where there is nothing to look at.
        name: What the picture shows, as its title in TensorBoard.
        values: Numbers by name, for the log.
        status: A sentence for the console.
    """

    pixels: Pixels | None
    name: str
    values: Mapping[str, float] = field(default_factory=dict)
    status: str


class Task(ABC, Generic[M, B, I, D]):
    """What is trained, and how; see the module's docstring for who calls what when.

    Args:
        config: The run.
        device: The device to compute on.

    Attributes:
        mesh: The run's processes, which may share what :meth:`sample` and :meth:`validate` compute;
            all of them call both together. One process until the loop sets it.
        name: The task's name in configs.
        title: What it does, for people.
        model_config: The class of ``config.model``.
        model_type: The type that exported checkpoints name (:mod:`flowmo.model.registry`).
        generators: The names of the random generators that :meth:`draw` uses. A name that is added
            goes to the end, so that the seeds of the others stay.
        validation_metrics: What ``validation.metric`` may be.
        unweighted: Fields of the model's config, or prefixes of them that end in a dot, that change
            no weight, so that a run may be resumed with others.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    model_config: ClassVar[type]
    model_type: ClassVar[str]
    generators: ClassVar[tuple[str, ...]]
    validation_metrics: ClassVar[tuple[str, ...]] = ()
    unweighted: ClassVar[tuple[str, ...]] = ("model.name",)

    def __init__(self, config: AnyTrainConfig, device: torch.device) -> None:
        self.config, self.device = config, device
        self.mesh = Mesh(device=device)

    # What a config must be

    @classmethod
    @abstractmethod
    def reads(cls, config: AnyTrainConfig) -> frozenset[str]:
        """The fields and sections of ``TASK_OPTIONS`` that a run like this makes use of.

        All others must be at their defaults; the config refuses them otherwise.
        """

    @classmethod
    def check(cls, config: AnyTrainConfig) -> None:
        """Check what the config classes cannot: values that do not fit this task.

        Raises:
            ConfigError: Some do not.
        """
        del config

    @classmethod
    def complete(cls, config: AnyTrainConfig) -> AnyTrainConfig:
        """The run with what its data decides; called before anything else, in every process.

        What it sets is stored with the run, so that a checkpoint is not resumed on other data.

        Raises:
            ConfigError: The data do not fit the model.
            DataError: There are none.
        """
        return config

    @classmethod
    def start_from(cls, config: AnyTrainConfig, checkpoint: str) -> AnyTrainConfig:
        """A run that begins with a checkpoint's weights, and so has its sizes.

        Args:
            config: The run.
            checkpoint: A folder or hub repository.

        Raises:
            CheckpointError: There is none.
            ConfigError: This task begins with none.
        """
        del config
        raise ConfigError(
            f"the task {cls.name!r} begins with no checkpoint, got {checkpoint!r}; leave --init out"
        )

    @classmethod
    def lineage(cls, config: AnyTrainConfig) -> str:
        """What the run began with, in sentences for a model card; empty for nothing."""
        return "" if config.init is None else f"It began with the weights of `{config.init}`."

    # The model

    @abstractmethod
    def build_model(self) -> M:
        """The model before the first step: float32, whole, on the CPU.

        Raises:
            CheckpointError: ``config.init`` cannot be had.
            ConfigError: ``config.init`` is of other sizes.
        """

    @abstractmethod
    def parameter_groups(self, model: M) -> list[ParameterGroup]:
        """Every parameter once, by its multiple of the learning rate."""

    def held_matrices(self, model: M) -> Mapping[str, nn.Parameter]:
        """The matrices by name whose norm ``optimizer.fix_weight_norm`` holds; none by default."""
        del model
        return {}

    def sharded_parts(self, model: M) -> Sequence[ShardedPart]:
        """The parts that ``parallel=fsdp`` gathers separately; the whole model by default."""
        return [ShardedPart(model)]

    def freeze(self, model: M, step: int) -> None:
        """Take out of training what is due after ``step`` steps; called before each step."""
        del model, step

    @abstractmethod
    def export(self, weights: Mapping[str, Tensor], folder: Path) -> None:
        """Write weights as a checkpoint folder; called on the thread that writes.

        Args:
            weights: Every parameter by name, on the CPU, in the dtype of
                ``config.export_precision``.
            folder: An empty folder.
        """

    # Data

    @abstractmethod
    def open_data(self, report: Report) -> TrainingData:
        """Find the training data, without reading much of it.

        Args:
            report: Is notified of what takes long.

        Raises:
            DataError: There is none.
        """

    @abstractmethod
    def inputs(self, batch: B) -> I:
        """A batch as the model takes it, on the device."""

    def start(self, model: M, data: TrainingData) -> None:
        """Get ready for the first step: frozen networks, samples to show, held-out samples.

        Raises:
            ConfigError: Something does not fit the model.
            DataError: Samples cannot be read.
            LibraryError: A library or its weights cannot be had.
        """
        del model, data

    # A step

    @abstractmethod
    def draw(self, generators: Generators) -> D:
        """The random numbers of a step, for all of ``config.batch_size`` samples."""

    def prepare(self, model: M, inputs: I, draws: D, positions: Tensor) -> D:
        """A micro-batch's draws with what it takes a model to make, without gradients.

        Args:
            model: In training form.
            inputs: The micro-batch's.
            draws: The micro-batch's.
            positions: The positions of its samples in the data, int [B].
        """
        del model, inputs, positions
        return draws

    @abstractmethod
    def objective(self, model: M, inputs: I, draws: D) -> Objective:
        """The loss of a micro-batch, a function of its arguments alone: it may be compiled."""

    # What people look at

    def sample(self, model: M) -> Samples | None:
        """What a model in evaluation mode produces, to be looked at; None for nothing."""
        del model
        return None

    def validate(self, model: M) -> dict[str, float]:
        """Measure a model on held-out samples.

        Args:
            model: The model with the weights to judge; it is left in the mode that it came in.

        Returns:
            Means by metric, ``config.validation.metric`` among them.
        """
        del model
        # A config whose task names no metric cannot ask for validation.
        raise AssertionError(f"the task {self.name!r} names no metric to validate by")

    def score(self, values: Mapping[str, float]) -> float:
        """The deciding metric of :meth:`validate` as a number that is better when higher."""
        return values[self.config.validation.metric]


AnyTask = Task[Any, Any, Any, Any]
