"""Everything that changes while training, and its form as named tensors and a JSON record."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Self

import torch
from torch import Tensor

from model.errors import CheckpointError
from model.flowmo import FlowMo
from training.config import TrainConfig
from training.ema import WeightEMA
from training.generators import Generators
from training.initial import load_initial
from training.mup import initialize, parameter_groups
from training.weight_norm import WeightNormFixer

_ADAM_TENSORS = ("step", "exp_avg", "exp_avg_sq")


@dataclass(kw_only=True, slots=True)
class Progress:
    """How far a run is.

    Attributes:
        step: optimizer steps done (skipped ones count).
        samples: data position of the next sample.
        seconds: training time over all resumed parts.
        skipped: steps without an update because of non-finite gradients.
        images: size of the data set.
        unreadable: indices of the images that could not be read.
        best_score: of the best validation so far, higher is better; None before the first.
        best_step: when that was.
        worse_in_a_row: validations since then.
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

    model: FlowMo
    optimizer: torch.optim.AdamW
    ema: WeightEMA
    weight_norm: WeightNormFixer | None
    generators: Generators
    progress: Progress

    @classmethod
    def fresh(cls, config: TrainConfig, device: torch.device) -> Self:
        """The state before the first step.

        Raises:
            CheckpointError: ``config.init`` cannot be had.
            ConfigError: it is of other sizes than ``config.model``.
        """
        model = FlowMo(config.model).to(torch.float32)
        if config.init is None:
            initialize(model, config.model, config.optimizer, seed=config.seed)
        else:
            load_initial(model, config.init)
        model.to(device).train()
        options = config.optimizer
        optimizer = torch.optim.AdamW(
            [
                {
                    "params": group.parameters,
                    "multiplier": group.multiplier,
                    "weight_decay": group.weight_decay,
                }
                for group in parameter_groups(model, config.model, options)
            ],
            lr=options.learning_rate,
            betas=options.betas,
            eps=options.eps,
            fused=True,
        )
        return cls(
            model=model,
            optimizer=optimizer,
            ema=WeightEMA(model, decay=config.ema_decay, ramp=config.ema_ramp),
            weight_norm=WeightNormFixer(model) if options.fix_weight_norm else None,
            generators=Generators.seeded(config.seed, device),
            progress=Progress(),
        )

    def tensors(self) -> dict[str, Tensor]:
        """All tensors by dotted name: model, ema, optimizer, weight_norm, generator."""
        named: dict[str, Tensor] = {}
        for name, parameter in self.model.named_parameters():
            named[f"model.{name}"] = parameter.detach()
            # Parameters that never had a gradient (unused by this network half) have no state.
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
    def restore(self, tensors: Mapping[str, Tensor], record: Mapping[str, Any]) -> None:
        """Continue from :meth:`tensors` and :meth:`record`.

        Raises:
            CheckpointError: tensors are missing or of another shape.
        """
        parts = _by_prefix(tensors)
        for name, parameter in self.model.named_parameters():
            for part in ("model", "ema"):
                tensor = parts.get(part, {}).get(name)
                if tensor is None or tensor.shape != parameter.shape:
                    raise CheckpointError(
                        f"the checkpoint's {part}.{name} is "
                        f"{'missing' if tensor is None else list(tensor.shape)}, "
                        f"this model needs {list(parameter.shape)}"
                    )
            parameter.copy_(parts["model"][name])
            moments = {key: tensors.get(f"optimizer.{key}.{name}") for key in _ADAM_TENSORS}
            if all(tensor is not None for tensor in moments.values()):
                self.optimizer.state[parameter] = {
                    key: tensor.to(parameter.device, copy=True)
                    for key, tensor in moments.items()
                    if tensor is not None
                }
        self.ema.load_state(parts["ema"])
        self.generators.load_state(parts.get("generator", {}))
        if self.weight_norm is not None and "weight_norm" in parts:
            self.weight_norm.load_state(parts["weight_norm"], self.model)
        self.progress = Progress(**record)


def _by_prefix(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    parts: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        prefix, _, rest = name.partition(".")
        parts.setdefault(prefix, {})[rest] = tensor
    return parts
