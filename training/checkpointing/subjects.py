"""What a release says of a model, by its type: figures, pictures, card."""

from pathlib import Path
from typing import Any, Protocol, cast

import torch
from torch import nn

from flowmo.imaging.tensors import to_images
from flowmo.model import registry
from flowmo.model.checkpoint import inspect_checkpoint
from flowmo.model.errors import CheckpointError
from flowmo.model.flowmo import FlowMo
from flowmo.model.prior.checkpoint import PRIOR_TYPE, Prior, inspect_prior
from flowmo.model.prior.config import PriorConfig
from flowmo.model.sampler import noise
from flowmo.training.checkpointing import model_card, prior_card
from flowmo.training.config import AnyTrainConfig, TrainConfig
from flowmo.training.data.held_out import HELD_OUT_SHA256
from flowmo.training.data.pictures import held_out_pictures
from flowmo.training.errors import DataError
from flowmo.training.loop.samples import grid, save_picture
from flowmo.training.tasks.prior import held_out_validator
from flowmo.training.tasks.prior_samples import SampleGrid
from flowmo.training.tasks.validation import Validator

_CPU = torch.device("cpu")


class Subject(Protocol):
    """A model to be released, in the precision of a release.

    Attributes:
        model: It has weights of bf16's precision in float32.
        fingerprint: Its fingerprint.
        metrics: Its held-out figures by name.
        missing: Why a figure or the pictures were left out, by name.
        template: The text of its card.
        title: The card's title if nobody gives one.
        tags: The card's tags on the hub.
        evaluated_by: The command whose report may join the card.
    """

    model: Any
    fingerprint: str
    metrics: dict[str, float]
    missing: dict[str, str]
    template: str
    title: str
    tags: list[str]
    evaluated_by: str

    def draw(self, path: Path) -> bool:
        """Write a picture for the card, and say whether there is one."""
        ...

    def fingerprints(self, report: dict[str, Any]) -> list[str]:
        """Which weights a report is of."""
        ...

    def figures(self, report: dict[str, Any] | None) -> list[Any]:
        """Rows of the card's table: what was measured on, what, value."""
        ...

    def facts(self, progress: dict[str, Any]) -> dict[str, Any]:
        """What else the card says, of the training state's record."""
        ...


def subject_of(folder: Path, config: AnyTrainConfig) -> Subject:
    """The weights of a run as what is released.

    Args:
        folder: The exported weights.
        config: The run.

    Raises:
        CheckpointError: They cannot be read.
    """
    if registry.model_type(folder) == PRIOR_TYPE:
        return PriorSubject(folder, cast("TrainConfig[PriorConfig]", config))
    return TokenizerSubject(folder, cast("TrainConfig", config))


def _as_released(model: nn.Module) -> None:
    # A release is in bf16, and its figures are those of what is released.
    for parameter in model.parameters():
        parameter.data = parameter.data.bfloat16().float()


class TokenizerSubject:
    """A tokenizer: how well held-out photographs come back.

    Args:
        folder: Its checkpoint.
        config: The run.
    """

    template = model_card.TEMPLATE
    evaluated_by = "`flowmo evaluate`"

    def __init__(self, folder: Path, config: TrainConfig) -> None:
        self.model = registry.load(folder, expected=FlowMo, dtype=torch.float32)
        _as_released(self.model)
        self.fingerprint = self.model.fingerprint()
        self._info, self._config = inspect_checkpoint(folder), config
        self.title = f"FlowMo {self._info.config.name}"
        self.tags = ["image-tokenizer", "image-compression", "flowmo"]
        validator = Validator(config.validation, size=self.model.config.image_size, device=_CPU)
        self.metrics, self.missing = validator.measure(self.model), validator.missing

    @torch.no_grad()
    def draw(self, path: Path) -> bool:
        """Held-out photographs above, reconstructions below."""
        model, paths = self.model, self._config.validation.paths
        pictures = held_out_pictures(paths, model.config.image_size, limit=len(HELD_OUT_SHA256))
        images = to_images(pictures)
        start = noise(range(len(images)), tuple(images.shape[1:]))
        came = model.decode(model.quantize(model.encode(images)), start=start)
        save_picture(grid(images, came), path)
        return True

    def fingerprints(self, report: dict[str, Any]) -> list[str]:
        """Those of the report's methods that are checkpoints."""
        described = [one["method"].get("fingerprint") for one in report.get("methods", {}).values()]
        return [came for came in described if came]

    def figures(self, report: dict[str, Any] | None) -> list[Any]:
        """Of the held-out photographs, and of the evaluation."""
        return model_card.figures(self.metrics, self._config.validation, report)

    def facts(self, progress: dict[str, Any]) -> dict[str, Any]:
        """Sizes, sampler, and how it was trained."""
        return model_card.facts(self._info, self._config, progress)


class PriorSubject:
    """A prior: how well it knows held-out ids, and what it draws.

    Args:
        folder: Its checkpoint.
        config: The run.
    """

    template = prior_card.TEMPLATE
    evaluated_by = "`flowmo evaluate-generation`"

    def __init__(self, folder: Path, config: TrainConfig[PriorConfig]) -> None:
        self.model = registry.load(folder, expected=Prior, dtype=torch.float32)
        _as_released(self.model)
        self.fingerprint = self.model.fingerprint()
        self._info, self._config = inspect_prior(folder), config
        self.title = f"Prior {self._info.config.name}"
        self.tags = ["image-generation", "maskgit", "flowmo"]
        self.metrics, self.missing = {}, {}
        if not config.validation.interval:
            self.missing["cross_entropy"] = "the run had no validation"
            return
        try:
            validator = held_out_validator(config, device=_CPU)
        except DataError as error:
            self.missing["cross_entropy"] = f"the held-out tokens are not there: {error}"
        else:
            self.metrics = validator.measure(self.model)

    def draw(self, path: Path) -> bool:
        """Pictures of the first seeds, classes in turn."""
        tokenizer = self._config.prior.tokenizer
        if tokenizer is None:
            self.missing["pictures"] = "the run names no tokenizer (prior.tokenizer)"
            return False
        try:
            sampler = SampleGrid(
                tokenizer, self.model.config, count=self._config.sample_count, device=_CPU
            )
        except CheckpointError as error:
            self.missing["pictures"] = f"the tokenizer is not there: {error}"
            return False
        drawn = sampler.draw(self.model).pixels
        assert drawn is not None
        save_picture(drawn, path)
        return True

    def fingerprints(self, report: dict[str, Any]) -> list[str]:
        """That of the prior that was evaluated."""
        return [str(report["prior"])] if "prior" in report else []

    def figures(self, report: dict[str, Any] | None) -> list[Any]:
        """Bits of held-out ids, and what generated pictures measure."""
        return prior_card.figures(self.metrics, report)

    def facts(self, progress: dict[str, Any]) -> dict[str, Any]:
        """Sizes, tokenizer, sampler, and how it was trained."""
        return prior_card.facts(self._info, self._config, progress)
