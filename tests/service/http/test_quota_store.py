"""Rates, quotas and places of a key that gateways count together in a Redis."""

import asyncio
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from flowmo.model.errors import ConfigError
from flowmo.service.engine.runner import Runner
from flowmo.service.errors import RateLimitedError
from flowmo.service.http import quota_store
from flowmo.service.http.keys import KeyEntry, Usage, digest_of, usage_id
from flowmo.service.http.quota_store import PREFIX, QuotaStore
from flowmo.service.settings import Settings
from tests.service.pictures import as_file, gradient
from tests.service.runners import client_of

PASSWORD = "of-a-test"


def start_redis(folder: Path) -> "subprocess.Popen[bytes]":
    """A Redis of our own, on a socket in a folder."""
    if (program := shutil.which("redis-server")) is None:
        pytest.fail("redis-server is not installed: apt-packages.txt, or make tools as root")
    command = [program, "--port", "0", "--unixsocket", str(folder / "s"), "--save", ""]
    process = subprocess.Popen(
        [*command, "--requirepass", PASSWORD, "--dir", str(folder)], stdout=subprocess.DEVNULL
    )
    end = time.monotonic() + 20
    while not (folder / "s").exists():
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.01)
    return process


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """With the socket ``s`` of a Redis and its ``password``."""
    folder = tmp_path_factory.mktemp("redis")
    (folder / "password").write_text(f"{PASSWORD}\n")
    process = start_redis(folder)
    yield folder
    process.terminate()
    process.wait()


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine's Redis is slow, and not away."""
    monkeypatch.setattr(quota_store, "ANSWER_SECONDS", 30.0)


async def refusal(usage: Usage) -> RateLimitedError | None:
    """Why a request that leaves at once does not come in; None if it does."""
    try:
        async with usage.held():
            return None
    except RateLimitedError as error:
        return error


def store_of(folder: Path, alone: list[None] | None = None) -> QuotaStore:
    """A gateway's way to it; ``alone`` grows when it is not there."""
    return QuotaStore(
        f"unix://{folder}/s",
        folder / "password",
        inside_seconds=600,
        alone=lambda: None if alone is None else alone.append(None),
    )


def entry(**limits: float) -> KeyEntry:
    return KeyEntry.model_validate({"sha256": "0" * 64, **limits})


def test_rates_hold_for_all_gateways_together_and_races_change_nothing(folder: Path) -> None:
    slow = entry(rate=0.001, burst=20, pictures=0.001, steps=0.002)

    async def main() -> None:
        async with store_of(folder) as one, store_of(folder) as other:
            first, second = one.usage("team", slow), other.usage("team", slow)

            asked = [refusal((first, second)[number % 2]) for number in range(50)]
            refused = [error for error in await asyncio.gather(*asked) if error is not None]
            assert len(refused) == 30
            for error in refused:
                assert "0.001 requests a second" in str(error)
                assert 1 <= error.retry_after <= 1000
            # All or nothing: what is refused for its picture has spent no step.
            await first.spend(pictures=1)
            with pytest.raises(RateLimitedError, match="pictures a second"):
                await second.spend(pictures=1, steps=1)
            await second.spend(pictures=0, steps=1000)  # begun when it is full, and paid for later
            with pytest.raises(RateLimitedError, match="steps a second") as owed:
                await first.spend(pictures=0, steps=1)
            assert owed.value.retry_after > 400_000
            # Keys and limits of others are counted apart, and without limits nothing is.
            await one.usage("team", entry(steps=0.001)).spend(steps=1)
            await one.usage("other", slow).spend(steps=1)
            await one.usage("free", entry()).spend(steps=10**9)

    asyncio.run(main())


