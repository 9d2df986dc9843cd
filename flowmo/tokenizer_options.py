"""What callers of a tokenizer may choose, and what it comes to."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, TypedDict, get_args

from flowmo.imaging.fit import Fit
from flowmo.model.config import SamplerConfig
from flowmo.model.errors import ConfigError, TokenError
from flowmo.model.pictures import Region
from flowmo.tokenizer_inputs import ValueRange

Output = Literal["pil", "array", "tensor"]

DEFAULT_BATCH_SIZE = 8


class _FitOptions(TypedDict, total=False):
    fit: Fit
    overlap: float
    value_range: ValueRange | None


class EncodeOptions(_FitOptions, total=False):
    """The options of :meth:`flowmo.Tokenizer.encode`."""

    batch_size: int


class DecodeOptions(TypedDict, total=False):
    """The options of :meth:`flowmo.Tokenizer.decode` but the form of what comes."""

    steps: int | None
    guidance: float | None
    seeds: int | Sequence[int] | None
    sampler: SamplerConfig | None
    region: Region | None
    batch_size: int


class ReconstructOptions(_FitOptions, DecodeOptions, total=False):
    """The options of :meth:`flowmo.Tokenizer.reconstruct` but the form of what comes."""


def check_options(output: Output, batch_size: int) -> None:
    """Refuse forms and batches that there are not.

    Raises:
        ConfigError: There is no such form, or the batch size is no whole number of at least 1.
    """
    if output not in get_args(Output):
        raise ConfigError(f"output must be one of {', '.join(get_args(Output))}, got {output!r}")
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise ConfigError(f"batch_size must be a whole number of at least 1, got {batch_size!r}")


def sampler_of(
    chosen: SamplerConfig, steps: int | None = None, guidance: float | None = None
) -> SamplerConfig:
    """A sampler with other numbers of steps or guidance.

    Args:
        chosen: The sampler.
        steps: The number of steps; its own by default.
        guidance: The guidance weight; its own by default.

    Raises:
        ConfigError: A number is out of its range.
    """
    if steps is not None and chosen.schedule == "explicit":
        # A fixed list of times has no other length: leave it for the power grid.
        chosen = replace(chosen, schedule="power", times=())
    if steps is not None:
        chosen = replace(chosen, steps=steps)
    return chosen if guidance is None else replace(chosen, guidance=guidance)


def seeds_of(seeds: int | Sequence[int] | None, count: int, is_single: bool) -> list[int]:
    """The seed of each image.

    Args:
        seeds: What was given; 0, 1, 2 ... by default.
        count: The number of images.
        is_single: Whether one came alone.

    Raises:
        TokenError: There are not as many seeds as images.
    """
    if seeds is None:
        return list(range(count))
    if isinstance(seeds, int):
        if not is_single:
            raise TokenError(f"{count} images need as many seeds, got one number; pass a list")
        return [seeds]
    if len(seeds) != count:
        raise TokenError(f"{count} images need as many seeds, got {len(seeds)}")
    return list(seeds)
