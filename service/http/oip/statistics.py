"""What has been asked of each model through the protocol: its statistics extension."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

# The protocol's parts of a request, and the stages that are each (service.http.stage_clock).
_PARTS = {
    "queue": ("queue",),
    "compute_input": ("decode_image",),
    "compute_infer": ("encode", "generate", "sample"),
    "compute_output": ("encode_image",),
}


@dataclass(slots=True)
class Duration:
    """How often something happened, and how long it took in all."""

    count: int = 0
    ns: int = 0

    def add(self, seconds: float, count: int = 1) -> None:
        """Count ``seconds`` more."""
        self.count += count
        self.ns += round(seconds * 1e9)


@dataclass(slots=True)
class ModelStatistics:
    """The statistics of one version of a model since the server has started."""

    last_inference: int = 0
    inference_count: int = 0
    execution_count: int = 0
    durations: dict[str, Duration] = field(
        default_factory=lambda: {
            name: Duration() for name in ("success", "fail", *_PARTS, "cache_hit", "cache_miss")
        }
    )


class InferenceStatistics:
    """The statistics of all models, by name and version."""

    def __init__(self) -> None:
        self._models: dict[tuple[str, str], ModelStatistics] = {}

    def succeeded(
        self, name: str, version: str, rows: int, seconds: float, stages: Mapping[str, float]
    ) -> None:
        """Count an answered request.

        Args:
            name: The model's name in the protocol.
            version: Its version: the name of a model that is served.
            rows: How many pictures or token sets there were.
            seconds: From the whole request to the whole answer.
            stages: The seconds of each stage, summed over the rows.
        """
        entry = self._entry(name, version)
        entry.last_inference = round(time.time() * 1e3)
        entry.inference_count += rows
        entry.execution_count += 1
        entry.durations["success"].add(seconds)
        for part, names in _PARTS.items():
            entry.durations[part].add(sum(stages.get(one, 0.0) for one in names))

    def failed(self, name: str, version: str, seconds: float) -> None:
        """Count a request that was answered with an error, after ``seconds``."""
        self._entry(name, version).durations["fail"].add(seconds)

    def of(self, name: str, version: str) -> dict[str, Any]:
        """The statistics as the protocol has them."""
        entry = self._entry(name, version)
        return {
            "name": name,
            "version": version,
            "last_inference": entry.last_inference,
            "inference_count": entry.inference_count,
            "execution_count": entry.execution_count,
            "inference_stats": {
                part: {"count": one.count, "ns": one.ns} for part, one in entry.durations.items()
            },
            "batch_stats": [],
        }

    def _entry(self, name: str, version: str) -> ModelStatistics:
        return self._models.setdefault((name, version), ModelStatistics())
