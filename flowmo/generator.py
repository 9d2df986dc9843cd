"""New images from a prior: classes and seeds to tokens that a tokenizer decodes.

import flowmo

tok = flowmo.load("tiny")
prior = flowmo.load_prior("prior-tiny", tok)
picture = tok.decode(prior.generate("scenes"))
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias, TypedDict, Unpack, overload

import torch
from numpy.typing import ArrayLike

from flowmo.model import registry
from flowmo.model.errors import ConfigError, TokenError
from flowmo.model.image_tokens import ImageTokens
from flowmo.model.layout import PictureLayout
from flowmo.model.loading import choose_device, choose_dtype
from flowmo.model.prior.checkpoint import Prior
from flowmo.model.prior.config import PriorConfig
from flowmo.model.prior.editing import kept_ids, row_of_ids, tokens_of_ids
from flowmo.model.prior.sampler_config import PriorSamplerConfig
from flowmo.tokenizer import Tokenizer
from flowmo.tokenizer_inputs import TokenInput, read_tokens
from flowmo.tokenizer_options import DEFAULT_BATCH_SIZE, check_options, seeds_of

ClassInput: TypeAlias = str | int | None
"""A class: its name, its number, or None for none."""
ManyClasses: TypeAlias = (
    list[ClassInput] | list[str] | list[int] | list[str | None] | tuple[ClassInput, ...]
)


class GenerateOptions(TypedDict, total=False):
    """The options of :meth:`TokenGenerator.generate` but classes and count."""

    seeds: int | Sequence[int] | None
    steps: int | None
    guidance: float | None
    temperature: float | None
    sampler: PriorSamplerConfig | None
    tokens: TokenInput | None
    mask: ArrayLike | None
    batch_size: int


def load_prior(
    name: str | Path,
    tokenizer: Tokenizer,
    *,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype = "auto",
) -> "TokenGenerator":
    """Load a prior, for the tokenizer whose tokens it knows.

    Args:
        name: ``prior-tiny``, which comes with the package, for ``tiny``; a checkpoint folder of a
            prior, or a hub repository of one.
        tokenizer: The tokenizer that it was trained with, which decodes what it generates.
        device: ``auto`` or a PyTorch device; the tokenizer's by default.
        dtype: ``auto`` (bfloat16 on a GPU, float32 elsewhere), ``float32``, ``bfloat16`` or
            ``float16``.

    Raises:
        CheckpointError: There is no such checkpoint, it is damaged, or it is no prior.
        ConfigError: The prior is for another tokenizer, or the device or dtype cannot be used.
    """
    chosen = choose_device(tokenizer.device if device is None else device)
    prior = registry.load(name, expected=Prior, dtype=choose_dtype(dtype, chosen), device=chosen)
    return TokenGenerator(prior, tokenizer)


class TokenGenerator:
    """A prior that generates the tokens of images: :func:`load_prior` makes one.

    Use it from one thread at a time.

    Args:
        prior: The network.
        tokenizer: The tokenizer that it was trained with.

    Raises:
        ConfigError: The prior is for another tokenizer.
    """

    def __init__(self, prior: Prior, tokenizer: Tokenizer) -> None:
        prior.config.check_tokenizer(tokenizer.fingerprint)
        self.prior = prior
        size = tokenizer.image_size
        self._layout = PictureLayout(width=size, height=size, tile_size=size)
        self._tokenizer = tokenizer.fingerprint

    def __repr__(self) -> str:
        config = self.config
        return (
            f"TokenGenerator({config.name!r}, {config.classes} classes, {config.code_length} "
            f"tokens of {config.token_bits} bits of the tokenizer {self._tokenizer[:8]})"
        )

    @property
    def config(self) -> PriorConfig:
        """The sizes of the prior, its classes and its default sampler."""
        return self.prior.config

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes, in order; empty where they have none."""
        return self.config.class_names

    @overload
    def generate(
        self, classes: ClassInput = ..., *, count: None = ..., **options: Unpack[GenerateOptions]
    ) -> ImageTokens: ...

    @overload
    def generate(
        self, classes: ClassInput = ..., *, count: int, **options: Unpack[GenerateOptions]
    ) -> list[ImageTokens]: ...

    @overload
    def generate(
        self, classes: ManyClasses, *, count: None = ..., **options: Unpack[GenerateOptions]
    ) -> list[ImageTokens]: ...

    def generate(
        self,
        classes: ClassInput | ManyClasses = None,
        *,
        count: int | None = None,
        seeds: int | Sequence[int] | None = None,
        steps: int | None = None,
        guidance: float | None = None,
        temperature: float | None = None,
        sampler: PriorSamplerConfig | None = None,
        tokens: TokenInput | None = None,
        mask: ArrayLike | None = None,
        batch_size: int = DEFAULT_BATCH_SIZE,
    ) -> ImageTokens | list[ImageTokens]:
        """The tokens of new images.

        What a seed gives does not depend on the images beside it, but for the rounding of larger
        batches.

        Args:
            classes: The class of one image, by name or number, None for none; or one for each of
                several.
            count: How many images of one class; one image, which comes alone, by default.
            seeds: The seed of each image; 0, 1, 2 ... by default. Of one number several images
                have it and those that follow.
            steps: The most steps, 1 to 1000; the prior's own by default, as of the next two.
            guidance: The weight of the class, 1 for none.
            temperature: The softmax temperature, 0 for the most probable ids.
            sampler: A whole sampler, in the place of the prior's own.
            tokens: The tokens of one square, of which some are kept: what
                :meth:`Tokenizer.decode` takes.
            mask: Which: bools [K], true for each token that stays, or [K, D/G] for each id.
            batch_size: How many images are computed at once.

        Returns:
            Tokens that the tokenizer decodes; of several images a list.

        Raises:
            ConfigError: There is no such class, or an option is out of its range.
            ContainerError: The tokens were made by another tokenizer, or cannot be read.
            TokenError: Tokens and mask do not fit together or to the prior, or there are not as
                many seeds as images.
        """
        check_options("pil", batch_size)
        several = not isinstance(classes, str | int | None) or count is not None
        wanted = self._classes(classes, count)
        if isinstance(seeds, int):
            seeds = range(seeds, seeds + len(wanted))
        numbers = seeds_of(seeds, len(wanted), is_single=False)
        chosen = (sampler or self.config.sampler).changed(
            steps=steps, guidance=guidance, temperature=temperature
        )
        known, keep = self._kept(tokens, mask)
        made = [
            ImageTokens.in_layout(
                tokens_of_ids(row, self.config).ids[None],
                self._layout,
                group_bits=self.config.group_bits,
                fingerprint=self._tokenizer,
            )
            for start in range(0, len(wanted), batch_size)
            for row in self.prior.generate(
                wanted[start : start + batch_size],
                seeds=numbers[start : start + batch_size],
                sampler=chosen,
                known=known,
                keep=keep,
            )
            .cpu()
            .numpy()
        ]
        return made if several else made[0]

    def _classes(self, classes: ClassInput | ManyClasses, count: int | None) -> list[int]:
        if count is not None and (isinstance(count, bool) or count < 1):
            raise ConfigError(f"count must be a whole number of at least 1, got {count!r}")
        if isinstance(classes, str | int | None):
            return [self.config.class_number(classes)] * (count or 1)
        if count is not None:
            raise ConfigError("count is for one class: give a list with a class for each image")
        return [self.config.class_number(one) for one in classes]

    def _kept(
        self, tokens: TokenInput | None, mask: ArrayLike | None
    ) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        if (tokens is None) != (mask is None):
            raise TokenError("editing takes both tokens and a mask that says which of them stay")
        if tokens is None or mask is None:
            return None, None
        read = read_tokens(tokens, self.config.group_bits)
        if isinstance(read, ImageTokens):
            self.config.check_tokenizer(read.fingerprint)
        row = row_of_ids(read, self.config)
        return torch.from_numpy(row), torch.from_numpy(kept_ids(mask, self.config))
