"""How a prior draws ids: steps, order and temperatures, as a plain frozen value."""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self, get_args

from flowmo.model.errors import ConfigError
from flowmo.model.strict import from_dict, to_dict

MaskSchedule = Literal["arccos", "cosine"]

DEFAULT_STEPS = 64
DEFAULT_GUIDANCE = 1.5
MAX_STEPS = 1000


@dataclass(frozen=True, kw_only=True, slots=True)
class PriorSamplerConfig:
    """Confidence-based unmasking (MaskGIT, Chang et al. 2022) with the options of paper A.3.

    Args:
        steps: S, the number of steps, 1 to 1000; no more are taken than there are ids to find.
        schedule: The share of ids that is still masked after the share r of the steps: ``arccos``
            is 2 acos(r) / pi (MaskBit, Weber et al. 2024, whose generator the paper's resembles),
            ``cosine`` is cos(pi r / 2) (MaskGIT).
        guidance: w >= 0 of l = l_null + w (l_class - l_null); 1 is no guidance. A step costs two
            rows unless w is 0 or 1.
        temperature: The softmax temperature, >= 0; 0 takes the most probable id.
        annealing: The factors on the temperature at the first and at the last step; it moves
            linearly from one to the other. (1, 1) does not change it.
        randomness: The scale >= 0 of the Gumbel noise on the confidences, which falls linearly to 0
            at the last step. Large values reveal ids in an order of chance.

    Raises:
        ConfigError: A value is out of its range.
    """

    steps: int = DEFAULT_STEPS
    schedule: MaskSchedule = "arccos"
    guidance: float = DEFAULT_GUIDANCE
    temperature: float = 1.0
    annealing: tuple[float, float] = (1.3, 0.5)
    randomness: float = 4.5

    def __post_init__(self) -> None:
        if isinstance(self.steps, bool) or not isinstance(self.steps, int):
            raise ConfigError(f"steps must be a whole number, got {self.steps!r}")
        if not 1 <= self.steps <= MAX_STEPS:
            raise ConfigError(f"steps must be 1 to {MAX_STEPS}, got {self.steps}")
        if self.schedule not in get_args(MaskSchedule):
            raise ConfigError(
                f"schedule must be one of {list(get_args(MaskSchedule))}, got {self.schedule!r}"
            )
        numbers = {
            "guidance": self.guidance,
            "temperature": self.temperature,
            "randomness": self.randomness,
            "annealing[0]": self.annealing[0],
            "annealing[1]": self.annealing[-1],
        }
        for name, value in numbers.items():
            if not (math.isfinite(value) and value >= 0):
                raise ConfigError(f"{name} must be a number of at least 0, got {value!r}")

    def changed(
        self,
        *,
        steps: int | None = None,
        guidance: float | None = None,
        temperature: float | None = None,
    ) -> Self:
        """A copy with what is given changed; None leaves a value as it is.

        Args:
            steps: S.
            guidance: The guidance weight w.
            temperature: The softmax temperature.

        Raises:
            ConfigError: A value is out of its range.
        """
        given = {"steps": steps, "guidance": guidance, "temperature": temperature}
        changes: dict[str, Any] = {k: v for k, v in given.items() if v is not None}
        return dataclasses.replace(self, **changes)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Read :meth:`to_dict`'s form.

        Raises:
            ConfigError: A field is unknown or missing, or a value is of a wrong type or range.
        """
        return from_dict(cls, data)

    def to_dict(self) -> dict[str, Any]:
        """The sampler as JSON-safe values."""
        values: dict[str, Any] = to_dict(self)
        return values
