"""Everything that changes while training, and its form as named tensors and a JSON record."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Self

import torch
from torch import Tensor, nn

from flowmo.model.errors import CheckpointError
from flowmo.training.checkpointing.checkpoint import Checkpoint
from flowmo.training.loop.ema import WeightEMA
from flowmo.training.loop.generators import Generators
from flowmo.training.loop.mesh import Mesh
from flowmo.training.loop.sharding import shard
from flowmo.training.loop.weight_norm import WeightNormFixer
from flowmo.training.tasks.task import AnyTask

_ADAM_TENSORS = ("step", "exp_avg", "exp_avg_sq")


@dataclass(kw_only=True, slots=True)
class RunProgress:
    """How far a run is.

    Attributes:
        step: The number of optimizer steps done (skipped ones count).
        samples: The data position of the next sample.
        seconds: The training time, over all resumed parts.
        skipped: The number of steps without an update because of non-finite gradients.
        images: The number of samples of the data set.
        unreadable: The indices of the samples that could not be read.
        best_score: The score of the best validation so far, higher is better; None before the
            first.
        best_step: The step of that validation.
        worse_in_a_row: The number of validations since then.
    """

    step: int = 0
    samples: int = 0
    seconds: float = 0.0
    skipped: int = 0
    images: int = 0
    unreadable: list[int] = field(default_factory=list)
    best_score: float | None = None
    best_step: int = 0
    worse_in_a_row: int = 0


@dataclass(kw_only=True, slots=True)
class TrainState:
    """Model, average, optimizer, held norms, generators and progress of a run."""

    model: nn.Module
    optimizer: torch.optim.AdamW
    ema: WeightEMA
    weight_norm: WeightNormFixer | None
    generators: Generators
    progress: RunProgress

    @classmethod
    def fresh(cls, task: AnyTask, mesh: Mesh) -> Self:
        """The state before the first step; weights are sharded if the mesh says so.

        Raises:
            CheckpointError: ``config.init`` cannot be had.
            ConfigError: ``config.init`` is of other sizes than ``config.model``.
        """
        config = task.config
        model = task.build_model().to(mesh.device).train()
        shard(
            model,
            task.sharded_parts(model),
            mesh,
            precision=config.precision,
            compile_blocks=config.compile,
        )
        options = config.optimizer
        optimizer = torch.optim.AdamW(
            [
                {
                    "params": group.parameters,
                    "multiplier": group.multiplier,
                    "weight_decay": group.weight_decay,
                }
                for group in task.parameter_groups(model)
            ],
            lr=options.learning_rate,
            betas=options.betas,
            eps=options.eps,
            fused=True,
        )
        return cls(
            model=model,
            optimizer=optimizer,
            ema=WeightEMA(
                model,
                decay=config.ema_decay,
                ramp=config.ema_ramp,
                half_life=config.ema_half_life,
            ),
            weight_norm=WeightNormFixer(task.held_matrices(model))
            if options.fix_weight_norm
            else None,
            generators=Generators.seeded(config.seed, mesh.device, task.generators),
            progress=RunProgress(),
        )

    def tensors(self) -> dict[str, Tensor]:
        """All tensors by dotted name: model, ema, optimizer, weight_norm, generator."""
        named: dict[str, Tensor] = {}
        for name, parameter in self.model.named_parameters():
            named[f"model.{name}"] = parameter.detach()
            # Parameters that never had a gradient (unused by the loss) have no state.
            for key, tensor in self.optimizer.state.get(parameter, {}).items():
                named[f"optimizer.{key}.{name}"] = tensor
        named |= {f"ema.{k}": v for k, v in self.ema.shadow.items()}
        named |= {f"generator.{k}": v for k, v in self.generators.state().items()}
        if self.weight_norm is not None:
            named |= {f"weight_norm.{k}": v for k, v in self.weight_norm.state().items()}
        return named

    def record(self) -> dict[str, Any]:
        """The progress, JSON-safe."""
        return asdict(self.progress)

    @torch.no_grad()
    def restore(self, checkpoint: Checkpoint) -> None:
        """Continue from a checkpoint; all processes of a run call it together.

        Raises:
            CheckpointError: tensors are missing or of another shape.
        """
        shapes = checkpoint.shapes
        wanted: dict[str, Tensor] = {}
        for name, parameter in self.model.named_parameters():
            for part, tensor in (("model", parameter.detach()), ("ema", self.ema.shadow[name])):
                _check(f"{part}.{name}", shapes, tensor)
                wanted[f"{part}.{name}"] = tensor
            # Parameters that never had a gradient have no moments.
            if all(f"optimizer.{key}.{name}" in shapes for key in _ADAM_TENSORS):
                state = {
                    key: torch.zeros((), device=parameter.device)
                    if key == "step"
                    else torch.zeros_like(parameter.detach())
                    for key in _ADAM_TENSORS
                }
                self.optimizer.state[parameter] = state
                wanted |= {f"optimizer.{key}.{name}": state[key] for key in _ADAM_TENSORS}
        others = _by_prefix(shapes)
        generators = {
            name: torch.empty(shape, dtype=torch.uint8)
            for name, shape in others.get("generator", {}).items()
        }
        norms = {name: torch.empty(()) for name in others.get("weight_norm", {})}
        wanted |= {f"generator.{name}": tensor for name, tensor in generators.items()}
        wanted |= {f"weight_norm.{name}": tensor for name, tensor in norms.items()}
        checkpoint.read_into(wanted)
        self.generators.load_state(generators)
        if self.weight_norm is not None and norms:
            self.weight_norm.load_state(norms, self.model)
        self.progress = RunProgress(**checkpoint.progress)


def _check(name: str, shapes: Mapping[str, tuple[int, ...]], tensor: Tensor) -> None:
    if shapes.get(name) != tuple(tensor.shape):
        came = list(shapes[name]) if name in shapes else "missing"
        raise CheckpointError(
            f"the checkpoint's {name} is {came}, this model needs {list(tensor.shape)}"
        )


def _by_prefix(
    shapes: Mapping[str, tuple[int, ...]],
) -> dict[str, dict[str, tuple[int, ...]]]:
    parts: dict[str, dict[str, tuple[int, ...]]] = {}
    for name, shape in shapes.items():
        prefix, _, rest = name.partition(".")
        parts.setdefault(prefix, {})[rest] = shape
    return parts
