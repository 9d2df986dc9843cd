"""What a prior is: the sizes of its network, and the tokenizer whose ids it knows."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from flowmo.model.container_format import is_fingerprint
from flowmo.model.errors import ConfigError
from flowmo.model.prior.sampler_config import PriorSamplerConfig
from flowmo.model.strict import from_dict, to_dict

MAX_GROUP_BITS = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class PriorConfig:
    """A bidirectional transformer over the N = K D / G ids of an image.

    Args:
        name: A label for people; not part of the model's identity.
        width: The hidden size, divisible by ``heads``.
        depth: The number of blocks.
        heads: Attention heads.
        mlp_width: The inner width of the gated MLPs.
        code_length: K, tokens an image, of the tokenizer.
        token_bits: D, bits a token.
        group_bits: G, bits of one id, at most 16; divides D.
        classes: The number of classes; the null class comes on top.
        class_names: Their names, in order; empty where they have none.
        tokenizer: The fingerprint of the tokenizer whose ids these are, 32 hex digits. None is a
            prior that has met no tokens yet: it can be built, not used with a tokenizer.
        sampler: How ids are drawn when nobody asks for anything else.

    Raises:
        ConfigError: Sizes do not fit together, or a value is out of its range.
    """

    name: str = "custom"
    width: int
    depth: int
    heads: int
    mlp_width: int
    code_length: int
    token_bits: int
    group_bits: int
    classes: int = 0
    class_names: tuple[str, ...] = ()
    tokenizer: str | None = None
    sampler: PriorSamplerConfig = field(default_factory=PriorSamplerConfig)

    def __post_init__(self) -> None:
        for name in ("width", "depth", "heads", "mlp_width", "code_length", "token_bits"):
            _check_whole(name, getattr(self, name), low=1)
        _check_whole("classes", self.classes, low=0)
        _check_whole("group_bits", self.group_bits, low=1)
        if self.group_bits > MAX_GROUP_BITS:
            raise ConfigError(
                f"group_bits must be at most {MAX_GROUP_BITS}, because a prior has a logit for "
                f"each id, got {self.group_bits}"
            )
        if self.width % self.heads:
            raise ConfigError(f"heads {self.heads} must divide the width {self.width}")
        if self.token_bits % self.group_bits:
            raise ConfigError(
                f"group_bits {self.group_bits} must divide token_bits {self.token_bits}"
            )
        if self.class_names and len(self.class_names) != self.classes:
            raise ConfigError(
                f"there must be a name for each of the {self.classes} classes or none, got "
                f"{len(self.class_names)}"
            )
        named = self.tokenizer
        if named is not None and not (isinstance(named, str) and is_fingerprint(named)):
            raise ConfigError(
                f"tokenizer must be a fingerprint, 32 lower-case hex digits, or none, "
                f"got {self.tokenizer!r}"
            )

    def __repr__(self) -> str:
        return (
            f"PriorConfig({self.name!r}, {self.depth} x {self.width}, {self.length} ids of "
            f"{self.group_bits} bits, {self.classes} classes)"
        )

    @property
    def ids_per_token(self) -> int:
        """D / G, the number of ids that make one token."""
        return self.token_bits // self.group_bits

    @property
    def length(self) -> int:
        """N = K D / G, the number of ids of an image: id n is (k, h) with n = k D / G + h."""
        return self.code_length * self.ids_per_token

    @property
    def vocabulary(self) -> int:
        """2^G, the number of different ids."""
        return int(2**self.group_bits)

    @property
    def mask_id(self) -> int:
        """The id that stands for one that is not known: the first that no tokenizer gives."""
        return self.vocabulary

    @property
    def null_class(self) -> int:
        """The class of no class: the number after the last."""
        return self.classes

    def class_number(self, wanted: str | int | None) -> int:
        """A class by its number or name.

        Args:
            wanted: A number, a name, a number as text; None or ``none`` is the null class.

        Raises:
            ConfigError: There is no such class.
        """
        if wanted is None or wanted == "none":
            return self.null_class
        if wanted in self.class_names:
            return self.class_names.index(str(wanted))
        try:
            number = int(wanted)
        except ValueError:
            number = -1
        if not 0 <= number < self.classes:
            some = ", ".join(self.class_names[:8]) + (" ..." if len(self.class_names) > 8 else "")
            names = f", by name: {some}" if self.class_names else ""
            raise ConfigError(
                f"no class {wanted!r}: there are the numbers 0 ... {self.classes - 1} and none"
                f"{names}"
                if self.classes
                else f"no class {wanted!r}: this prior knows no classes; leave the class away"
            )
        return number

    def check_tokenizer(self, fingerprint: str) -> None:
        """Check that ids of a tokenizer are those that this prior knows.

        Raises:
            ConfigError: They are another's.
        """
        if self.tokenizer != fingerprint:
            known = "no tokenizer yet" if self.tokenizer is None else self.tokenizer
            raise ConfigError(
                f"the prior {self.name!r} is made for the tokens of {known}, and these are of "
                f"the tokenizer {fingerprint}: name the tokenizer that it was trained with"
            )

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Read :meth:`to_dict`'s form.

        Raises:
            ConfigError: A field is unknown or missing, or a value is of a wrong type or range.
        """
        return from_dict(cls, data)

    def to_dict(self) -> dict[str, Any]:
        """The config as JSON-safe values."""
        values: dict[str, Any] = to_dict(self)
        return values


