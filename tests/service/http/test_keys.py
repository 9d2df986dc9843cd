"""API keys: alone, and on real servers."""

import asyncio
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowmo.cli.server_process import ServerProcess
from flowmo.model.container import MEDIA_TYPE
from flowmo.service.engine.runner import Runner
from flowmo.service.errors import RateLimitedError, UnauthorizedError
from flowmo.service.http.keys import (
    KeyEntry,
    Keyring,
    KeysError,
    Usage,
    digest_of,
    new_key,
    read_file,
    read_text,
)
from flowmo.service.settings import Settings
from tests.flowmo.test_cli import flowmo
from tests.service.pictures import as_file, gradient
from tests.service.probes import value, wait_for
from tests.service.runners import Gated, client_of, until

PNG = as_file(gradient())
RAW = {"Content-Type": "image/png"}
ANNE, BILL = new_key(), new_key()


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def lines(**keys: str) -> str:
    return "".join(f'[{name}]\nsha256 = "{digest_of(key)}"\n' for name, key in keys.items())


# --- limits -------------------------------------------------------------------------------------


@given(
    rate=st.floats(0.1, 50),
    burst=st.none() | st.floats(1, 20),
    waits=st.lists(st.floats(0, 2), max_size=60),
)
def test_no_more_than_rate_and_burst_and_retry_after_is_enough(
    rate: float, burst: float | None, waits: list[float]
) -> None:
    now = 0.0
    usage = Usage(KeyEntry(sha256="0" * 64, rate=rate, burst=burst), clock=lambda: now)
    for taken, wait in enumerate(waits, 1):
        now += wait
        try:
            usage.take()
        except RateLimitedError as error:
            now += error.retry_after
            usage.take()
        assert taken <= (burst or max(1.0, 2 * rate)) + rate * now + 1e-6


@given(
    pictures=st.none() | st.floats(0.1, 50),
    steps=st.none() | st.floats(1, 500),
    asked=st.lists(st.tuples(st.floats(0, 2), st.sampled_from([0, 1, 25, 1000])), max_size=40),
)
def test_no_more_pictures_and_steps_than_the_quota_and_retry_after_is_enough(
    pictures: float | None, steps: float | None, asked: list[tuple[float, int]]
) -> None:
    now = 0.0
    entry = KeyEntry(sha256="0" * 64, pictures=pictures, steps=steps)
    usage = Usage(entry, clock=lambda: now)
    made = 0
    for done, (wait, cost) in enumerate(asked, 1):
        now += wait
        try:
            usage.compute(steps=cost)
        except RateLimitedError as error:
            now += error.retry_after
            usage.compute(steps=cost)
        made += cost
        if pictures is not None:
            assert done <= max(1.0, 2 * pictures) + pictures * now + 1e-4
        if steps is not None and cost:  # what is larger than an allowance is paid for later
            assert made - cost <= 2 * steps + steps * now + 1e-3


def test_without_limits_there_are_none() -> None:
    usage = Usage(KeyEntry(sha256="0" * 64), clock=lambda: 0.0)
    for _ in range(1000):
        usage.take()


def test_what_is_inside_is_counted_until_it_leaves() -> None:
    entry = KeyEntry(sha256=digest_of(ANNE), concurrency=2)
    ring = Keyring({"anne": entry})

    async def main() -> None:
        async with ring.enter(ANNE), ring.enter(ANNE):
            with pytest.raises(RateLimitedError, match="at most 2"):
                await ring.enter(ANNE).__aenter__()
        async with ring.enter(ANNE) as name:
            assert name == "anne"

    asyncio.run(main())


# --- files --------------------------------------------------------------------------------------


