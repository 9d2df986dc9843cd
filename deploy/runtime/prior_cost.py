"""What a prior costs to run, from its config alone; counted as in :mod:`flowmo.deploy.cost`."""

from dataclasses import dataclass

from flowmo.deploy.cost import ForwardCost, Gpu, floor_seconds
from flowmo.model.errors import ConfigError
from flowmo.model.prior.config import PriorConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class PriorCost:
    """A prior at one batch size.

    Attributes:
        forward: One forward, which is one step of unguided rows.
        steps: The steps of one image with the default sampler.
        rows_a_step: The rows of one image in each of them: 2 with guidance.
        bytes_a_value: The size of one value of the served dtype.
    """

    forward: ForwardCost
    steps: int
    rows_a_step: int
    bytes_a_value: int

    @property
    def forwards(self) -> int:
        """The forwards of one row for one image of a class."""
        return self.steps * self.rows_a_step

    def seconds(self, gpu: Gpu) -> float:
        """The roofline's floor of one forward: the slower of computing and moving.

        Args:
            gpu: The GPU that it computes on.
        """
        return floor_seconds(self.forward, gpu, bytes_a_value=self.bytes_a_value)

    @property
    def memory_bytes(self) -> int:
        """The memory of a replica: weights and activations."""
        return self.forward.parameters * self.bytes_a_value + self.forward.live_bytes


def cost_of_prior(config: PriorConfig, rows: int, *, bytes_a_value: int = 2) -> PriorCost:
    """Count what a prior costs.

    Args:
        config: The prior's config.
        rows: The batch size.
        bytes_a_value: 2 for bfloat16, 4 for float32.

    Raises:
        ConfigError: ``rows`` is below 1.
    """
    if rows < 1:
        raise ConfigError(f"a batch has at least one row, got {rows}")
    width, inner, ids, values = config.width, config.mlp_width, config.length, config.vocabulary
    places = ids + 1  # the class is the first
    matrices = [(width, 3 * width), (width, width), (width, 2 * inner), (inner, width)]
    readout = [(width, width), (width, values)]
    # Two norms of x, and those of queries and keys; embeddings, of which the ids' are the readout's
    # matrix; three vectors of the readout, and its ids' biases.
    weights = config.depth * (
        sum(a * b for a, b in matrices) + 2 * width + 2 * (width // config.heads)
    )
    weights += (values + 1 + config.classes + 1 + places) * width
    weights += width * width + 3 * width + values
    multiplied = config.depth * places * sum(a * b for a, b in matrices)
    multiplied += ids * sum(a * b for a, b in readout)
    # Each linear reads its input and writes its output; attention reads q, k, v and writes one.
    moved = config.depth * places * (sum(a + b for a, b in matrices) + 4 * width)
    moved += ids * sum(a + b for a, b in readout)
    # Residual, q, k, v and the output of attention, or residual and the MLP's parts, or the logits.
    live = max(places * max(5 * width, 2 * width + 3 * inner), ids * (width + values))
    sampler = config.sampler
    return PriorCost(
        forward=ForwardCost(
            rows=rows,
            parameters=weights,
            linear_flops=2 * rows * multiplied,
            attention_flops=2 * rows * config.depth * 2 * places * places * width,
            activation_bytes=rows * moved * bytes_a_value,
            live_bytes=rows * live * bytes_a_value,
        ),
        steps=min(sampler.steps, ids),
        rows_a_step=1 if sampler.guidance in (0.0, 1.0) or not config.classes else 2,
        bytes_a_value=bytes_a_value,
    )
