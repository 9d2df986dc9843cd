"""What a tokenizer does with pictures of any size: tiles through the model and back."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from flowmo.imaging.fit import fit_back, plan_fit
from flowmo.imaging.reading import Pixels
from flowmo.imaging.tensors import to_picture
from flowmo.model.config import SamplerConfig
from flowmo.model.errors import ConfigError, TokenError
from flowmo.model.image_tokens import ImageTokens
from flowmo.model.inference import InferenceModel
from flowmo.model.layout import NATIVE, PictureLayout
from flowmo.model.pictures import Region, decode_tiles, part_of
from flowmo.model.quantizer import ids_to_signs
from flowmo.model.sampler import noise
from flowmo.model.tokens import Tokens
from flowmo.tokenizer_inputs import ImageReader, stacked


@dataclass(frozen=True, slots=True)
class Latent:
    """An image between the encoder and the decoder.

    Attributes:
        layout: Its size and tiles.
        code: [T, K, D], of the tiles that are wanted.
        seed: Of the starting noise.
    """

    layout: PictureLayout
    code: Tensor
    seed: int


def codes(
    model: InferenceModel, reader: ImageReader, items: Sequence[object], batch_size: int
) -> Iterator[tuple[PictureLayout, Tensor]]:
    """The code of each image, [T, K, D], and its layout; images share batches of the encoder.

    Args:
        model: The network.
        reader: Reads the images, one after the other as they are needed.
        items: The images.
        batch_size: The most tiles of one network call.
    """
    layouts: list[PictureLayout] = []

    def tiles() -> Iterator[Tensor]:
        for item in items:
            layout, rows = reader.read(item)
            layouts.append(layout)
            yield from rows

    stream, waiting = tiles(), list[Tensor]()
    done = ready = 0
    while batch := list(islice(stream, batch_size)):
        waiting.append(model.encode(stacked(batch)))
        ready += len(batch)
        while done < len(layouts) and ready >= (count := layouts[done].tiles):
            # Joined when a picture is whole: a large one has hundreds of batches.
            code = torch.cat([part.to(waiting[-1]) for part in waiting])
            yield layouts[done], code[:count]
            waiting, done, ready = [code[count:]], done + 1, ready - count


def pictures(
    model: InferenceModel,
    latents: Iterable[Latent],
    *,
    sampler: SamplerConfig,
    region: Region | None,
    batch_size: int,
) -> Iterator[tuple[PictureLayout, Tensor]]:
    """The tiled picture of each latent, float32 [3, H, W], in their order.

    Images of one tile are decoded together, those of several one after the other.

    Args:
        model: The network.
        latents: What is decoded.
        sampler: The time grid and guidance.
        region: The part that is decoded of pictures of several tiles.
        batch_size: The most tiles of one network call.
    """
    shape = (3, model.config.image_size, model.config.image_size)
    together: list[Latent] = []

    def squares() -> Iterator[tuple[PictureLayout, Tensor]]:
        if together:
            code = torch.cat([one.code for one in together])
            start = noise([one.seed for one in together], shape)
            made = model.decode(code, start=start, sampler=sampler)
            yield from ((one.layout, image) for one, image in zip(together, made, strict=True))
            together.clear()

    for latent in latents:
        if latent.layout.tiles == 1:
            together.append(latent)
            if len(together) == batch_size:
                yield from squares()
            continue
        yield from squares()
        made = decode_tiles(
            model,
            latent.code,
            latent.layout,
            seed=latent.seed,
            sampler=sampler,
            region=region,
            tiles_at_once=batch_size,
        )
        yield latent.layout, made
    yield from squares()


def latent_of(
    model: InferenceModel, tokens: Tokens, seed: int, region: Region | None = None
) -> Latent:
    """Tokens as the decoder takes them.

    Args:
        model: The network.
        tokens: The tokens of a picture, or the ids of one square.
        seed: Of the starting noise.
        region: The part of the picture that is decoded.

    Raises:
        ConfigError: The region is empty or not inside the picture.
        ContainerError: Another model made the tokens.
        TokenError: The tokens have another shape than the model's, or are of several tiles without
            the size of their picture.
    """
    config = model.config
    if isinstance(tokens, ImageTokens):
        tokens.container().check_model(model.fingerprint, config)
        layout = tokens.layout
    elif tokens.tile_count == 1:
        side = config.image_size
        layout = PictureLayout(width=side, height=side, tile_size=side)
    else:
        raise TokenError(
            f"ids of {tokens.tile_count} tiles came without the size of their picture; pass "
            f"what encode gave, a container or ImageTokens(...), or several squares as a list"
        )
    numbers = wanted_tiles(layout, region)
    model.check_tokens([tokens.tile(0)])
    ids = torch.from_numpy(np.stack([tokens.tile(number).ids for number in numbers]))
    return Latent(layout, ids_to_signs(ids, config.group_bits), seed)


def wanted_tiles(layout: PictureLayout, region: Region | None) -> list[int]:
    """The numbers of the tiles that are decoded for a region of what comes out.

    Raises:
        ConfigError: The region is empty or not inside the picture.
    """
    check_region(layout, region)
    return list(part_of(layout, region if layout.tiles > 1 else None).numbers)


def check_region(layout: PictureLayout, region: Region | None) -> None:
    """Refuse a region that is not inside of what comes out.

    Raises:
        ConfigError: The region is empty or not inside the picture.
    """
    if region is None:
        return
    x, y, w, h = region
    width, height = layout.output
    if not (0 <= x < x + w <= width and 0 <= y < y + h <= height):
        raise ConfigError(
            f"a region lies inside the picture of {width} x {height} pixels and is not empty, got "
            f"{x},{y},{w},{h} (x, y, width, height)"
        )


def finished(image: Tensor, layout: PictureLayout, region: Region | None) -> Tensor | Pixels:
    """What comes out of a tiled picture: its own size and shape, and the region of it.

    Args:
        image: float [3, H, W] in [-1, 1]; of several tiles the region is cut out already.
        layout: The picture and its tiles.
        region: The part that is wanted.

    Returns:
        A tensor if nothing was resized, else pixels uint8 [H, W, 3].
    """
    if layout.fit not in (NATIVE, "crop"):
        side = layout.tile_size
        report = plan_fit(layout.width, layout.height, side, layout.fit)  # type: ignore[arg-type]
        pixels = fit_back(to_picture(image), report)
        if region is None:
            return pixels
        x, y, w, h = region
        return pixels[y : y + h, x : x + w]
    if layout.tiles > 1:
        return image
    width, height = layout.output
    x, y, w, h = region or (0, 0, width, height)
    return image[:, y : y + h, x : x + w]
