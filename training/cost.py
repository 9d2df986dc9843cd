"""What a run of stage 1A, or of a prior, costs: its loss on tensors that hold nothing.

A step is recorded on fake tensors: no memory, no data and no GPU are needed, and what is counted is
what the code does, recomputation included.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from flowmo.model.attention import Form, attention_form
from flowmo.model.errors import ConfigError
from flowmo.model.flowmo import FlowMo
from flowmo.model.prior.checkpoint import Prior
from flowmo.model.prior.config import PriorConfig
from flowmo.model.recomputation import KEPT_OPERATORS
from flowmo.training.config import AnyTrainConfig, TrainConfig
from flowmo.training.data.tokens.dataset import TokenRows
from flowmo.training.errors import LibraryError
from flowmo.training.loop.step import autocast
from flowmo.training.perceptual.losses import perceptual_network
from flowmo.training.tasks.flow import Draws
from flowmo.training.tasks.pretrain import stage_1a
from flowmo.training.tasks.prior import PriorDraws, PriorTask

# A value and its gradient, Adam's two moments, the average: float32.
_BYTES_A_PARAMETER = {"weights": 4, "gradients": 4, "adam": 8, "average": 4}


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingCost:
    """A step of a run on each of several GPUs with whole copies of the weights.

    Attributes:
        parameters: The parameters of the model.
        micro_batch: The images of a micro-batch on one GPU.
        memory: Bytes by what they hold, on one GPU: weights, gradients, adam, average, perceptual
            (the weights of that network), casts (all weights in autocast's dtype), activations
            (what a micro-batch keeps for its backward pass, the perceptual network's too). Eager;
            compiled code keeps less. Workspaces and fragments are not counted.
        flops: Operations of a whole step of the run, of all GPUs together, backward included.
        steps: The steps of the run.
        uncounted: What could not be counted here, and why; None for nothing.
    """

    parameters: int
    micro_batch: int
    memory: dict[str, int]
    flops: int
    steps: int
    uncounted: str | None

    @property
    def memory_bytes(self) -> int:
        """All of :attr:`memory`."""
        return sum(self.memory.values())


def training_cost(config: AnyTrainConfig, *, gpus: int = 1) -> TrainingCost:
    """Count what a run of stage 1A or of a prior costs.

    Args:
        config: The run, of the task ``pretrain`` or ``prior``. A prior that has met no tokens is
            counted with the sizes and classes of its preset.
        gpus: Processes of ``parallel=ddp``, a GPU each.

    Raises:
        ConfigError: The run is of another task, or the batch cannot be cut like this.
    """
    if config.task not in ("pretrain", "prior"):
        raise ConfigError(
            f"costs are counted for the tasks 'pretrain' and 'prior', got {config.task!r}"
        )
    if gpus < 1 or config.batch_size % (gpus * config.accumulation):
        raise ConfigError(
            f"GPUs x accumulation must divide batch_size, got {gpus} x {config.accumulation} and "
            f"{config.batch_size}"
        )
    micro_batch = config.batch_size // (gpus * config.accumulation)
    run = _PriorRun(config) if config.task == "prior" else _TokenizerRun(config)
    network = run.network
    one, two = (_kept_bytes(run, images) for images in (1, 2))
    each = two - one
    with FakeTensorMode(allow_non_fake_inputs=True):
        model = run.model()
        parameters = sum(parameter.numel() for parameter in model.parameters())
        # The backward pass, which may compute attention again, must find it in the same form.
        with FlopCounterMode(display=False) as counter, attention_form("explicit"):
            run.loss(model, 1, form="explicit").backward()
    memory = {name: size * parameters for name, size in _BYTES_A_PARAMETER.items()}
    if network is not None:
        frozen = (*network.parameters(), *network.buffers())
        memory["perceptual"] = sum(tensor.untyped_storage().nbytes() for tensor in frozen)
    # Autocast keeps every weight that it has cast until the forward pass is over.
    casts = max(one - each, 2 * parameters if config.precision == "bf16" else 0)
    return TrainingCost(
        parameters=parameters,
        micro_batch=micro_batch,
        memory=memory | {"casts": casts, "activations": each * micro_batch},
        flops=counter.get_total_flops() * config.batch_size,
        steps=config.steps,
        uncounted=run.uncounted,
    )


def _kept_bytes(run: "_TokenizerRun | _PriorRun", images: int) -> int:
    """Bytes of what a micro-batch keeps, without what is there anyway: the parameters."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        model = run.model()
        counted = {_storage(parameter): 0 for parameter in model.parameters()}

        def keep(tensor: Tensor) -> Tensor:
            if not isinstance(tensor, nn.Parameter):
                counted.setdefault(_storage(tensor), tensor.untyped_storage().nbytes())
                held.append(tensor)
            return tensor

        held: list[Tensor] = []  # so that no storage's place is taken by another
        with saved_tensors_hooks(keep, lambda tensor: tensor), _KeptOutputs(keep):
            loss = run.loss(model, images, form="fused")
        del loss
    return sum(counted.values())


class _KeptOutputs(TorchDispatchMode):
    """Counts what selective recomputation keeps, which autograd does not see."""

    def __init__(self, keep: Callable[[Tensor], Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._keep = keep

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        if func in KEPT_OPERATORS:
            for one in out:
                if isinstance(one, Tensor):
                    self._keep(one)
        return out


def _storage(tensor: Tensor) -> int:
    place: int = tensor.untyped_storage()._cdata
    return place


class _TokenizerRun:
    """Stage 1A, on images of zeros."""

    def __init__(self, config: Any) -> None:
        self.config: TrainConfig = config
        self.network: nn.Module | None = None
        self.uncounted: str | None = None
        try:
            self.network = perceptual_network(
                replace(config.perceptual, weights="random"), torch.device("cpu")
            )
        except LibraryError as error:
            self.uncounted = f"the perceptual network is not counted: {error}"

    def model(self) -> FlowMo:
        model = FlowMo(self.config.model).train()
        for half in (model.encoder, model.decoder):
            half.recompute = self.config.recompute == "blocks"
        return model

    def loss(self, model: Any, images: int, *, form: Form) -> Tensor:
        """The loss of a micro-batch of so many images."""
        config = self.config
        device, size = torch.device("cpu"), config.model.image_size
        code = (images, config.model.code_length, config.model.token_bits)
        draws = Draws(
            t=torch.full((images,), 0.5),
            noise=torch.zeros(images, 3, size, size),
            keep=torch.ones(images, dtype=torch.bool),
            posterior=torch.zeros(code) if config.model.quantizer == "gaussian" else None,
            place=torch.zeros(images, 2) if config.perceptual.window > 0 else None,
        )
        pictures = torch.zeros(images, 3, size, size)
        with attention_form(form), autocast(config.precision, device):
            return stage_1a(
                model, pictures, draws, config.losses, self.network, options=config.perceptual
            ).total


class _PriorRun:
    """A prior, on ids of zeros of which none is masked: what is masked changes no cost."""

    network: None = None
    uncounted: None = None

    def __init__(self, config: Any) -> None:
        self.config: TrainConfig[PriorConfig] = config

    def model(self) -> Prior:
        return Prior(self.config.model).train()

    def loss(self, model: Any, images: int, *, form: Form) -> Tensor:
        """The loss of a micro-batch of so many rows."""
        sizes, device = self.config.model, torch.device("cpu")
        ids = torch.zeros(images, sizes.length, dtype=torch.int64)
        rows = TokenRows(ids, torch.zeros(images, dtype=torch.int64))
        draws = PriorDraws(
            rates=torch.zeros(images),
            scores=torch.zeros(images, sizes.length),
            hidden=torch.zeros(images, dtype=torch.bool),
        )
        task = PriorTask(self.config, device)
        with attention_form(form), autocast(self.config.precision, device):
            return task.objective(model, rows, draws).total
