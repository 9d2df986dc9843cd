"""A device that fails: told apart by its errors, given up when it fails for ever."""

import asyncio
from typing import Literal

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flowmo.model.config import SamplerConfig
from flowmo.service.engine.calls import DecodeOptions
from flowmo.service.engine.failures import FailureKind, kind_of
from flowmo.service.engine.health import MAX_CONSECUTIVE_FAILURES, DeviceHealth
from flowmo.service.engine.local import LocalEngines
from flowmo.service.engine.observer import EngineKind
from flowmo.service.engine.runner import Runner
from flowmo.service.errors import ComputeError, EngineStoppedError
from tests.service.pictures import as_file, gradient
from tests.service.runners import Gated, Recorder, client_of, run, some_tokens, until

PICTURE = gradient(32, 32)
ILLEGAL = "CUDA error: an illegal memory access was encountered\nCUDA kernel errors might be …"


def options(seed: int = 0, steps: int = 4, guidance: float = 1.0) -> DecodeOptions:
    return DecodeOptions(seed=seed, sampler=SamplerConfig(steps=steps, guidance=guidance))


def _caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), "memory"),
        (torch.AcceleratorError("CUDA error: out of memory"), "memory"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `…`"), "memory"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: …"), "memory"),
        (MemoryError(), "memory"),
        (_caused(RuntimeError("the runner failed"), MemoryError()), "memory"),
        (torch.AcceleratorError(ILLEGAL), "lost"),
        (RuntimeError(ILLEGAL), "lost"),
        (RuntimeError("CUDA error: device-side assert triggered"), "lost"),
        (RuntimeError("CUDA error: unspecified launch failure"), "lost"),
        (RuntimeError("CUDA error: misaligned address"), "lost"),
        (RuntimeError("CUDA error: uncorrectable ECC error encountered"), "lost"),
        (_caused(RuntimeError("the engine failed"), RuntimeError(ILLEGAL)), "lost"),
        # What frees memory after a lost context finds the context lost, and says both.
        (_caused(torch.OutOfMemoryError("out of memory"), RuntimeError(ILLEGAL)), "lost"),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), "other"),
        (ValueError("no such kernel"), "other"),
    ],
)
def test_errors_are_told_apart(error: Exception, kind: FailureKind) -> None:
    assert kind_of(error) == kind


Ending = Literal["worked", "other", "memory", "lost"]
_ERRORS = {
    "other": RuntimeError("a kernel failed"),
    "memory": torch.OutOfMemoryError("CUDA out of memory"),
    "lost": torch.AcceleratorError(ILLEGAL),
}
_ENDINGS = st.sampled_from(["worked", "other", "other", "other", "other", "memory", "lost"])


@given(
    st.lists(st.tuples(st.sampled_from(["encoder", "decoder", "decoder"]), _ENDINGS), max_size=60)
)
def test_it_is_alive_by_the_last_endings_of_each_engine(
    endings: list[tuple[EngineKind, Ending]],
) -> None:
    health, history = DeviceHealth(), dict[str, list[Ending]](encoder=[], decoder=[])
    for engine, ending in endings:
        history[engine].append(ending)
        if ending == "worked":
            health.worked(engine)
        else:
            assert health.failed(engine, _ERRORS[ending]) == ending
        lost = any("lost" in past for past in history.values())
        failing = any(
            len(past) >= MAX_CONSECUTIVE_FAILURES
            and "worked" not in past[-MAX_CONSECUTIVE_FAILURES:]
            for past in history.values()
        )
        assert health.lost == lost
        assert (health.complaint is not None) == (lost or failing)


def test_what_fails_batch_after_batch_is_not_alive_until_one_works(runner: Runner) -> None:
    gated = Gated(runner)

    async def main() -> None:
        async with client_of(gated) as client:
            gated.fail_after = 0  # the decoder's batches fail; the encoder's work

            async def ask() -> list[int]:
                headers = {"Content-Type": "image/png"}
                made = await client.post("/v1/tokenize", content=as_file(PICTURE), headers=headers)
                assert made.status_code == 200
                answer = await client.post("/v1/detokenize", json=made.json())
                probes = [
                    await client.get(path) for path in ("/healthz", "/readyz", "/v2/health/live")
                ]
                return [answer.status_code, *(probe.status_code for probe in probes)]

            seen = [await ask() for _ in range(MAX_CONSECUTIVE_FAILURES + 2)]
            assert seen[: MAX_CONSECUTIVE_FAILURES - 1] == [[500, 200, 200, 200]] * 7
            assert seen[MAX_CONSECUTIVE_FAILURES - 1 :] == [[500, 503, 503, 503]] * 3
            problem = (await client.get("/healthz")).json()
            assert problem["code"] == "engine-stopped"
            assert "batches of the decoder failed" in problem["detail"]
            gated.fail_after = None
            assert await ask() == [200, 200, 200, 200]

    asyncio.run(main())