def test_keys_are_long_random_and_known_by_their_digest_only() -> None:
    keys = {new_key() for _ in range(100)}
    assert len(keys) == 100
    assert all(len(key) >= 40 for key in keys)
    ring = Keyring(read_text(f"anne:{digest_of(ANNE)}, bill:{digest_of(BILL).upper()}"))
    assert (ring.name_of(ANNE), ring.name_of(BILL)) == ("anne", "bill")
    for wrong in (None, "", ANNE[:-1], ANNE + "x", digest_of(ANNE)):
        with pytest.raises(UnauthorizedError):
            ring.name_of(wrong)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[anne]\nsha256 = 'abc'", "anne"),
        ("[anne]\nsha = '1'", "anne"),
        (f"['an ne']\nsha256 = '{'0' * 64}'", "an ne"),
        (f"[anne]\nsha256 = '{'0' * 64}'\nrate = 0", "anne"),
        ("[anne", "not TOML"),
        ("\xff", "not TOML"),
    ],
)
def test_files_that_say_something_else(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "keys.toml"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(KeysError, match=said):
        read_file(path)


def test_an_error_does_not_repeat_what_may_be_a_key(tmp_path: Path) -> None:
    path = tmp_path / "keys.toml"
    path.write_text(f'[anne]\nsha256 = "{ANNE}"\n')
    with pytest.raises(KeysError) as error:
        read_file(path)
    assert ANNE not in str(error.value)
    with pytest.raises(KeysError, match=r"keys\.toml cannot be read"):
        Keyring({}, tmp_path / "no" / "keys.toml")


# --- a server with keys -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def guarded(
    checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[httpx.Client, Path, Path]]:
    """A client, the file of keys, and the log."""
    folder = tmp_path_factory.mktemp("guarded")
    path, log = folder / "keys.toml", folder / "server.log"
    path.write_text(lines(anne=ANNE, bill=BILL) + "rate = 0.01\nburst = 2\n")
    arguments = [f"--checkpoint={checkpoint}", f"--api-keys-file={path}", "--threads=1"]
    with (
        ServerProcess(arguments, log=log) as process,
        httpx.Client(base_url=process.url, timeout=60) as client,
    ):
        yield client, path, log


def test_only_those_with_a_key_come_in(guarded: tuple[httpx.Client, Path, Path]) -> None:
    client, _, log = guarded
    for headers in ({}, bearer(ANNE[:-2]), {"Authorization": f"Basic {ANNE}"}):
        for path in ("/v1/tokenize", "/v1/reconstruct/batch"):
            answer = client.post(path, content=PNG, headers=RAW | headers, params={"fit": "no"})
            assert (answer.status_code, answer.json()["code"]) == (401, "unauthorized")
            assert answer.headers["WWW-Authenticate"] == "Bearer"
            assert "flowmo keys" not in answer.text
        assert client.get("/v1/models", headers=headers).status_code == 401
    for path in ("/healthz", "/readyz", "/metrics", "/openapi.json"):
        assert client.get(path).status_code == 200
    assert client.post("/v1/tokenize", content=PNG, headers=RAW | bearer(ANNE)).status_code == 200
    text = log.read_text()
    assert ANNE not in text
    assert digest_of(ANNE) not in text
    assert value(client, "flowmo_key_requests_total", key="anne", outcome="admitted") == 1
    assert value(client, "flowmo_key_requests_total", key="", outcome="unknown") >= 9


def test_a_stranger_is_told_before_the_body_comes(
    guarded: tuple[httpx.Client, Path, Path],
) -> None:
    client, _, _ = guarded
    host, port = str(client.base_url.host), int(client.base_url.port or 0)
    with socket.create_connection((host, port), timeout=30) as connection:
        connection.sendall(
            f"POST /v1/tokenize HTTP/1.1\r\nHost: {host}\r\nContent-Type: image/png\r\n"
            "Content-Length: 900000\r\nExpect: 100-continue\r\n\r\n".encode()
        )
        assert connection.recv(65536).startswith(b"HTTP/1.1 401")


