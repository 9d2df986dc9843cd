"""The second stage as a task: a prior learns which ids are masked (paper A.3).

Its data are ids on disk (:mod:`flowmo.training.data.tokens`); no encoder runs while it trains.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from flowmo.model import registry
from flowmo.model.errors import ConfigError
from flowmo.model.hub import resolve_checkpoint
from flowmo.model.prior.checkpoint import PRIOR_TYPE, Prior, inspect_prior
from flowmo.model.prior.config import PriorConfig
from flowmo.model.prior.network import initialize
from flowmo.model.prior.schedule import MEAN_RATE, mask_counts
from flowmo.training.config import AnyTrainConfig, TrainConfig
from flowmo.training.config.checks import require
from flowmo.training.data.tokens.dataset import (
    TokenBatch,
    TokenDataset,
    TokenRows,
    TrainingTokens,
)
from flowmo.training.loop.generators import Generators
from flowmo.training.tasks.objective import LossTerm, Objective
from flowmo.training.tasks.prior_samples import SampleGrid
from flowmo.training.tasks.prior_validation import METRICS, PriorValidator
from flowmo.training.tasks.task import (
    ParameterGroup,
    Report,
    Samples,
    ShardedPart,
    Task,
    TrainingData,
)


class PriorDraws(NamedTuple):
    """The random numbers of a step.

    Attributes:
        rates: [B] in [0, 1), of which the schedule makes the share of masked ids.
        scores: [B, N]; the lowest are masked.
        hidden: bool [B], whose class is hidden.
    """

    rates: Tensor
    scores: Tensor
    hidden: Tensor


class PriorTask(Task[Prior, TokenBatch, TokenRows, PriorDraws]):
    """Masked-token cross-entropy, given the ids that are not masked and the class."""

    name = "prior"
    title = "the second stage, a prior over token ids"
    model_config = PriorConfig
    model_type = PRIOR_TYPE
    generators = ("masking", "condition")
    validation_metrics = METRICS
    unweighted = ("model.name", "model.sampler.")

    config: TrainConfig[PriorConfig]

    _validator: PriorValidator | None = None
    _samples: SampleGrid | None = None

    @classmethod
    def reads(cls, config: AnyTrainConfig) -> frozenset[str]:
        """Where the ids are, masks, and the share of hidden classes."""
        del config
        return frozenset({"condition_dropout", "data.paths", "init", "prior"})

    @classmethod
    def complete(cls, config: AnyTrainConfig) -> AnyTrainConfig:
        """Take over tokenizer, sizes and classes from the data, or check that they are the same."""
        run = cast("TrainConfig[PriorConfig]", config)
        tokens = TokenDataset.open(run.data.paths)
        return replace(run, model=tokens.prior_config(run.model))

    @classmethod
    def start_from(cls, config: AnyTrainConfig, checkpoint: str) -> AnyTrainConfig:
        """Take over the checkpoint's sizes, tokenizer and sampler."""
        model = inspect_prior(resolve_checkpoint(checkpoint)).config
        return replace(cast("TrainConfig[PriorConfig]", config), init=checkpoint, model=model)

    # The model

    def build_model(self) -> Prior:
        """A prior with random weights, or with those of ``config.init``."""
        config = self.config
        model = Prior(config.model)
        if config.init is None:
            initialize(model, seed=config.seed)
            return model
        begun = registry.load(config.init, expected=Prior, dtype=torch.float32)
        require(
            replace(begun.config, name="", sampler=config.model.sampler)
            == replace(config.model, name=""),
            f"init = {config.init} is a prior of other sizes, tokens or classes than the run's; "
            f"they are taken over by --init, or by flowmo.training.start_from",
        )
        model.load_state_dict(begun.state_dict())
        return model

    def parameter_groups(self, model: Prior) -> list[ParameterGroup]:
        """Matrices, which decay, and vectors, which do not."""
        matrices = [one for one in model.parameters() if one.ndim > 1]
        vectors = [one for one in model.parameters() if one.ndim <= 1]
        return [
            ParameterGroup(1.0, self.config.optimizer.weight_decay, matrices),
            ParameterGroup(1.0, 0.0, vectors),
        ]

    def sharded_parts(self, model: Prior) -> Sequence[ShardedPart]:
        """The whole, block by block."""
        return [ShardedPart(model, list(model.blocks))]

    def export(self, weights: Mapping[str, Tensor], folder: Path) -> None:
        """A checkpoint folder of the type ``prior``."""
        with torch.device("meta"):
            model = Prior(self.config.model)
        model.load_state_dict(dict(weights), assign=True)
        model.save_pretrained(folder, dtype=torch.bfloat16)

    # Data

    def open_data(self, report: Report) -> TrainingData:
        """The ids of ``data.paths``, but for images that are held out to validate on.

        With ``validation.paths`` none are; without, ``validation.count`` evenly spaced images, and
        at most a tenth of them.
        """
        config = self.config
        tokens = TokenDataset.open(config.data.paths)
        images = np.arange(tokens.images)
        held = _held_out_images(config, tokens)
        if len(held):
            report(f"{len(held)} of {tokens.images} images are held out for validation")
        kept = np.setdiff1d(images, held)
        rows = (kept[:, None] * tokens.times + np.arange(tokens.times)).flatten()
        return TrainingTokens(tokens, rows, seed=config.seed, batch_size=config.batch_size)

    def start(self, model: Prior, data: TrainingData) -> None:
        """Read the held-out ids, and load the tokenizer that decodes samples."""
        del model, data
        config = self.config
        if config.prior.tokenizer is not None and config.sample_interval:
            self._samples = SampleGrid(
                config.prior.tokenizer, config.model, count=config.sample_count, device=self.device
            )
        if not config.validation.interval:
            return
        self._validator = held_out_validator(config, device=self.device)

    def inputs(self, batch: TokenBatch) -> TokenRows:
        """Ids and classes on the device."""
        return TokenRows(*(one.to(self.device, non_blocking=True) for one in batch.rows))

    # A step

    def draw(self, generators: Generators) -> PriorDraws:
        """Masks and hidden classes of the whole batch."""
        batch, device = self.config.batch_size, generators.device
        masking, condition = generators["masking"], generators["condition"]
        length = self.config.model.length
        hidden = torch.rand(batch, generator=condition, device=device)
        return PriorDraws(
            rates=torch.rand(batch, generator=masking, device=device),
            scores=torch.rand(batch, length, generator=masking, device=device),
            hidden=hidden < self.config.condition_dropout,
        )

    def objective(self, model: Prior, inputs: TokenRows, draws: PriorDraws) -> Objective:
        """Cross-entropy in nats over masked ids, with smoothed labels.

        The sum is divided by the number of ids that are masked on average. So every masked id
        counts alike, as in MaskGIT, and a batch that is split over processes and micro-batches has
        the gradient of the whole.
        """
        options, config = self.config.prior, self.config.model
        counts = mask_counts(draws.rates, config.length, options.mask_schedule)
        masked = draws.scores.argsort(dim=1).argsort(dim=1) < counts[:, None]
        hidden = draws.hidden | (inputs.labels < 0)
        logits = model(
            torch.where(masked, config.mask_id, inputs.ids),
            torch.where(hidden, config.null_class, inputs.labels),
        )
        each = F.cross_entropy(
            logits.float().flatten(0, 1),
            inputs.ids.flatten(),
            reduction="none",
            label_smoothing=options.label_smoothing,
        ).view_as(masked)
        loss = (each * masked).sum() / (masked.numel() * MEAN_RATE)
        right = (logits.detach().argmax(-1) == inputs.ids) & masked
        return Objective(
            (LossTerm("cross_entropy", loss, 1.0),),
            watched=(("accuracy", right.sum() / masked.sum()),),
        )

    # What people look at

    def sample(self, model: Prior) -> Samples | None:
        """Images of drawn ids, where ``prior.tokenizer`` says what decodes them."""
        return None if self._samples is None else self._samples.draw(model)

    def validate(self, model: Prior) -> dict[str, float]:
        """Cross-entropy and accuracy by mask rate (:mod:`.prior_validation`)."""
        assert self._validator is not None, "validation.interval is 0"
        return self._validator.measure(model)

    def score(self, values: Mapping[str, float]) -> float:
        """Cross-entropy is better when lower."""
        score = super().score(values)
        return -score if self.config.validation.metric == "cross_entropy" else score


