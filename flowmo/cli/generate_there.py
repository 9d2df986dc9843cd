"""``flowmo generate`` with a server."""

import asyncio
from collections.abc import Iterator

import typer

from flowmo.cli.generate_wish import Made, Wish
from flowmo.client import AsyncClient, GeneratedTokens, GenerateOptions, Retry, Sampling

# Of one request; the server's own limit is 64 by default.
_AT_ONCE = 8


def generate_there(
    wish: Wish, url: str, *, api_key: str | None, model: str | None
) -> Iterator[Made]:
    """Ask a server for images, some at a time.

    Args:
        wish: What is asked for.
        url: The server's address.
        api_key: The key for it, if it has keys.
        model: The name of one of its models; None is the first that generates.

    Raises:
        typer.BadParameter: The URL or the key cannot be used.
        ClientError: There is no server, or it refuses.
    """
    try:
        client = AsyncClient(url, api_key=api_key, model=model)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    with asyncio.Runner() as runner:
        try:
            runner.run(client.models(retry=Retry.none()))  # no server: say so at once
            for start in range(0, wish.count, _AT_ONCE):
                count = min(_AT_ONCE, wish.count - start)
                yield from runner.run(_some(client, wish, wish.seed + start, count))
        finally:
            runner.run(client.aclose())


async def _some(client: AsyncClient, wish: Wish, seed: int, count: int) -> list[Made]:
    options = GenerateOptions(
        seed=seed,
        steps=wish.steps,
        guidance=wish.guidance,
        temperature=wish.temperature,
        tokens=wish.container,
        mask=wish.mask,
    )
    made = await client.generate(wish.class_, count=count, **options)
    return await asyncio.gather(*(_finished(client, wish, one) for one in made))


async def _finished(client: AsyncClient, wish: Wish, made: GeneratedTokens) -> Made:
    picture = None
    if wish.format is not None:
        sampling = Sampling(seed=made.seed, steps=wish.decode_steps)
        decoded = await client.detokenize(
            made, sampling=sampling, format=wish.format, quality=wish.quality
        )
        picture = decoded.data
    return Made(seed=made.seed, container=made.to_bytes(), picture=picture)
