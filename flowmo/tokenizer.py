"""Images to tokens and back: a model behind pictures rather than tensors (docs/python.md).

import flowmo

tok = flowmo.load("tiny")
tokens = tok.encode("photo.jpg")
picture = tok.decode(tokens, steps=8)
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, Self, TypeAlias, get_args, overload

import torch
from PIL import Image
from torch import Tensor

from flowmo.imaging.fit import DEFAULT_FIT, Fit
from flowmo.imaging.tensors import to_pixels
from flowmo.model.config import FlowMoConfig, SamplerConfig
from flowmo.model.errors import ConfigError, TokenError
from flowmo.model.hub import resolve_checkpoint
from flowmo.model.image_tokens import ImageTokens
from flowmo.model.inference import InferenceModel
from flowmo.model.loading import choose_device, load_inference_model
from flowmo.model.sampler import noise
from flowmo.tokenizer_inputs import (
    ImageInput,
    ImageReader,
    TokenInput,
    ValueRange,
    read_tokens,
    split,
)

Output = Literal["pil", "array", "tensor"]
Many: TypeAlias = list[Any] | tuple[Any, ...] | Iterator[Any]

DEFAULT_BATCH_SIZE = 8


def load(
    name: str | Path,
    *,
    device: str | torch.device = "auto",
    dtype: str | torch.dtype = "auto",
    preset: str | None = None,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    force_download: bool = False,
    local_files_only: bool = False,
    token: str | bool | None = None,
) -> "Tokenizer":
    """Load a tokenizer.

    Args:
        name: ``tiny`` (shipped with this package), a checkpoint folder, a hub repository
            ``owner/name``, or a published file ``owner/name:file.pth``, which is converted on
            first use.
        device: ``auto`` (the first GPU, else the CPU) or a PyTorch device.
        dtype: ``auto`` (bfloat16 on a GPU, float32 elsewhere), ``float32``, ``bfloat16`` or
            ``float16``.
        preset: What model a published file holds: ``lo``, ``hi``, ...
        revision: Branch, tag or commit of the repository; its main branch by default.
        cache_dir: The folder that keeps downloads; the hub's own cache by default.
        force_download: Whether to download what the cache has, too.
        local_files_only: Whether to leave the network alone.
        token: The hub's token; the stored one by default.

    Raises:
        CheckpointError: There is no such checkpoint, or it is damaged; the message says what was
            tried.
        ConfigError: The device, dtype or preset cannot be used.
    """
    folder = resolve_checkpoint(
        name,
        preset=preset,
        revision=revision,
        cache_dir=cache_dir,
        force_download=force_download,
        local_files_only=local_files_only,
        token=token,
    )
    return Tokenizer(load_inference_model(folder, device=device, dtype=dtype))


class Tokenizer:
    """A FlowMo model for pictures: :func:`load` makes one.

    What goes in alone comes out alone; a list, tuple, iterator, or an array or tensor of several
    comes out as a list. Use it from one thread at a time.

    Args:
        model: The network.
    """

    from_pretrained = staticmethod(load)

    def __init__(self, model: InferenceModel) -> None:
        self.model = model

    def __repr__(self) -> str:
        config = self.config
        kind = (
            f"{config.code_length} tokens of {config.token_bits} bits"
            if config.quantizer == "lfq"
            else "continuous latent"
        )
        return (
            f"Tokenizer({config.name!r}, {self.image_size} x {self.image_size} pixels, {kind}, "
            f"{str(self.model.dtype).removeprefix('torch.')} on {self.device})"
        )

    @property
    def config(self) -> FlowMoConfig:
        """The sizes of the model and its default sampler."""
        return self.model.config

    @property
    def fingerprint(self) -> str:
        """What identifies the model's weights: 32 hex digits."""
        return self.model.fingerprint

    @property
    def image_size(self) -> int:
        """The side of the model's images in pixels."""
        return self.config.image_size

    @property
    def device(self) -> torch.device:
        """The device that computes."""
        return self.model.device

    def to(self, device: str | torch.device) -> Self:
        """Move the model to another device, in place.

        Args:
            device: ``auto`` or a PyTorch device.

        Returns:
            This tokenizer.

        Raises:
            ConfigError: The device cannot be used.
        """
        self.model.to(choose_device(device))
        return self

    @overload
    def encode(
        self,
        images: Many,
        *,
        fit: Fit = ...,
        value_range: ValueRange | None = ...,
        batch_size: int = ...,
    ) -> list[ImageTokens]: ...

    @overload
    def encode(
        self,
        images: ImageInput,
        *,
        fit: Fit = ...,
        value_range: ValueRange | None = ...,
        batch_size: int = ...,
    ) -> ImageTokens: ...

    def encode(
        self,
        images: ImageInput | Many,
        *,
        fit: Fit = DEFAULT_FIT,
        value_range: ValueRange | None = None,
        batch_size: int = DEFAULT_BATCH_SIZE,
    ) -> ImageTokens | list[ImageTokens]:
        """The tokens of images.

        Args:
            images: One image or several: paths, bytes of files, Pillow's images and arrays uint8
                [H, W, 3] of any size, or float tensors [3, S, S] of the model's size.
            fit: How a picture becomes the model's square: its largest centred square (``crop``),
                the whole picture on white (``pad``), or ``stretch``. Tensors are not fitted.
            value_range: What the lowest and highest value of tensors stand for, black and white;
                (-1, 1) by default. It must be given when no value of any tensor is below 0, because
                images in [0, 1] look like that, and are wrong in [-1, 1].
            batch_size: How many images are computed at once.

        Returns:
            Tokens, which can be saved as ``.flowmo`` files and know the model that made them.

        Raises:
            ConfigError: A tensor has another size, type or range, or a NaN; or an option is wrong.
            ImageError: A picture cannot be read.
            OSError: A file cannot be read.
            TokenError: The model is continuous and has no tokens.
            TypeError: An item is no image.
            ValueError: An array is no picture; the errors above but the last are ValueErrors, too.
        """
        side, config = self.image_size, self.config
        if config.quantizer != "lfq":
            raise TokenError(
                f"model {config.name!r} has a continuous (Gaussian) latent and no tokens; "
                f"reconstruct works, or load a model with quantizer='lfq'"
            )
        encoded: list[ImageTokens] = []
        batches, is_single = self._image_batches(images, fit, value_range, batch_size)
        for batch in batches:
            encoded += (
                ImageTokens(
                    ids=tokens.ids,
                    group_bits=tokens.group_bits,
                    fingerprint=self.fingerprint,
                    width=side,
                    height=side,
                )
                for tokens in self.model.tokenize(batch)
            )
        return encoded[0] if is_single else encoded

    @overload
    def decode(
        self,
        tokens: Many,
        *,
        steps: int | None = ...,
        guidance: float | None = ...,
        seeds: int | Sequence[int] | None = ...,
        sampler: SamplerConfig | None = ...,
        output: Literal["pil"] = ...,
        batch_size: int = ...,
    ) -> list[Image.Image]: ...

    @overload
    def decode(
        self,
        tokens: TokenInput,
        *,
        steps: int | None = ...,
        guidance: float | None = ...,
        seeds: int | Sequence[int] | None = ...,
        sampler: SamplerConfig | None = ...,
        output: Literal["pil"] = ...,
        batch_size: int = ...,
    ) -> Image.Image: ...

    @overload
    def decode(
        self,
        tokens: TokenInput | Many,
        *,
        steps: int | None = ...,
        guidance: float | None = ...,
        seeds: int | Sequence[int] | None = ...,
        sampler: SamplerConfig | None = ...,
        output: Literal["array", "tensor"],
        batch_size: int = ...,
    ) -> Any: ...

    def decode(
        self,
        tokens: TokenInput | Many,
        *,
        steps: int | None = None,
        guidance: float | None = None,
        seeds: int | Sequence[int] | None = None,
        sampler: SamplerConfig | None = None,
        output: Output = "pil",
        batch_size: int = DEFAULT_BATCH_SIZE,
    ) -> Any:
        """The images of tokens.

        Args:
            tokens: One token set or several: what :meth:`encode` gave, containers, paths or bytes
                of ``.flowmo`` files, answers of the client, or arrays of ids [K, D/G].
            steps: The number of sampler steps; the model's own by default.
            guidance: The classifier-free guidance weight, 1 for none; the model's own by default.
            seeds: The seed of each image's starting noise; 0, 1, 2 ... by default. One number for
                one image.
            sampler: A whole sampler, in the place of the model's own.
            output: ``pil`` (Pillow's images), ``array`` (uint8 [S, S, 3], several as [B, S, S, 3])
                or ``tensor`` (float32 [3, S, S] in [-1, 1] on the model's device, several as
                [B, 3, S, S]).
            batch_size: How many images are computed at once.

        Raises:
            ConfigError: An option is out of its range.
            ContainerError: A file or bytes cannot be read, or another model made the tokens.
            OSError: A file cannot be read.
            TokenError: Tokens have another shape than the model's, or there are not as many seeds
                as token sets.
            TypeError: An item is no token set.
        """
        _check_options(output, batch_size)
        chosen = self._sampler(sampler, steps, guidance)
        items, is_single = split(tokens, dimensions=(2,))
        numbers = _seeds(seeds, len(items), is_single)
        parts = []
        for start in range(0, len(items), batch_size):
            read = [
                read_tokens(item, self.config.group_bits)
                for item in items[start : start + batch_size]
            ]
            for one in read:
                if isinstance(one, ImageTokens):
                    one.container().check_model(self.fingerprint, self.config)
            part = numbers[start : start + batch_size]
            parts.append(self.model.detokenize(read, seeds=part, sampler=chosen))
        return self._output(parts, output, is_single)

    @overload
    def reconstruct(
        self,
        images: Many,
        *,
        fit: Fit = ...,
        value_range: ValueRange | None = ...,
        steps: int | None = ...,
        guidance: float | None = ...,
        seeds: int | Sequence[int] | None = ...,
        sampler: SamplerConfig | None = ...,
        output: Literal["pil"] = ...,
        batch_size: int = ...,
    ) -> list[Image.Image]: ...

    @overload
    def reconstruct(
        self,
        images: ImageInput,
        *,
        fit: Fit = ...,
        value_range: ValueRange | None = ...,
        steps: int | None = ...,
        guidance: float | None = ...,
        seeds: int | Sequence[int] | None = ...,
        sampler: SamplerConfig | None = ...,
        output: Literal["pil"] = ...,
        batch_size: int = ...,
    ) -> Image.Image: ...

    @overload
    def reconstruct(
        self,
        images: ImageInput | Many,
        *,
        fit: Fit = ...,
        value_range: ValueRange | None = ...,
        steps: int | None = ...,
        guidance: float | None = ...,
        seeds: int | Sequence[int] | None = ...,
        sampler: SamplerConfig | None = ...,
        output: Literal["array", "tensor"],
        batch_size: int = ...,
    ) -> Any: ...

    def reconstruct(
        self,
        images: ImageInput | Many,
        *,
        fit: Fit = DEFAULT_FIT,
        value_range: ValueRange | None = None,
        steps: int | None = None,
        guidance: float | None = None,
        seeds: int | Sequence[int] | None = None,
        sampler: SamplerConfig | None = None,
        output: Output = "pil",
        batch_size: int = DEFAULT_BATCH_SIZE,
    ) -> Any:
        """Images through the latent and back; a continuous model can do it, too.

        Args:
            images: As for :meth:`encode`.
            fit: As for :meth:`encode`.
            value_range: As for :meth:`encode`.
            steps: As for :meth:`decode`.
            guidance: As for :meth:`decode`.
            seeds: As for :meth:`decode`.
            sampler: As for :meth:`decode`.
            output: As for :meth:`decode`.
            batch_size: As for :meth:`encode`.

        Raises:
            ConfigError: A tensor has another size, type or range, or a NaN; or an option is wrong.
            ImageError: A picture cannot be read.
            OSError: A file cannot be read.
            TokenError: There are not as many seeds as images.
            TypeError: An item is no image.
        """
        _check_options(output, batch_size)
        chosen = self._sampler(sampler, steps, guidance)
        items, is_single = split(images, dimensions=(2, 3))
        numbers = _seeds(seeds, len(items), is_single)
        batches, _ = self._image_batches(items, fit, value_range, batch_size)
        parts, shape = [], (3, self.image_size, self.image_size)
        for start, batch in zip(range(0, len(items), batch_size), batches, strict=True):
            latent = self.model.quantize(self.model.encode(batch))
            begin = noise(numbers[start : start + batch_size], shape)
            parts.append(self.model.decode(latent, start=begin, sampler=chosen))
        return self._output(parts, output, is_single)

    def _image_batches(
        self,
        images: ImageInput | Many,
        fit: Fit,
        value_range: ValueRange | None,
        batch_size: int,
    ) -> tuple[Iterator[Tensor], bool]:
        """Batches of the model's tensors, read as they are asked for; whether one came alone."""
        _check_options("pil", batch_size)
        reader = ImageReader(size=self.image_size, fit=fit, value_range=value_range)
        items, is_single = split(images, dimensions=(2, 3))
        reader.check_range(items)
        starts = range(0, len(items), batch_size)
        return (reader.read(items[i : i + batch_size]) for i in starts), is_single

    def _sampler(
        self, sampler: SamplerConfig | None, steps: int | None, guidance: float | None
    ) -> SamplerConfig:
        chosen = self.config.sampler if sampler is None else sampler
        if steps is not None and chosen.schedule == "explicit":
            # A fixed list of times has no other length: leave it for the power grid.
            chosen = replace(chosen, schedule="power", times=())
        if steps is not None:
            chosen = replace(chosen, steps=steps)
        return chosen if guidance is None else replace(chosen, guidance=guidance)

    def _output(self, parts: list[Tensor], output: Output, is_single: bool) -> Any:
        side = self.image_size
        images = torch.cat(parts) if parts else torch.empty(0, 3, side, side)
        if output == "tensor":
            return images[0] if is_single else images
        pixels = to_pixels(images)
        if output == "array":
            return pixels[0] if is_single else pixels
        pictures = [Image.fromarray(one) for one in pixels]
        return pictures[0] if is_single else pictures


def _check_options(output: Output, batch_size: int) -> None:
    if output not in get_args(Output):
        raise ConfigError(f"output must be one of {', '.join(get_args(Output))}, got {output!r}")
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise ConfigError(f"batch_size must be a whole number of at least 1, got {batch_size!r}")


def _seeds(seeds: int | Sequence[int] | None, count: int, is_single: bool) -> list[int]:
    if seeds is None:
        return list(range(count))
    if isinstance(seeds, int):
        if not is_single:
            raise TokenError(f"{count} images need as many seeds, got one number; pass a list")
        return [seeds]
    if len(seeds) != count:
        raise TokenError(f"{count} images need as many seeds, got {len(seeds)}")
    return list(seeds)