@pytest.mark.parametrize("error", [RuntimeError(ILLEGAL), torch.AcceleratorError(ILLEGAL)])
def test_a_lost_device_is_given_up_at_once_and_what_waits_is_sent_away(
    runner: Runner, error: Exception
) -> None:
    gated = Gated(runner, buckets=[2])

    async def main() -> None:
        engines = LocalEngines(gated, gated)
        engines.start()
        await until(lambda: engines.ready)
        gated.gate.clear()
        gated.entered.clear()
        first = asyncio.create_task(engines.decoder.decode(some_tokens(), options()))
        await until(gated.entered.is_set)
        waiting = [
            asyncio.create_task(engines.decoder.decode(some_tokens(), options(seed)))
            for seed in range(5)
        ]
        waiting.append(asyncio.create_task(engines.encoder.encode(PICTURE)))  # type: ignore[arg-type]
        await until(lambda: engines.waiting == 7)
        gated.error = error
        gated.gate.set()
        with pytest.raises(ComputeError):
            await first
        results = await asyncio.gather(*waiting, return_exceptions=True)
        # They may have been in the batch that failed; nobody is kept waiting for others to fail.
        assert {type(result) for result in results} == {EngineStoppedError}
        assert not engines.alive
        assert not engines.ready
        assert engines.complaint is not None
        assert "lost" in engines.complaint
        with pytest.raises(EngineStoppedError):
            await engines.decoder.decode(some_tokens(), options())
        await engines.close()

    asyncio.run(main())


@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_a_decode_that_does_not_fit_is_made_in_smaller_batches(
    runner: Runner, guidance: float
) -> None:
    gated, recorder = Gated(runner, buckets=[2, 4, 8]), Recorder()

    async def work(engines: LocalEngines) -> None:
        wishes = [options(seed, steps=5, guidance=guidance) for seed in range(9)]
        alone = [await engines.decoder.decode(some_tokens(), wish) for wish in wishes]
        gated.gate.clear()
        gated.entered.clear()
        tasks = [
            asyncio.create_task(engines.decoder.decode(some_tokens(), wish)) for wish in wishes
        ]
        await until(lambda: engines.decoder.queue_depth == 9)
        gated.fits = 3  # another process has taken the rest
        gated.gate.set()
        for one, other in zip(alone, await asyncio.gather(*tasks), strict=True):
            assert (np.abs(one.pixels.astype(int) - other.pixels) <= 1).mean() >= 0.999
        assert engines.decoder.slots == 2
        assert engines.alive

    run(gated, work, observer=recorder)
    assert recorder.failures == 0


def test_an_encoding_that_does_not_fit_is_made_in_smaller_batches(runner: Runner) -> None:
    gated, recorder = Gated(runner, buckets=[1, 2, 4, 8]), Recorder()

    async def work(engines: LocalEngines) -> None:
        pictures = [np.roll(PICTURE, shift, axis=1) for shift in range(9)]
        gated.fits = 2
        encoded = await asyncio.gather(*(engines.encoder.encode(picture) for picture in pictures))
        assert len(encoded) == 9
        assert engines.encoder.slots <= 2
        assert engines.alive

    run(gated, work, observer=recorder)
    assert recorder.failures == 0


def test_what_fits_in_no_batch_fails_and_in_the_end_is_not_alive(runner: Runner) -> None:
    gated = Gated(runner)

    async def work(engines: LocalEngines) -> None:
        gated.fits = 0
        for _ in range(MAX_CONSECUTIVE_FAILURES):
            with pytest.raises(ComputeError):
                await engines.decoder.decode(some_tokens(), options())
        assert not engines.alive
        assert engines.decoder.slots >= 2  # what a guided step needs
        gated.fits = None
        await engines.decoder.decode(some_tokens(), options())
        assert engines.alive

    run(gated, work)


def test_a_replica_says_what_ails_it(runner: Runner) -> None:
    from flowmo.service.cluster.replicas import DecoderReplica  # Ray is loaded late

    replica = DecoderReplica.__new__(DecoderReplica)
    engines = LocalEngines(runner, runner)
    replica._name, replica._device = "nano", engines.device

    async def main() -> None:
        engines.start()
        await until(lambda: engines.ready)
        replica.check_health()
        for _ in range(MAX_CONSECUTIVE_FAILURES):
            engines.device.health.failed("decoder", RuntimeError("a kernel failed"))
        with pytest.raises(RuntimeError, match="nano: the last 8 batches of the decoder failed"):
            replica.check_health()
        await engines.close()

    asyncio.run(main())
