"""Pictures of several tiles in the step engine: the same pixels, turns, cancellation, limits."""

import asyncio
import time

import numpy as np
import pytest

from flowmo.imaging.tensors import to_picture
from flowmo.model.config import SamplerConfig
from flowmo.model.errors import ConfigError, TokenError
from flowmo.model.inference import InferenceModel
from flowmo.model.layout import PictureLayout
from flowmo.model.pictures import decode_picture
from flowmo.model.tokens import Tokens
from flowmo.service.engine import decoder as module
from flowmo.service.engine.calls import Call, Decoded, DecodeOptions, DecodeProgress, Region, Watch
from flowmo.service.engine.local import LocalEngines
from flowmo.service.engine.runner import Runner
from flowmo.service.engine.schedule import BucketTimes
from flowmo.service.errors import (
    ComputeError,
    DeadlineUnreachableError,
    EngineStoppedError,
    QueueFullError,
)
from flowmo.service.http.encode_tiles import encode_tiles
from tests.service.pictures import gradient
from tests.service.runners import Gated, Recorder, run, some_tokens, until

SIZE = 32
# Five columns and three rows of tiles.
LAYOUT = PictureLayout(width=110, height=80, tile_size=SIZE, overlap=8)
TILES = LAYOUT.tiles


def tokens_of(layout: PictureLayout = LAYOUT, seed: int = 0) -> Tokens:
    ids = np.random.default_rng(seed).integers(0, 16, (layout.tiles, 16, 3), dtype=np.int32)
    return Tokens(ids=ids, group_bits=4)


def options(
    steps: int = 3,
    guidance: float = 1.0,
    *,
    layout: PictureLayout = LAYOUT,
    region: Region | None = None,
    degrade: bool = False,
) -> DecodeOptions:
    sampler = SamplerConfig(steps=steps, guidance=guidance)
    return DecodeOptions(seed=7, sampler=sampler, layout=layout, region=region, degrade=degrade)


SQUARE = DecodeOptions(seed=1, sampler=SamplerConfig(steps=3, guidance=1.0))


@pytest.fixture
def gated(runner: Runner) -> Gated:
    return Gated(runner)


async def held(engines: LocalEngines, gated: Gated, wish: DecodeOptions) -> "asyncio.Task[Decoded]":
    """A picture whose first tick is held on the device."""
    await until(lambda: engines.ready)
    gated.gate.clear()
    gated.forget()
    task = asyncio.create_task(engines.decoder.decode(tokens_of(), wish))
    await until(gated.entered.is_set)
    return task


@pytest.mark.parametrize("guidance", [1.0, 2.5])
@pytest.mark.parametrize("region", [None, (30, 20, 41, 30)])
def test_a_picture_is_what_the_library_makes_of_it(
    runner: Runner, inference_model: InferenceModel, guidance: float, region: Region | None
) -> None:
    wish = options(guidance=guidance, region=region)

    async def work(engines: LocalEngines) -> None:
        squares = [engines.decoder.decode(some_tokens(), SQUARE) for _ in range(3)]
        came, *_ = await asyncio.gather(engines.decoder.decode(tokens_of(), wish), *squares)
        expected = to_picture(
            decode_picture(
                inference_model, tokens_of(), LAYOUT, seed=7, sampler=wish.sampler, region=region
            )
        )
        assert came.pixels.shape == expected.shape
        difference = np.abs(came.pixels.astype(int) - expected)
        assert (difference <= 1).mean() >= 0.999
        assert len(came.timings.steps) == 3
        assert engines.decoder.queue_depth == 0

    run(runner, work)


def test_small_decodes_are_not_behind_a_large_one(gated: Gated) -> None:
    """Their rows go first: three steps are made while the picture has many to go."""

    async def work(engines: LocalEngines) -> None:
        picture = await held(engines, gated, options(steps=50))
        square = asyncio.create_task(engines.decoder.decode(some_tokens(), SQUARE))
        await until(lambda: engines.decoder.queue_depth == 2)
        gated.forget()
        gated.gate.set()
        await square
        # Its three steps, beside tiles; one tick may be under way, and there are some more until
        # the loop hears of it.
        assert len(gated.batches) <= 2 * 3 + 8
        assert not picture.done()
        picture.cancel()
        await until(lambda: engines.decoder.queue_depth == 0)

    run(gated, work)