def _held_out_images(config: TrainConfig[PriorConfig], tokens: TokenDataset) -> NDArray[np.int64]:
    """The numbers of those of ``data.paths`` that are validated on; none with other paths."""
    if not config.validation.interval or config.validation.paths:
        return np.empty(0, dtype=np.int64)
    count = min(config.validation.count, tokens.images // 10)
    if count < 1:
        raise ConfigError(
            f"{tokens.images} images are too few to hold some out for validation; name other "
            f"tokens in validation.paths, or set validation.interval=0"
        )
    return np.linspace(0, tokens.images - 1, count).round().astype(np.int64)


def held_out_validator(config: TrainConfig[PriorConfig], *, device: torch.device) -> PriorValidator:
    """What judges a run's prior: the images that it holds out, without their mirror images.

    Args:
        config: The run, with a model that has met its tokens.
        device: Where to compute.

    Raises:
        DataError: The tokens are missing or damaged.
        ConfigError: They are another tokenizer's, or there are too few.
    """
    if not config.validation.paths:
        tokens = TokenDataset.open(config.data.paths)
        held = _held_out_images(config, tokens)
    else:
        tokens = TokenDataset.open(config.validation.paths).judging(config.model)
        count = min(config.validation.count, tokens.images)
        held = np.linspace(0, tokens.images - 1, count).round().astype(np.int64)
    return PriorValidator(tokens.rows((held * tokens.times).tolist()), device=device)
