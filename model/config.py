"""What a FlowMo model is: sizes, quantizer and default sampler, as plain frozen values.

A :class:`FlowMoConfig` is general; the published shapes are the instances in :data:`PRESETS`
(SPEC "Shapes and presets", paper Table 1). Everything validates itself on construction, so a
config that exists can be built.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from math import isqrt
from typing import Any, Literal, Self, get_args

from flowmo.model.errors import ConfigError
from flowmo.model.strict import from_dict, to_dict

Schedule = Literal["power", "linear", "merged", "explicit"]
QuantizerKind = Literal["lfq", "gaussian"]
TokenPositions = Literal["diagonal", "grid"]
Prediction = Literal["velocity", "image"]

DEFAULT_STEPS = 25
DEFAULT_RHO = 0.25
DEFAULT_GUIDANCE = 1.5
DEFAULT_GUIDANCE_INTERVAL = (0.17, 1.02)
MAX_STEPS = 1000

# The share of each axis (frame, row, column) in a head's rotary dimensions (SPEC, step 3).
_ROPE_RATIO = (8, 28, 28)


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigError(message)


def _require_positive_int(owner: str, **values: int) -> None:
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ConfigError(f"{owner}.{name} must be a whole number of at least 1, got {value!r}")


@dataclass(frozen=True, kw_only=True, slots=True)
class SamplerConfig:
    """How tokens become an image: time grid and guidance (SPEC "Decode", paper section B).

    Args:
        schedule: ``power`` is t_i = (i/N)^(1/rho); ``linear`` is t_i = i/N; ``merged`` is the
            ``power`` grid of N + 5 steps whose last six are one, so that 20 steps are the default
            25 but for times below 0.0033; ``explicit`` takes ``times``.
        steps: N, the number of Euler steps (1 to 1000). For ``explicit`` it is len(times) - 1.
        rho: exponent of the ``power`` and ``merged`` schedules, > 0; smaller means finer steps near
            t = 0.
        times: for ``explicit`` the whole grid, strictly descending from 1.0 to 0.0.
        guidance: classifier-free guidance weight w >= 0; 1 is no guidance.
        guidance_interval: where guidance acts, as noise-to-signal ratios (sigma_lo, sigma_hi) in
            the EDM convention; in rectified-flow time that is sigma / (1 + sigma).

    Raises:
        ConfigError: a value is out of its range.
    """

    schedule: Schedule = "power"
    steps: int = DEFAULT_STEPS
    rho: float = DEFAULT_RHO
    times: tuple[float, ...] = field(default=(), repr=False)
    guidance: float = DEFAULT_GUIDANCE
    guidance_interval: tuple[float, float] = DEFAULT_GUIDANCE_INTERVAL

    def __post_init__(self) -> None:
        _require(
            self.schedule in get_args(Schedule),
            f"schedule must be one of {get_args(Schedule)}, got {self.schedule!r}",
        )
        if self.schedule == "explicit":
            times = self.times
            _require(
                len(times) >= 2
                and times[0] == 1.0
                and times[-1] == 0.0
                and all(a > b for a, b in pairwise(times)),
                f"an explicit grid descends strictly from 1.0 to 0.0, got {times!r}",
            )
            # `steps` is what people read, so it must say the truth for explicit grids too.
            object.__setattr__(self, "steps", len(times) - 1)
        else:
            _require(
                not self.times,
                f"times belong to schedule='explicit', got them with {self.schedule!r}",
            )
        _require_positive_int("SamplerConfig", steps=self.steps)
        _require(self.steps <= MAX_STEPS, f"steps must be 1 to {MAX_STEPS}, got {self.steps}")
        _require(0 < self.rho < float("inf"), f"rho must be positive, got {self.rho!r}")
        _require(
            0 <= self.guidance < float("inf"), f"guidance must be at least 0, got {self.guidance!r}"
        )
        low, high = self.guidance_interval
        _require(
            0 <= low <= high,
            f"guidance_interval must be 0 <= low <= high, got {self.guidance_interval!r}",
        )

    @property
    def has_rho(self) -> bool:
        """Whether the time grid depends on ``rho``."""
        return self.schedule in {"power", "merged"}

    def changed(
        self,
        *,
        steps: int | None = None,
        schedule: Schedule | None = None,
        rho: float | None = None,
        guidance: float | None = None,
    ) -> Self:
        """A copy with what is given changed; None leaves a value as it is.

        An explicit grid has one length, so steps, schedule or rho turn it into the power grid.

        Args:
            steps: N.
            schedule: ``power``, ``linear`` or ``merged``.
            rho: The exponent of the ``power`` and ``merged`` schedules.
            guidance: The guidance weight.

        Raises:
            ConfigError: A value is out of its range.
        """
        given = {"steps": steps, "schedule": schedule, "rho": rho, "guidance": guidance}
        changes: dict[str, Any] = {k: v for k, v in given.items() if v is not None}
        if self.schedule == "explicit" and changes.keys() - {"guidance"}:
            changes = {"schedule": "power", "times": (), **changes}
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


@dataclass(frozen=True, kw_only=True, slots=True)
class TransformerConfig:
    """One two-stream transformer (SPEC "One transformer, used twice").

    Args:
        width: hidden size d, divisible by ``heads``.
        depth: number of two-stream blocks.
        heads: attention heads; the published models have 12 at every width.
        mlp_ratio: hidden size of the MLP over d.
        rope_dims: rotary dimensions of a head on the (frame, row, column) axes, each even, summing
            to the head dimension. Empty means the published ratio 8 : 28 : 28.

    Raises:
        ConfigError: sizes do not fit together.
    """

    width: int
    depth: int
    heads: int = 12
    mlp_ratio: int = 4
    rope_dims: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        _require_positive_int(
            "TransformerConfig",
            width=self.width,
            depth=self.depth,
            heads=self.heads,
            mlp_ratio=self.mlp_ratio,
        )
        _require(
            self.width % self.heads == 0,
            f"width {self.width} must be divisible by heads {self.heads}",
        )
        if not self.rope_dims:
            object.__setattr__(self, "rope_dims", _default_rope_dims(self.head_dim))
        _require(
            len(self.rope_dims) == 3
            and all(n >= 0 and n % 2 == 0 for n in self.rope_dims)
            and sum(self.rope_dims) == self.head_dim,
            f"rope_dims must be three even numbers that sum to the head dimension "
            f"{self.head_dim}, got {self.rope_dims}",
        )

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.width // self.heads

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Read :meth:`to_dict`'s form.

        Raises:
            ConfigError: A field is unknown or missing, or a value is of a wrong type or range.
        """
        return from_dict(cls, data)

    def to_dict(self) -> dict[str, Any]:
        """The transformer's shape as JSON-safe values."""
        values: dict[str, Any] = to_dict(self)
        return values


