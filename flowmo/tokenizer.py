"""Images to tokens and back: a model behind pictures rather than tensors (docs/python.md).

import flowmo

tok = flowmo.load("tiny")
tokens = tok.encode("photo.jpg")
picture = tok.decode(tokens, steps=8)
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, Self, TypeAlias, Unpack, overload

import torch
from PIL import Image
from torch import Tensor

from flowmo.imaging.fit import DEFAULT_FIT, Fit
from flowmo.model.config import FlowMoConfig, SamplerConfig
from flowmo.model.errors import TokenError
from flowmo.model.hub import resolve_checkpoint
from flowmo.model.image_tokens import ImageTokens
from flowmo.model.inference import InferenceModel
from flowmo.model.layout import PictureLayout
from flowmo.model.loading import choose_device, load_inference_model
from flowmo.model.pictures import Region
from flowmo.model.tiling import DEFAULT_OVERLAP_SHARE
from flowmo.model.tokens import Tokens
from flowmo.tokenizer_inputs import (
    ImageInput,
    ImageReader,
    TokenInput,
    ValueRange,
    read_tokens,
    split,
)
from flowmo.tokenizer_options import (
    DEFAULT_BATCH_SIZE,
    DecodeOptions,
    EncodeOptions,
    Output,
    ReconstructOptions,
    check_options,
    sampler_of,
    seeds_of,
)
from flowmo.tokenizer_outputs import in_form
from flowmo.tokenizer_pictures import (
    Latent,
    codes,
    finished,
    latent_of,
    pictures,
    wanted_tiles,
)

Many: TypeAlias = list[Any] | tuple[Any, ...] | Iterator[Any]


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
    def encode(self, images: Many, **options: Unpack[EncodeOptions]) -> list[ImageTokens]: ...

    @overload
    def encode(self, images: ImageInput, **options: Unpack[EncodeOptions]) -> ImageTokens: ...

    def encode(
        self,
        images: ImageInput | Many,
        *,
        fit: Fit = DEFAULT_FIT,
        overlap: float = DEFAULT_OVERLAP_SHARE,
        value_range: ValueRange | None = None,
        batch_size: int = DEFAULT_BATCH_SIZE,
    ) -> ImageTokens | list[ImageTokens]:
        """The tokens of images.

        Args:
            images: One image or several: paths, bytes of files, Pillow's images and arrays uint8
                [H, W, 3] of any size, or float tensors [3, S, S] of the model's size.
            fit: What becomes of a picture: ``native`` covers it with tiles of the model's size, so
                that any size and shape comes back as it was; the others make one square of it: its
                largest centred one (``crop``), the whole picture on white (``pad``), or
                ``stretch``. Tensors are not fitted.
            overlap: The share of a tile's side that neighbouring tiles have in common at least, 0
                to 0.5: with more there are more tiles, and less is seen of their borders.
            value_range: What the lowest and highest value of tensors stand for, black and white;
                (-1, 1) by default. It must be given when no value of any tensor is below 0, because
                images in [0, 1] look like that, and are wrong in [-1, 1].
            batch_size: How many tiles are computed at once.

        Returns:
            Tokens with ids [T, K, D/G], T tiles an image. They can be saved as ``.flowmo`` files
            and know the model that made them and the size of the image.

        Raises:
            ConfigError: A tensor has another size, type or range, or a NaN; or an option is wrong.
            ImageError: A picture cannot be read.
            OSError: A file cannot be read.
            TokenError: The model is continuous and has no tokens.
            TypeError: An item is no image.
            ValueError: An array is no picture; the errors above but the last are ValueErrors, too.
        """
        if self.config.quantizer != "lfq":
            raise TokenError(
                f"model {self.config.name!r} has a continuous (Gaussian) latent and no tokens; "
                f"reconstruct works, or load a model with quantizer='lfq'"
            )
        found, is_single = self._codes(images, fit, overlap, value_range, batch_size)
        encoded = [self._image_tokens(layout, code) for layout, code in found]
        return encoded[0] if is_single else encoded

    def _image_tokens(self, layout: PictureLayout, code: Tensor) -> ImageTokens:
        return ImageTokens.in_layout(
            Tokens.join(self.model.tokens_of(code)).ids,
            layout,
            group_bits=self.config.group_bits,
            fingerprint=self.fingerprint,
        )

    @overload
    def decode(
        self, tokens: Many, *, output: Literal["pil"] = ..., **options: Unpack[DecodeOptions]
    ) -> list[Image.Image]: ...

    @overload
    def decode(
        self, tokens: TokenInput, *, output: Literal["pil"] = ..., **options: Unpack[DecodeOptions]
    ) -> Image.Image: ...

    @overload
    def decode(
        self,
        tokens: TokenInput | Many,
        *,
        output: Literal["array", "tensor"],
        **options: Unpack[DecodeOptions],
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
        region: Region | None = None,
        batch_size: int = DEFAULT_BATCH_SIZE,
    ) -> Any:
        """The images of tokens.

        Args:
            tokens: One token set or several: what :meth:`encode` gave, containers, paths or bytes
                of ``.flowmo`` files, answers of the client, or ids of one square, [K, D/G] or
                [1, K, D/G]; several as [B, 1, K, D/G].
            steps: The number of sampler steps; the model's own by default.
            guidance: The classifier-free guidance weight, 1 for none; the model's own by default.
            seeds: The seed of each image's starting noise; 0, 1, 2 ... by default. One number for
                one image.
            sampler: A whole sampler, in the place of the model's own.
            output: ``pil`` (Pillow's images), ``array`` (uint8 [H, W, 3], several of one size as
                [B, H, W, 3]) or ``tensor`` (float32 [3, H, W] in [-1, 1] on the model's device,
                several of one size as [B, 3, H, W]). Several of different sizes are a list.
            region: Left, top, width and height in pixels of the part of each picture that is
                decoded; all by default. Only the tiles that touch it are computed, so tiles at
                its edge have not seen all their neighbours:
                :func:`flowmo.model.pictures.decode_picture` says what is equal.
            batch_size: How many tiles are computed at once.

        Raises:
            ConfigError: An option is out of its range.
            ContainerError: A file or bytes cannot be read, or another model made the tokens.
            OSError: A file cannot be read.
            TokenError: Tokens have another shape than the model's, or there are not as many seeds
                as token sets.
            TypeError: An item is no token set.
        """
        check_options(output, batch_size)
        chosen = sampler_of(sampler or self.config.sampler, steps, guidance)
        items, is_single = split(tokens, dimensions=(2, 3))
        numbers = seeds_of(seeds, len(items), is_single)
        group_bits = self.config.group_bits
        latents = (
            latent_of(self.model, read_tokens(item, group_bits), seed, region)
            for item, seed in zip(items, numbers, strict=True)
        )
        made = pictures(self.model, latents, sampler=chosen, region=region, batch_size=batch_size)
        results = (finished(image, layout, region) for layout, image in made)
        return in_form(
            results, output, is_single=is_single, side=self.image_size, device=self.device
        )

    @overload
    def reconstruct(
        self, images: Many, *, output: Literal["pil"] = ..., **options: Unpack[ReconstructOptions]
    ) -> list[Image.Image]: ...

    @overload
    def reconstruct(
        self,
        images: ImageInput,
        *,
        output: Literal["pil"] = ...,
        **options: Unpack[ReconstructOptions],
    ) -> Image.Image: ...

    @overload
    def reconstruct(
        self,
        images: ImageInput | Many,
        *,
        output: Literal["array", "tensor"],
        **options: Unpack[ReconstructOptions],
    ) -> Any: ...

    def reconstruct(
        self,
        images: ImageInput | Many,
        *,
        fit: Fit = DEFAULT_FIT,
        overlap: float = DEFAULT_OVERLAP_SHARE,
        value_range: ValueRange | None = None,
        steps: int | None = None,
        guidance: float | None = None,
        seeds: int | Sequence[int] | None = None,
        sampler: SamplerConfig | None = None,
        output: Output = "pil",
        region: Region | None = None,
        batch_size: int = DEFAULT_BATCH_SIZE,
    ) -> Any:
        """Images through the latent and back; a continuous model can do it, too.

        Args:
            images: As for :meth:`encode`.
            fit: As for :meth:`encode`.
            overlap: As for :meth:`encode`.
            value_range: As for :meth:`encode`.
            steps: As for :meth:`decode`.
            guidance: As for :meth:`decode`.
            seeds: As for :meth:`decode`.
            sampler: As for :meth:`decode`.
            output: As for :meth:`decode`.
            region: As for :meth:`decode`.
            batch_size: As for :meth:`encode`.

        Raises:
            ConfigError: A tensor has another size, type or range, or a NaN; or an option is wrong.
            ImageError: A picture cannot be read.
            OSError: A file cannot be read.
            TokenError: There are not as many seeds as images.
            TypeError: An item is no image.
        """
        check_options(output, batch_size)
        chosen = sampler_of(sampler or self.config.sampler, steps, guidance)
        items, is_single = split(images, dimensions=(2, 3))
        numbers = seeds_of(seeds, len(items), is_single)
        found, _ = self._codes(items, fit, overlap, value_range, batch_size)
        latents = (
            Latent(layout, self.model.quantize(code)[wanted_tiles(layout, region)], n)
            for (layout, code), n in zip(found, numbers, strict=True)
        )
        made = pictures(self.model, latents, sampler=chosen, region=region, batch_size=batch_size)
        results = (finished(image, layout, region) for layout, image in made)
        return in_form(
            results, output, is_single=is_single, side=self.image_size, device=self.device
        )

    def _codes(
        self,
        images: ImageInput | Many,
        fit: Fit,
        overlap: float,
        value_range: ValueRange | None,
        batch_size: int,
    ) -> tuple[Iterator[tuple[PictureLayout, Tensor]], bool]:
        """Each image's layout and code, made as they are asked for; whether one came alone."""
        check_options("pil", batch_size)
        reader = ImageReader(
            size=self.image_size, fit=fit, overlap=overlap, value_range=value_range
        )
        items, is_single = split(images, dimensions=(2, 3))
        reader.check_range(items)
        return codes(self.model, reader, items, batch_size), is_single
