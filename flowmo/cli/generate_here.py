"""``flowmo generate`` with models of this process."""

from collections.abc import Iterator

from flowmo.cli.generate_wish import Made, Wish
from flowmo.cli.local_backend import DEMO_MODEL
from flowmo.generator import load_prior
from flowmo.imaging.writing import encode_image
from flowmo.model.hub import resolve_checkpoint
from flowmo.model.loading import load_inference_model
from flowmo.tokenizer import Tokenizer


def generate_here(
    wish: Wish,
    prior: str,
    checkpoint: str | None,
    *,
    preset: str | None,
    device: str,
    dtype: str,
    threads: int | None,
    batch_size: int,
) -> Iterator[Made]:
    """Generate images, some at a time.

    Args:
        wish: What is asked for.
        prior: The prior's checkpoint.
        checkpoint: Its tokenizer's; None is the demo model.
        preset: The config of a published file.
        device: See :func:`flowmo.model.loading.choose_device`.
        dtype: See :func:`flowmo.model.loading.choose_dtype`, for both.
        threads: CPU threads for one operation; None is PyTorch's choice.
        batch_size: How many images are computed at once.

    Raises:
        CheckpointError: A checkpoint cannot be loaded.
        ConfigError: The prior is of another tokenizer, or an option is out of its range.
        ContainerError: The tokens to keep are another tokenizer's.
        TokenError: The tokens to keep have another shape.
    """
    folder = resolve_checkpoint(checkpoint or DEMO_MODEL, preset=preset)

    model = load_inference_model(folder, device=device, dtype=dtype, threads=threads)
    tokenizer = Tokenizer(model)
    generator = load_prior(prior, tokenizer, dtype=dtype)
    for start in range(0, wish.count, batch_size):
        seeds = list(range(wish.seed + start, wish.seed + min(start + batch_size, wish.count)))
        made = generator.generate(
            wish.class_,
            count=len(seeds),
            seeds=seeds,
            steps=wish.steps,
            guidance=wish.guidance,
            temperature=wish.temperature,
            tokens=wish.container,
            mask=wish.mask,
            batch_size=batch_size,
        )
        pictures: list[bytes | None] = [None] * len(made)
        if wish.format is not None:
            pixels = tokenizer.decode(
                made, seeds=seeds, steps=wish.decode_steps, output="array", batch_size=batch_size
            )
            pictures = [encode_image(one, wish.format, quality=wish.quality) for one in pixels]
        for seed, tokens, picture in zip(seeds, made, pictures, strict=True):
            yield Made(seed=seed, container=tokens.to_bytes(), picture=picture)