def _default_rope_dims(head_dim: int) -> tuple[int, int, int]:
    _require(head_dim % 2 == 0, f"the head dimension must be even, got {head_dim}")
    total = sum(_ROPE_RATIO)
    # Even shares; the frame axis takes what rounding leaves over. Exact at the published widths.
    spatial = 2 * round(head_dim * _ROPE_RATIO[1] / total / 2)
    return head_dim - 2 * spatial, spatial, spatial


@dataclass(frozen=True, kw_only=True, slots=True)
class FlowMoConfig:
    """A whole tokenizer: encoder, quantizer, decoder and its default sampler.

    Args:
        name: label for people; not part of the model's identity.
        image_size: side of the square images the model serves, in pixels, divisible by
            ``patch_size``. (The network itself takes any multiple of the patch size.)
        patch_size: p, side of a patch in pixels.
        encoder: shape of the encoder.
        decoder: shape of the decoder.
        code_length: K, tokens an image.
        token_bits: D, bits a token (``context_dim`` of the published configuration); of a Gaussian
            latent, its dimensions.
        group_bits: G, bits of one id (``codebook_size_for_entropy``); divides D. A Gaussian latent
            has no ids, and this number no meaning.
        token_positions: rotary positions of the latent tokens. ``diagonal`` is the published
            (i, i, i); ``grid`` spreads them over the image as sqrt(K) x sqrt(K) points, which
            ties each token to a place and learns in a small fraction of the steps.
        prediction: what the decoder computes. ``velocity`` is the published form; an ``image`` x
            means the velocity (x_t - x) / max(t, 0.05), and the noise need not pass through the
            transformer.
        head: channels of convolutions that add to the pixels of the decoder's patches
            (:mod:`flowmo.model.head`), at each scale from the coarsest to the image's own; empty
            is the published form, none.
        quantizer: ``lfq`` (signs) or ``gaussian`` (continuous posterior, no tokens to transmit).
        sampler: what decoding does when nobody asks for anything else.

    Raises:
        ConfigError: sizes do not fit together.
    """

    name: str = "custom"
    image_size: int
    patch_size: int
    encoder: TransformerConfig
    decoder: TransformerConfig
    code_length: int
    token_bits: int
    group_bits: int
    quantizer: QuantizerKind = "lfq"
    token_positions: TokenPositions = "diagonal"
    prediction: Prediction = "velocity"
    head: tuple[int, ...] = ()
    sampler: SamplerConfig = SamplerConfig()

    def __post_init__(self) -> None:
        _require_positive_int(
            "FlowMoConfig",
            image_size=self.image_size,
            patch_size=self.patch_size,
            code_length=self.code_length,
            token_bits=self.token_bits,
            group_bits=self.group_bits,
        )
        _require(
            self.image_size % self.patch_size == 0,
            f"image_size {self.image_size} must be divisible by patch_size {self.patch_size}",
        )
        _require(
            # A Gaussian latent has dimensions instead of bits, and no ids that would group them.
            self.quantizer == "gaussian" or self.token_bits % self.group_bits == 0,
            f"group_bits {self.group_bits} must divide token_bits {self.token_bits}",
        )
        _require(self.group_bits <= 24, f"group_bits must be at most 24, got {self.group_bits}")
        _require(
            self.quantizer in get_args(QuantizerKind),
            f"quantizer must be one of {get_args(QuantizerKind)}, got {self.quantizer!r}",
        )
        _require(
            self.token_positions in get_args(TokenPositions),
            f"token_positions must be one of {get_args(TokenPositions)}, "
            f"got {self.token_positions!r}",
        )
        _require(
            self.token_positions == "diagonal" or isqrt(self.code_length) ** 2 == self.code_length,
            f"token_positions='grid' needs a square code_length, got {self.code_length}",
        )
        _require(
            self.prediction in get_args(Prediction),
            f"prediction must be one of {get_args(Prediction)}, got {self.prediction!r}",
        )
        for channels in self.head:
            _require_positive_int("FlowMoConfig", head=channels)
        _require(
            self.patch_size % self._head_shrink == 0,
            f"a head of {len(self.head)} scales needs a patch_size divisible by "
            f"{self._head_shrink}, got {self.patch_size}",
        )

    def __repr__(self) -> str:
        encoder, decoder = self.encoder, self.decoder
        return (
            f"FlowMoConfig({self.name!r}, {self.image_size} x {self.image_size} pixels in patches "
            f"of {self.patch_size}, {self.code_length} x {self.token_bits} bits, "
            f"{self.quantizer}, encoder {encoder.depth} x {encoder.width}, "
            f"decoder {decoder.depth} x {decoder.width})"
        )

    @property
    def ids_per_token(self) -> int:
        """The number D / G of ids, of G bits each, that make one token (``lfq`` only)."""
        return self.token_bits // self.group_bits

    @property
    def payload_bits(self) -> int:
        """K x D: exact size of one image's tokens in bits."""
        return self.code_length * self.token_bits

    @property
    def payload_bytes(self) -> int:
        """Size of one image's packed tokens in bytes."""
        return (self.payload_bits + 7) // 8

    @property
    def patch_dim(self) -> int:
        """3 p^2: numbers in one patch."""
        return 3 * self.patch_size**2

    @property
    def decoder_patch_dim(self) -> int:
        """Numbers that the decoder's transformer gives for one patch: 3 p^2, and a head's map."""
        channels = self.head[0] if self.head else 0
        return self.patch_dim + channels * (self.patch_size // self._head_shrink) ** 2

    @property
    def _head_shrink(self) -> int:
        return int(2 ** max(len(self.head) - 1, 0))

    @property
    def code_dim(self) -> int:
        """Numbers the encoder emits a token: D, or 2 D (mean and log-variance)."""
        return self.token_bits * (2 if self.quantizer == "gaussian" else 1)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Read :meth:`to_dict`'s form.

        Raises:
            ConfigError: A field is unknown or missing, or a value is of a wrong type or range.
        """
        return from_dict(cls, data)

    def to_dict(self) -> dict[str, Any]:
        """The whole model's config as JSON-safe values."""
        values: dict[str, Any] = to_dict(self)
        return values


_LO = FlowMoConfig(
    name="lo",
    image_size=256,
    patch_size=4,
    encoder=TransformerConfig(width=768, depth=8),
    decoder=TransformerConfig(width=1152, depth=16),
    code_length=256,
    token_bits=18,
    group_bits=9,
)

PRESETS: dict[str, FlowMoConfig] = {
    "small": dataclasses.replace(
        _LO, name="small", patch_size=8, decoder=TransformerConfig(width=768, depth=16)
    ),
    "lo": _LO,
    "hi": dataclasses.replace(_LO, name="hi", token_bits=56, group_bits=14),
    "continuous-lo": dataclasses.replace(_LO, name="continuous-lo", quantizer="gaussian"),
    "tiny": FlowMoConfig(
        name="tiny",
        image_size=128,
        patch_size=8,
        encoder=TransformerConfig(width=160, depth=3, heads=4),
        decoder=TransformerConfig(width=256, depth=5, heads=4),
        code_length=64,
        token_bits=72,
        group_bits=9,
        token_positions="grid",
    ),
}


def preset(name: str) -> FlowMoConfig:
    """Look a preset up by name.

    Raises:
        ConfigError: no such preset; the message lists those there are.
    """
    try:
        return PRESETS[name]
    except KeyError:
        raise ConfigError(f"no preset {name!r}; there are {sorted(PRESETS)}") from None