def _check_whole(name: str, value: object, *, low: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < low:
        raise ConfigError(
            f"PriorConfig.{name} must be a whole number of at least {low}, got {value!r}"
        )


PRIOR_PRESETS: dict[str, PriorConfig] = {
    # The paper gives hidden size, layers and the count of 397 M (A.3). Blocks of a plain MLP of
    # 4 x 1024 would count 356 M; gated MLPs of 3,200 make it 396 M (docs/decisions/0028).
    "prior": PriorConfig(
        name="prior",
        width=1024,
        depth=28,
        heads=16,
        mlp_width=3200,
        code_length=256,
        token_bits=18,
        group_bits=9,
        classes=1000,
    ),
    "prior-tiny": PriorConfig(
        name="prior-tiny",
        width=192,
        depth=6,
        heads=3,
        mlp_width=512,
        code_length=64,
        token_bits=72,
        group_bits=9,
    ),
}


def prior_preset(name: str) -> PriorConfig:
    """Look a preset up by name.

    Raises:
        ConfigError: There is none; the message lists those there are.
    """
    if name not in PRIOR_PRESETS:
        raise ConfigError(f"no prior {name!r}; there are {sorted(PRIOR_PRESETS)}")
    return PRIOR_PRESETS[name]


def for_tokens(
    config: PriorConfig,
    *,
    tokenizer: str,
    code_length: int,
    token_bits: int,
    group_bits: int,
    classes: int,
    class_names: tuple[str, ...],
) -> PriorConfig:
    """The config of a prior for the tokens at hand.

    A prior without a tokenizer takes everything over; one that has a tokenizer must agree.

    Args:
        config: The prior.
        tokenizer: The fingerprint of the tokenizer that made the tokens.
        code_length: K.
        token_bits: D.
        group_bits: G.
        classes: The number of classes of the tokens.
        class_names: Their names, or none.

    Raises:
        ConfigError: The prior was made for another tokenizer, or for other classes.
    """
    if config.tokenizer is None:
        return dataclasses.replace(
            config,
            tokenizer=tokenizer,
            code_length=code_length,
            token_bits=token_bits,
            group_bits=group_bits,
            classes=classes,
            class_names=class_names,
        )
    config.check_tokenizer(tokenizer)
    if (classes, class_names) != (config.classes, config.class_names):
        raise ConfigError(
            f"the tokens have {classes} classes ({', '.join(class_names[:8])}), the prior "
            f"{config.name!r} has {config.classes} ({', '.join(config.class_names[:8])}); give it "
            f"tokens with the same labels"
        )
    return config