def test_pictures_take_turns(gated: Gated) -> None:
    small = PictureLayout(width=64, height=32, tile_size=SIZE)

    async def work(engines: LocalEngines) -> None:
        large = await held(engines, gated, options(steps=50))
        wish = options(steps=2, layout=small)
        other = asyncio.create_task(engines.decoder.decode(tokens_of(small), wish))
        await until(lambda: engines.decoder.queue_depth == 2)
        gated.forget()
        gated.gate.set()
        await other
        assert len(gated.batches) <= 2 * 2 * small.tiles + 8
        assert not large.done()
        large.cancel()
        await until(lambda: engines.decoder.queue_depth == 0)

    run(gated, work)


def test_progress_and_previews_are_of_the_whole_picture(runner: Runner) -> None:
    seen: list[DecodeProgress] = []

    async def work(engines: LocalEngines) -> None:
        watch = Watch(on_progress=seen.append, previews={1, 3})
        came = await engines.decoder.decode(tokens_of(), options(), watch=watch)
        await asyncio.sleep(0)
        assert [(one.step, one.steps) for one in seen] == [(1, 3), (2, 3), (3, 3)]
        assert seen[1].preview is None
        for one in (seen[0], seen[2]):
            assert one.preview is not None
            assert one.preview.shape == (80, 110, 3)
        # The last estimate is the result.
        assert seen[2].preview is not None
        assert np.abs(seen[2].preview.astype(int) - came.pixels).max() <= 1

    run(runner, work)


def test_who_leaves_frees_the_engine(gated: Gated) -> None:
    recorder = Recorder()

    async def work(engines: LocalEngines) -> None:
        task = await held(engines, gated, options(steps=50))
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)  # it is cancelled when it has run
        gated.forget()
        gated.gate.set()
        await until(lambda: engines.decoder.queue_depth == 0)
        await engines.decoder.decode(some_tokens(), SQUARE)
        assert len(gated.batches) == 3  # the square's
        assert recorder.saved == [50]

    run(gated, work, observer=recorder)


def test_admission_counts_all_rows_of_a_picture(runner: Runner) -> None:
    async def work(engines: LocalEngines) -> None:
        engines.decoder._ticks.times = BucketTimes({2: 100.0})  # of a slow device
        call = Call(deadline=time.monotonic() + 4000)
        with pytest.raises(DeadlineUnreachableError, match="15 tiles would be done in 6400.00 s"):
            await engines.decoder.decode(tokens_of(), options(steps=8), call)
        # In three quarters of the time that is left.
        fewer = await engines.decoder.decode(tokens_of(), options(steps=8, degrade=True), call)
        assert fewer.sampler.steps == 3

    run(runner, work)