def test_places_are_shared_and_those_of_a_gateway_that_died_are_free_later(folder: Path) -> None:
    two = entry(concurrency=2)

    async def main() -> None:
        async with (
            store_of(folder) as one,
            store_of(folder) as other,
            one.usage("team", two).held(),
            other.usage("team", two).held(),
        ):
            error = await refusal(one.usage("team", two))
            assert "2 requests inside, at most 2" in str(error)
        # Both have left when the stores are closed. Two that never leave: theirs is killed.
        async with store_of(folder) as dead, store_of(folder) as other:
            key, usage = usage_id("team", two).hex(), dead.usage("team", two)
            for place in "ab":
                assert await dead.spend(key, usage, {}, place)
            assert await refusal(other.usage("team", two)) is not None
            client, places = other._redis, f"{PREFIX}:{{{key}}}:inside"
            seconds, _ = await client.time()
            for place in "ab":
                until = await client.zscore(places, place)
                assert isinstance(until, float)
                assert 0 < until - seconds <= 601
            await client.zadd(places, {"a": seconds - 1, "b": seconds - 1})  # it is over
            assert await refusal(other.usage("team", two)) is None

    asyncio.run(main())


def test_a_client_that_leaves_while_the_store_is_asked_keeps_no_place(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = entry(concurrency=1, steps=7)

    async def main() -> None:
        async with store_of(folder) as store:
            spend, counted = store._spend, asyncio.Event()

            async def slow(keys: list[str], args: list[str | float]) -> None:
                await spend(keys=keys, args=args)
                counted.set()
                await asyncio.Event().wait()  # the answer is on its way

            monkeypatch.setattr(store, "_spend", slow)
            asking = asyncio.create_task(refusal(store.usage("team", one)))
            await counted.wait()
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)
        async with store_of(folder) as other:
            assert await refusal(other.usage("team", one)) is None

    asyncio.run(main())


def test_a_store_that_is_away_refuses_nobody_and_gateways_count_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "password").write_text(PASSWORD)
    alone: list[None] = []
    slow = entry(rate=0.001, burst=2, steps=1)

    async def main() -> None:
        async with store_of(tmp_path, alone) as store:
            usage = store.usage("team", slow)
            for _ in range(2):  # nobody listens there
                async with usage.held():
                    pass
            with pytest.raises(RateLimitedError, match="requests a second"):
                async with usage.held():
                    pass
            await usage.spend(steps=1)
            assert len(alone) == 4
            assert "counts alone" in caplog.text
            assert len([r for r in caplog.records if r.levelname == "ERROR"]) == 1  # asked once
            process = start_redis(tmp_path)
            try:
                monkeypatch.setattr(store, "_away_until", 0.001)  # its time is over
                await usage.spend(steps=1)
                assert len(alone) == 4
            finally:
                process.kill()
                process.wait()
            monkeypatch.setattr(quota_store, "AWAY_SECONDS", 0.0)
            await usage.spend(steps=1)
            assert len(alone) == 5

    asyncio.run(main())


def test_two_servers_share_a_keys_rate(runner: Runner, folder: Path, tmp_path: Path) -> None:
    keys = tmp_path / "keys.toml"
    keys.write_text(f'[anne]\nsha256 = "{digest_of("secret")}"\nrate = 0.001\nburst = 2\n')
    settings = Settings(
        api_keys_file=keys,
        quota_store=f"unix://{folder}/s",
        quota_store_password_file=folder / "password",
    )
    headers = {"Authorization": "Bearer secret", "Content-Type": "image/png"}

    async def main() -> None:
        async with client_of(runner, settings) as one, client_of(runner, settings) as other:
            picture = as_file(gradient())
            answers = [
                await client.post("/v1/tokenize", content=picture, headers=headers)
                for client in (one, other, one, other)
            ]
            assert [answer.status_code for answer in answers] == [200, 200, 429, 429]
            assert answers[2].json()["code"] == "rate-limited"
            shown = (await one.get("/metrics")).text
            assert "flowmo_quota_counted_alone_total 0.0" in shown
            assert 'flowmo_key_requests_total{key="anne",outcome="limited"} 1.0' in shown

    asyncio.run(main())


@pytest.mark.parametrize(
    ("url", "file", "said"),
    [
        ("http://u:secret@host", None, "no URL of a Redis"),
        ("redis://host", "missing", "cannot be read"),
    ],
)
def test_a_store_that_cannot_be_is_told_at_the_start(
    url: str, file: str | None, said: str, tmp_path: Path
) -> None:
    path = None if file is None else tmp_path / file
    with pytest.raises(ConfigError, match=said) as error:
        QuotaStore(url, path, inside_seconds=1, alone=lambda: None)
    assert "secret" not in str(error.value)
