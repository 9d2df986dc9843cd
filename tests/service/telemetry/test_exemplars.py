"""Histograms lead to traces, uploads are timed, memory is told by model and, if any, by GPU."""

import asyncio
import sys
from collections.abc import AsyncIterator
from types import SimpleNamespace

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from flowmo.service.engine.local import LocalEngines
from flowmo.service.engine.runner import Runner, TellsMemory
from flowmo.service.telemetry.gpu_memory import GpuMemory
from flowmo.service.telemetry.instruments import PrometheusInstruments
from flowmo.service.telemetry.model_memory import ModelMemory
from tests.service.pictures import as_file, gradient
from tests.service.runners import client_of

PNG = as_file(gradient())
RECORDED, UNRECORDED = "4bf92f3577b34da6a3ce929d0e0e4736", "11111111111111111111111111111111"
SPAN = "00f067aa0ba902b7"
OPENMETRICS = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,*/*;q=0.1"


def exemplars(text: str) -> dict[str, set[str]]:
    """The traces of each histogram's buckets."""
    found: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(text):  # type: ignore[no-untyped-call]
        for sample in family.samples:
            if sample.exemplar is not None:
                found.setdefault(family.name, set()).add(sample.exemplar.labels["trace_id"])
    return found


def test_a_recorded_trace_is_the_exemplar_of_its_times(runner: Runner) -> None:
    async def body() -> AsyncIterator[bytes]:
        yield PNG[:20]
        yield PNG[20:]

    async def main() -> None:
        async with client_of(runner) as client:
            for trace, flags in ((RECORDED, "01"), (UNRECORDED, "00")):
                headers = {
                    "Content-Type": "image/png",
                    "traceparent": f"00-{trace}-{SPAN}-{flags}",
                }
                answer = await client.post("/v1/reconstruct", content=body(), headers=headers)
                assert answer.status_code == 200
            asked = await client.get("/metrics", headers={"Accept": OPENMETRICS})
            assert asked.headers["Content-Type"].startswith("application/openmetrics-text")
            assert exemplars(asked.text) == {
                f"flowmo_{what}_duration_seconds": {RECORDED}
                for what in ("request", "stage", "upload")
            }
            assert 'flowmo_upload_duration_seconds_count{route="/v1/reconstruct"} 2' in asked.text
            # Prometheus' own format has none; nobody makes an error by what he asks for.
            for accept in ("*/*", "application/openmetrics-text;version=x", OPENMETRICS[:40]):
                plain = await client.get("/metrics", headers={"Accept": accept})
                assert plain.status_code == 200
                assert plain.headers["Content-Type"].startswith("text/plain; version=0.0.4")
                assert RECORDED not in plain.text

    asyncio.run(main())


@pytest.mark.parametrize("used", [False, True])
def test_gpu_memory_is_told_of_gpus_that_are_used(
    used: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    instruments = PrometheusInstruments()
    memory = GpuMemory(instruments)
    memory.sample()
    assert b"flowmo_gpu_memory_bytes" not in instruments.render().body  # no GPU here
    cuda = SimpleNamespace(
        is_available=lambda: True,
        is_initialized=lambda: used,
        device_count=lambda: 2,
        get_device_properties=lambda device: SimpleNamespace(uuid=f"00-{device}"),
        memory_allocated=lambda device: 3e9 * device,
        memory_reserved=lambda device: 4e9 * device,
    )
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))
    memory.sample()
    shown = instruments.render().body.decode()
    lines = {line for line in shown.splitlines() if line.startswith("flowmo_gpu_memory_bytes")}
    assert lines == (
        {
            'flowmo_gpu_memory_bytes{device="1",gpu="GPU-00-1",kind="allocated"} 3e+09',
            'flowmo_gpu_memory_bytes{device="1",gpu="GPU-00-1",kind="reserved"} 4e+09',
        }
        if used
        else set()
    )


def test_a_models_memory_is_told_by_owner(runner: Runner) -> None:
    now = [100.0]
    instruments = PrometheusInstruments()
    memory = ModelMemory(instruments, lambda: now[0])

    def told() -> dict[str, float]:
        text = instruments.render(OPENMETRICS).body.decode()
        families = text_string_to_metric_families(text)  # type: ignore[no-untyped-call]
        (family,) = (one for one in families if one.name == "flowmo_model_memory_bytes")
        assert {sample.labels["model"] for sample in family.samples} <= {"demo"}
        return {sample.labels["owner"]: sample.value for sample in family.samples}

    memory.sample("elsewhere", object())  # as engines of another process
    assert told() == {}
    assert isinstance(runner, TellsMemory)
    memory.sample("demo", LocalEngines(runner, runner))
    assert told() == runner.memory_by_owner()
    assert {"encoder", "decoder", "modulator (host)"} <= told().keys()
    # The model is loaded again, as engines; then its tables grow.
    owners = {"engines": 100, "modulation tables": 5}
    again = SimpleNamespace(memory_by_owner=lambda: dict(owners))
    memory.sample("demo", again)
    assert told() == {"engines": 100, "modulation tables": 5}
    owners["modulation tables"] = 7
    now[0] += 60
    memory.sample("demo", again)
    assert told() == owners
