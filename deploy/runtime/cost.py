"""What a model costs to run, from its config alone: work, memory, and the least time they take.

Counted are products of matrices, two operations a multiply-add; norms, softmax and the like are
below 2 % of it. Bytes are those of weights and of what lies between the operators of a network that
fuses all it can.
"""

from dataclasses import dataclass, replace

from flowmo.deploy.graphs import Half
from flowmo.model.config import FlowMoConfig, TransformerConfig
from flowmo.model.errors import ConfigError
from flowmo.model.sampler import count_forwards


@dataclass(frozen=True, kw_only=True, slots=True)
class Gpu:
    """What a GPU can do.

    Attributes:
        name: The GPU's name, for people.
        bf16_flops: The dense operations a second, as measured on large products where that is
            known, else as published.
        fp8_flops: The same in fp8; None without it.
        bytes_a_second: The bandwidth of its memory.
        memory_bytes: The size of its memory.
    """

    name: str
    bf16_flops: float
    fp8_flops: float | None
    bytes_a_second: float
    memory_bytes: int


_GIB = 2**30
GPUS = {
    "h100": Gpu(
        name="H100 SXM",
        bf16_flops=798e12,
        fp8_flops=1596e12,
        bytes_a_second=3.0e12,
        memory_bytes=80 * _GIB,
    ),
    "h200": Gpu(
        name="H200 SXM",
        bf16_flops=798e12,
        fp8_flops=1596e12,
        bytes_a_second=4.3e12,
        memory_bytes=141 * _GIB,
    ),
    "a100": Gpu(
        name="A100 SXM 80 GB",
        bf16_flops=312e12,
        fp8_flops=None,
        bytes_a_second=1.9e12,
        memory_bytes=80 * _GIB,
    ),
    "l40s": Gpu(
        name="L40S",
        bf16_flops=362e12,
        fp8_flops=733e12,
        bytes_a_second=0.86e12,
        memory_bytes=48 * _GIB,
    ),
    "l4": Gpu(
        name="L4",
        bf16_flops=121e12,
        fp8_flops=242e12,
        bytes_a_second=0.3e12,
        memory_bytes=24 * _GIB,
    ),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class ForwardCost:
    """One forward as it is served: dead parts left out, modulation looked up.

    Attributes:
        rows: The batch size.
        parameters: The parameters that the forward reads.
        linear_flops: The operations of all linears.
        attention_flops: The operations of both products of every attention.
        activation_bytes: What is written and read again between operators, in the served dtype.
        live_bytes: The most that lies in memory at one time, weights left out.
    """

    rows: int
    parameters: int
    linear_flops: int
    attention_flops: int
    activation_bytes: int
    live_bytes: int

    @property
    def flops(self) -> int:
        """The operations of everything."""
        return self.linear_flops + self.attention_flops


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """A model at one batch size.

    Attributes:
        encoder: One forward of the encoder.
        decoder: One forward of the decoder, which is one step of unguided rows.
        forwards: The decoder's forwards for one picture with the default sampler, a guided step
            counting twice.
        modulation_parameters: The parameters that are needed only to make the table.
        bytes_a_value: The size of one value of the served dtype.
    """

    encoder: ForwardCost
    decoder: ForwardCost
    forwards: int
    modulation_parameters: int
    bytes_a_value: int

    def seconds(self, half: Half, gpu: Gpu, *, fp8: bool = False) -> float:
        """The roofline's floor of one forward: the slower of computing and moving.

        Args:
            half: The half that computes.
            gpu: The GPU that it computes on.
            fp8: Whether linears are in fp8, and the rest in bf16.
        """
        cost = self.encoder if half == "encoder" else self.decoder
        return floor_seconds(cost, gpu, bytes_a_value=self.bytes_a_value, fp8=fp8)

    @property
    def memory_bytes(self) -> int:
        """The memory of a replica with both halves: weights, and the larger of the activations."""
        weights = self.encoder.parameters + self.decoder.parameters + self.modulation_parameters
        live = max(self.encoder.live_bytes, self.decoder.live_bytes)
        return weights * self.bytes_a_value + live


def floor_seconds(cost: ForwardCost, gpu: Gpu, *, bytes_a_value: int, fp8: bool = False) -> float:
    """The roofline's floor of a forward: the slower of computing and moving.

    Args:
        cost: The forward.
        gpu: The GPU that it computes on.
        bytes_a_value: The size of one value of the served dtype.
        fp8: Whether linears are in fp8, and the rest in bf16.

    Raises:
        ConfigError: The GPU has no fp8.
    """
    if fp8 and gpu.fp8_flops is None:
        raise ConfigError(f"{gpu.name} has no fp8")
    linear_rate = gpu.fp8_flops if fp8 and gpu.fp8_flops else gpu.bf16_flops
    computing = cost.linear_flops / linear_rate + cost.attention_flops / gpu.bf16_flops
    moved = cost.parameters * bytes_a_value + cost.activation_bytes
    return max(computing, moved / gpu.bytes_a_second)


def cost_of(config: FlowMoConfig, rows: int, *, bytes_a_value: int = 2) -> Cost:
    """Count what a model costs.

    Args:
        config: The model's config.
        rows: The batch size.
        bytes_a_value: 2 for bfloat16, 4 for float32.

    Raises:
        ConfigError: ``rows`` is below 1.
    """
    if rows < 1:
        raise ConfigError(f"a batch has at least one row, got {rows}")
    patches = (config.image_size // config.patch_size) ** 2
    width = config.decoder.width
    # Six numbers a channel for each stream of each block, two at the end; and the time's MLP.
    modulation = config.decoder.depth * 2 * 6 + 2
    time_mlp = (256 * width + width) + (width * width + width)
    return Cost(
        encoder=_half(
            config.encoder,
            rows=rows,
            patches=patches,
            code=config.code_length,
            # The txt input is zeros: its projection is one vector.
            inputs=((patches, config.patch_dim), (0, 0)),
            output=(config.code_length, config.code_dim),
            dead="img",
            bytes_a_value=bytes_a_value,
        ),
        decoder=_with_head(
            _half(
                config.decoder,
                rows=rows,
                patches=patches,
                code=config.code_length,
                inputs=((patches, config.patch_dim), (config.code_length, config.token_bits + 1)),
                output=(patches, config.decoder_patch_dim),
                dead="txt",
                bytes_a_value=bytes_a_value,
            ),
            config,
            bytes_a_value=bytes_a_value,
        ),
        forwards=count_forwards(config.sampler),
        modulation_parameters=modulation * (width * width + width) + time_mlp,
        bytes_a_value=bytes_a_value,
    )


def _with_head(cost: ForwardCost, config: FlowMoConfig, *, bytes_a_value: int) -> ForwardCost:
    """A decoder's cost and that of its head's convolutions (:class:`flowmo.model.head.Head`)."""
    if not config.head:
        return cost
    # Of each convolution: channels in and out, side of the kernel, side of the map.
    convolutions: list[tuple[int, int, int, int]] = []
    side = config.image_size
    for i in reversed(range(len(config.head))):
        channels = config.head[i]
        convolutions += [(channels, channels, 3, side)] * 2
        if i:
            convolutions.append((config.head[i - 1], 4 * channels, 1, side // 2))
        side //= 2
    last = config.head[-1]
    convolutions += [(6, last, 3, config.image_size), (last, 3, 3, config.image_size)]
    weights = sum(i * o * k * k + o for i, o, k, _ in convolutions)
    products = sum(i * o * k * k * s * s for i, o, k, s in convolutions)
    # Each reads its input and writes its output; SiLU and sums of neighbours are fused or small.
    values = sum((i + o) * s * s for i, o, _, s in convolutions)
    widest = max((i + o) * s * s for i, o, _, s in convolutions)
    return replace(
        cost,
        parameters=cost.parameters + weights,
        linear_flops=cost.linear_flops + 2 * cost.rows * products,
        activation_bytes=cost.activation_bytes + cost.rows * values * bytes_a_value,
        live_bytes=max(cost.live_bytes, cost.rows * widest * bytes_a_value),
    )


def _half(
    shape: TransformerConfig,
    *,
    rows: int,
    patches: int,
    code: int,
    inputs: tuple[tuple[int, int], tuple[int, int]],
    output: tuple[int, int],
    dead: str,
    bytes_a_value: int,
) -> ForwardCost:
    """Count one half; the last block's ``dead`` stream gives keys and values only."""
    d, hidden = shape.width, shape.width * shape.mlp_ratio
    tokens = patches + code
    weights = multiplied = attended = moved = 0
    for length, size in inputs:
        weights += size * d + d
        multiplied += length * size * d
    for block in range(shape.depth):
        queries = tokens
        for stream, length in (("img", patches), ("txt", code)):
            alive = not (block == shape.depth - 1 and stream == dead)
            projections = 3 * d if alive else 2 * d
            matrices = [(d, projections)]
            if alive:
                matrices += [(d, d), (d, hidden), (hidden, d)]
            else:
                queries -= length
            weights += sum(a * b + b for a, b in matrices) + (2 if alive else 1) * shape.head_dim
            multiplied += length * sum(a * b for a, b in matrices)
            # Each linear reads its input and writes its output.
            moved += length * sum(a + b for a, b in matrices)
        attended += 2 * queries * tokens * d
        moved += (2 * queries + 2 * tokens) * d
    length, size = output
    weights += d * size + size
    multiplied += length * d * size
    # Residual, q, k, v and the output of attention, or residual and the MLP's hidden layer.
    live = tokens * max(5 * d, 2 * d + hidden)
    return ForwardCost(
        rows=rows,
        parameters=weights,
        linear_flops=2 * rows * multiplied,
        attention_flops=2 * rows * attended,
        activation_bytes=rows * moved * bytes_a_value,
        live_bytes=rows * live * bytes_a_value,
    )