def test_a_key_has_its_own_rate(guarded: tuple[httpx.Client, Path, Path]) -> None:
    client, _, _ = guarded
    answers = [client.get("/v1/models", headers=bearer(BILL)) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert answers[2].json()["code"] == "rate-limited"
    assert 1 <= int(answers[2].headers["Retry-After"]) <= 100
    assert client.get("/v1/models", headers=bearer(ANNE)).status_code == 200
    wait_for(client, "flowmo_key_requests_total", 1, key="bill", outcome="limited")


def test_keys_are_revoked_and_added_while_it_runs(
    guarded: tuple[httpx.Client, Path, Path],
) -> None:
    client, path, log = guarded
    carl = new_key()
    # As Kubernetes does it: another file replaces this one.
    other = path.with_name("other.toml")
    other.write_text(lines(carl=carl))
    other.replace(path)

    def status(key: str) -> int:
        return client.get("/v1/models", headers=bearer(key)).status_code

    async def changed() -> None:
        await until(lambda: status(carl) == 200)

    asyncio.run(changed())
    assert status(ANNE) == 401
    # What cannot be read changes nothing.
    path.write_text("[carl")

    async def refused() -> None:
        await until(lambda: status(carl) == 200 and "keys stay as they were" in log.read_text())

    asyncio.run(refused())
    assert status(carl) == 200


def test_a_streamed_answer_counts_as_inside_to_the_end(
    runner: Runner, container: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "keys.toml"
    path.write_text(lines(anne=ANNE) + "concurrency = 1\n")
    gated = Gated(runner)

    async def main() -> None:
        async with client_of(gated, Settings(api_keys_file=path)) as client:
            headers = {"Content-Type": MEDIA_TYPE} | bearer(ANNE)
            gated.gate.clear()
            stream = asyncio.create_task(
                client.post(
                    "/v1/detokenize", content=container, headers=headers, params={"stream": True}
                )
            )
            await until(gated.entered.is_set)
            second = await client.get("/v1/models", headers=bearer(ANNE))
            assert (second.status_code, second.json()["code"]) == (429, "rate-limited")
            gated.gate.set()
            assert "event: image" in (await stream).text
            assert (await client.get("/v1/models", headers=bearer(ANNE))).status_code == 200

    asyncio.run(main())


def test_a_quota_of_steps_is_a_429_that_says_when(
    runner: Runner, container: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "keys.toml"
    path.write_text(lines(anne=ANNE) + "steps = 0.5\n" + lines(bill=BILL))

    async def main() -> None:
        async with client_of(runner, Settings(api_keys_file=path)) as client:

            async def ask(key: str, seed: int) -> httpx.Response:
                headers = {"Content-Type": MEDIA_TYPE} | bearer(key)
                params = {"seed": seed, "steps": 3}
                return await client.post(
                    "/v1/detokenize", content=container, headers=headers, params=params
                )

            assert (await ask(ANNE, 0)).status_code == 200
            refused = await ask(ANNE, 1)
            assert (refused.status_code, refused.json()["code"]) == (429, "rate-limited")
            assert "0.5 steps a second" in refused.json()["detail"]
            # It has made 3 steps, may hold 1, and is given half a step a second.
            assert int(refused.headers["Retry-After"]) == 6
            # What the cache has costs nothing; another key has its own.
            assert (await ask(ANNE, 0)).status_code == 200
            assert (await ask(BILL, 1)).status_code == 200

    asyncio.run(main())


@pytest.mark.parametrize(
    ("address", "settings", "status"),
    [
        ("127.0.0.1", Settings(), 200),
        ("[::1]", Settings(), 200),
        ("192.0.2.2", Settings(), 401),
        ("[2001:db8::2]", Settings(), 401),
        ("localhost.example.org", Settings(), 401),
        ("192.0.2.2", Settings(allow_anonymous=True), 200),
        ("192.0.2.2", Settings(api_keys=f"anne:{digest_of(ANNE)}"), 200),
    ],
)
def test_an_application_without_keys_answers_its_own_machine_alone(
    runner: Runner, address: str, settings: Settings, status: int
) -> None:
    """Whatever serves it: the address is the server's own end of the connection."""

    async def main() -> None:
        async with client_of(runner, settings) as client:
            client.base_url = f"http://{address}"
            for path in ("/v1/models", "/v2/models/tokenize"):
                # No header makes a stranger local.
                headers = bearer(ANNE) | {"Host": "127.0.0.1", "X-Forwarded-For": "127.0.0.1"}
                answer = await client.get(path, headers=headers)
                assert answer.status_code == status, answer.text
                assert status == 200 or "no API keys" in answer.text
            assert (await client.get("/readyz")).status_code == 200

    asyncio.run(main())


# --- the command line ---------------------------------------------------------------------------


def test_listening_beyond_this_machine_needs_keys_or_a_word(checkpoint: Path) -> None:
    arguments = ("serve", "--checkpoint", str(checkpoint), "--host", "0.0.0.0", "--port", "0")
    refused = flowmo(*arguments)
    assert refused.returncode == 2
    assert "--api-keys-file" in refused.stderr
    assert "--allow-anonymous" in refused.stderr


def test_a_new_key_opens_the_door(tmp_path: Path) -> None:
    made = flowmo("keys", "new", "team-a")
    key = next(word for word in made.stderr.split() if word.startswith("fmk_"))
    path = tmp_path / "keys.toml"
    path.write_text(made.stdout)
    path.chmod(stat.S_IRUSR)
    assert Keyring({}, path).name_of(key) == "team-a"
    assert key not in made.stdout
    assert flowmo("keys", "new", "team a").returncode == 2


def test_bad_keys_are_told_at_the_start(checkpoint: Path, tmp_path: Path) -> None:
    path = tmp_path / "keys.toml"
    path.write_text("[anne]\n")
    result = flowmo(
        "serve", "--checkpoint", str(checkpoint), "--port", "0", "--api-keys-file", str(path)
    )
    assert result.returncode == 1
    _, error = result.stderr.split("error:")
    assert "anne" in error
    assert os.fspath(path) in error.replace("\n", "")
