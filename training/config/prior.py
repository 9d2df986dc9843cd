"""How a prior is trained: masks, smoothing, and who decodes its samples."""

from dataclasses import dataclass
from typing import get_args

from flowmo.model.prior.sampler_config import MaskSchedule
from flowmo.training.config.checks import require, share


@dataclass(frozen=True, kw_only=True, slots=True)
class PriorTrainConfig:
    """The second stage: ids are masked at random, and the prior says what they were (paper A.3).

    Args:
        mask_schedule: The share of masked ids by a uniform number, ``arccos`` (MaskBit) or
            ``cosine`` (MaskGIT); :mod:`flowmo.model.prior.schedule`.
        label_smoothing: The share of the target that is spread over all ids, 0.1 in MaskGIT.
        tokenizer: The checkpoint that decodes sample grids; None draws none. Its tokens must be
            those that are trained on.

    Raises:
        ConfigError: A value is out of its range.
    """

    mask_schedule: MaskSchedule = "arccos"
    label_smoothing: float = 0.1
    tokenizer: str | None = None

    def __post_init__(self) -> None:
        choices = get_args(MaskSchedule)
        require(
            self.mask_schedule in choices,
            f"prior.mask_schedule must be one of {list(choices)}, got {self.mask_schedule!r}",
        )
        share(**{"prior.label_smoothing": self.label_smoothing})
