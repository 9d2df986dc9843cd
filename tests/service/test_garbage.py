"""What lives as long as the process is looked at once, and is freed when another replaces it."""

import asyncio
import gc
import shutil
import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest

from flowmo.service.garbage import hold_off, let_go, set_aside
from flowmo.service.loader import open_models
from flowmo.service.settings import Settings
from flowmo.service.telemetry.instruments import PrometheusInstruments
from flowmo.service.telemetry.metrics import Metrics
from tests.service.runners import until


@pytest.fixture
def thawed() -> Iterator[None]:
    yield
    gc.unfreeze()


@pytest.mark.usefixtures("thawed")
def test_a_warm_model_is_set_aside_and_one_that_was_replaced_is_freed(
    checkpoint: Path, other_checkpoint: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(checkpoint, tmp_path / "model")
    settings = Settings(checkpoint=str(folder), device="cpu", threads=1, max_batch=2)

    async def main() -> None:
        models = open_models(settings, Metrics(PrometheusInstruments()).engines)
        assert _is_watched(models.default.engines.decoder)
        models.start()
        await until(lambda: models.ready)
        assert not _is_watched(models.default.engines.decoder)
        # It knows the thread, and the thread it.
        old = weakref.ref(models.default.engines.decoder)
        shutil.rmtree(folder)
        shutil.copytree(other_checkpoint, folder)
        await models.reload(10.0)
        assert not _is_watched(models.default.engines.decoder)
        await until(lambda: old() is None)
        assert not _is_watched(models.default.engines.decoder)
        await models.close(10.0)

    asyncio.run(main())


def _is_watched(found: object) -> bool:
    """Whether a collection would look at it."""
    return any(one is found for one in gc.get_objects())


def test_where_nothing_was_set_aside_nothing_is_looked_at() -> None:
    before = [one["collections"] for one in gc.get_stats()]
    let_go()
    assert [one["collections"] for one in gc.get_stats()][2] == before[2]
    assert gc.get_freeze_count() == 0


@pytest.mark.usefixtures("thawed")
def test_nothing_is_collected_until_what_was_loaded_is_set_aside() -> None:
    class Loop:
        own: "Loop"

    hold_off()
    try:
        assert not gc.isenabled()
        loop = Loop()
        loop.own = loop
        gone = weakref.ref(loop)
        del loop
    finally:
        set_aside()
    assert gone() is None
    assert gc.isenabled()
    assert gc.get_freeze_count() > 0
