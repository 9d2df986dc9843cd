"""Where the time of one request went."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from flowmo.service.engine.calls import Decoded
from flowmo.service.telemetry.metrics import Metrics
from flowmo.service.telemetry.tracing import record_stages


@dataclass(slots=True)
class StageClock:
    """The seconds of each stage of one request, for its ``Server-Timing`` header.

    Attributes:
        metrics: The series in which every stage is counted too.
        model: The name of the model that the request uses.
        seconds: The sum of each stage so far, by its name.
    """

    metrics: Metrics
    model: str
    seconds: dict[str, float] = field(default_factory=dict)

    def add(self, stages: Mapping[str, float], **attributes: str | int) -> None:
        """Count stages that have just ended, one after the other.

        A stage that a request passes twice (the queue, in reconstruct) adds up in the header.

        Args:
            stages: The seconds of each stage, in the order in which they happened.
            attributes: What the spans of these stages say in addition to the model's name.
        """
        record_stages(stages, **{"flowmo.model": self.model, **attributes})
        for stage, seconds in stages.items():
            self.metrics.stage(self.model, stage, seconds)
            self.seconds[stage] = self.seconds.get(stage, 0.0) + seconds

    def add_decode(self, decoded: Decoded) -> None:
        """Count the two stages of a decode: its wait for the first batch, and its steps."""
        stages = {"queue": decoded.timings.queue, "sample": decoded.timings.run}
        self.add(stages, **{"flowmo.steps": decoded.sampler.steps})

    def header(self) -> str:
        """The value of ``Server-Timing``, in milliseconds."""
        return ", ".join(f"{name};dur={s * 1e3:.2f}" for name, s in self.seconds.items())