def test_pixels_inside_are_bounded(gated: Gated, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_PIXELS_INSIDE", 10_000)

    async def work(engines: LocalEngines) -> None:
        # One alone may have more.
        task = await held(engines, gated, options(steps=4))
        measured = engines.decoder._ticks.times
        engines.decoder._ticks.times = BucketTimes({2: 100.0})  # of a slow device
        with pytest.raises(QueueFullError, match="pictures among them of 8,800 pixels") as full:
            await engines.decoder.decode(tokens_of(), options(steps=1))
        # Of 4 x 15 rows, two in 100 s, at most one step's were given to the device.
        assert 3 * TILES * 50 <= full.value.retry_after <= 4 * TILES * 50
        engines.decoder._ticks.times = measured
        gated.gate.set()
        await task
        await engines.decoder.decode(tokens_of(), options(steps=1))

    run(gated, work)


def test_what_cannot_be_decoded_is_refused(runner: Runner) -> None:
    async def work(engines: LocalEngines) -> None:
        decode = engines.decoder.decode
        with pytest.raises(TokenError, match="tokens of 2 tiles came; .* takes 15 of"):
            await decode(tokens_of(PictureLayout(width=64, height=32, tile_size=SIZE)), options())
        with pytest.raises(TokenError, match="15 tiles came where those of one are decoded"):
            await decode(tokens_of(), SQUARE)
        with pytest.raises(ConfigError, match="a region lies inside"):
            await decode(tokens_of(), options(region=(100, 0, 11, 5)))

    run(runner, work)


def test_a_failure_is_one_pictures_affair(gated: Gated) -> None:
    async def work(engines: LocalEngines) -> None:
        gated.error = RuntimeError("broken")
        with pytest.raises(ComputeError):
            await engines.decoder.decode(tokens_of(), options())
        gated.error = None
        await engines.decoder.decode(tokens_of(), options())

    run(gated, work)


def test_an_engine_that_ends_refuses_what_is_inside(gated: Gated) -> None:
    async def work(engines: LocalEngines) -> None:
        task = await held(engines, gated, options(steps=50))
        closing = asyncio.create_task(engines.close(0.05))
        await asyncio.sleep(0.1)
        with pytest.raises(EngineStoppedError):
            await task
        gated.gate.set()
        await closing

    run(gated, work)


def test_tiles_that_do_not_fit_into_memory_are_made_in_smaller_batches(runner: Runner) -> None:
    gated, pictures = Gated(runner), []

    async def work(engines: LocalEngines) -> None:
        for fits in (None, 2):
            gated.fits = fits
            square = asyncio.create_task(engines.decoder.decode(some_tokens(), SQUARE))
            pictures.append((await engines.decoder.decode(tokens_of(), options())).pixels)
            await square

    run(gated, work)
    assert (np.abs(pictures[0].astype(int) - pictures[1]) <= 1).mean() >= 0.999


def test_squares_and_tiles_share_a_batch(gated: Gated) -> None:
    async def work(engines: LocalEngines) -> None:
        picture = await held(engines, gated, options(steps=50))
        tasks = [
            asyncio.create_task(
                engines.decoder.decode(
                    some_tokens(), DecodeOptions(seed=n, sampler=SamplerConfig(steps=7 + n))
                )
            )
            for n in range(2)
        ]
        await until(lambda: engines.decoder.queue_depth == 3)
        gated.forget()
        gated.gate.set()
        await asyncio.gather(*tasks)
        # Rows at several times are squares' and tiles'.
        assert any(len(set(batch)) > 1 for batch in gated.batches)
        picture.cancel()
        await until(lambda: engines.decoder.queue_depth == 0)

    run(gated, work)


def test_tiles_of_several_pictures_share_the_encoders_batches(runner: Runner) -> None:
    tilings = [
        PictureLayout(width=width, height=height, tile_size=SIZE, overlap=4).tiling
        for width, height in ((80, 40), (32, 96))
    ]
    pictures = [gradient(tiling.width, tiling.height) for tiling in tilings]
    count = sum(tiling.count for tiling in tilings)

    # One size, so that no measurement of a busy machine makes smaller ones worth more.
    gated, recorder = Gated(runner, buckets=(16,)), Recorder()

    async def work(engines: LocalEngines) -> None:
        gated.gate.clear()
        first = asyncio.create_task(engines.encoder.encode(gradient(SIZE, SIZE)))
        await until(gated.entered.is_set)
        tasks = [
            asyncio.create_task(encode_tiles(pixels, tiling, *(engines.encoder.encode,) * 2))
            for pixels, tiling in zip(pictures, tilings, strict=True)
        ]
        await until(lambda: engines.encoder.queue_depth == count == 10)
        gated.gate.set()
        made = await asyncio.gather(*tasks)
        await first
        assert [one.tokens.tile_count for one in made] == [tiling.count for tiling in tilings]

    run(gated, work, observer=recorder)
    # All that came while the first batch was held is the next one, whosever it is.
    assert [rows for _, rows, _ in recorder.batches] == [1, count]
