"""Files through a server: several at once, with its key and one of its models, with patience."""

import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from flowmo.cli import app
from tests.flowmo.scripted import (
    DECODED,
    DROP,
    ENCODED,
    HOLD,
    MODELS,
    Action,
    Request,
    ScriptedServer,
    problem,
    script,
)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of files that the server below does not look into."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for index in range(10):
        (folder / f"{index}.png").write_bytes(b"photo %d" % index)
    return folder


def run(*arguments: object, **environment: str) -> Result:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], env=environment)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def serving(answer: Callable[[Request], Action]) -> ScriptedServer:
    """A server whose list of models needs no script."""
    return ScriptedServer(lambda request: MODELS if request.method == "GET" else answer(request))


def test_as_many_requests_are_under_way_as_allowed(photos: Path) -> None:
    # Each request is answered when four are there: with fewer of them nothing would ever be.
    barrier, lock = threading.Barrier(4), threading.Lock()
    inside, most = 0, 0

    def answer(request: Request) -> Action:
        nonlocal inside, most
        with lock:
            inside += 1
            most = max(most, inside)
        try:
            barrier.wait(30)
        except threading.BrokenBarrierError:
            return problem(500, "too-few")
        finally:
            with lock:
                inside -= 1
        return ENCODED

    for extra in ("10.png", "11.png"):
        (photos / extra).write_bytes(b"photo")
    with serving(answer) as server:
        result = run("tokenize", photos, "--url", server.url, "--concurrency", 4)
    assert result.exit_code == 0, result.output
    assert "12 tokenized" in result.output
    assert most == 4


def test_one_at_a_time_is_in_order(photos: Path) -> None:
    with serving(lambda _: DECODED) as server:
        result = run("reconstruct", photos, "--url", server.url, "--concurrency", 1)
    assert result.exit_code == 0, result.output
    assert [request.body for request in server.requests[1:]] == [
        b"photo %d" % index for index in range(10)
    ]


def test_each_file_has_its_own_outcome(photos: Path) -> None:
    def answer(request: Request) -> Action:
        if request.body in {b"photo 3", b"photo 7"}:
            return problem(415, "unsupported-image")
        return ENCODED

    (photos / "8.png.flowmo").write_bytes(b"earlier")
    files = [photos / f"{index}.png" for index in range(10)]
    with serving(answer) as server:
        result = run("tokenize", *files, photos / "none.png", "--url", server.url)
    assert result.exit_code == 1
    assert "7 tokenized" in result.output
    assert "1 skipped" in result.output
    # In the order of the files, whatever came first.
    listed = [line.split(":")[0].strip() for line in result.output.splitlines() if "  " in line]
    names = [Path(line).name for line in listed]
    assert names == ["3.png", "7.png", "none.png"]
    assert (photos / "8.png.flowmo").read_bytes() == b"earlier"


def test_key_and_model_are_the_servers(photos: Path) -> None:
    one = photos / "1.png"
    with serving(lambda _: ENCODED) as server:
        for options, environment in (
            (("--api-key", "given"), {}),
            ((), {"FLOWMO_API_KEY": "environment"}),
            (("--api-key", "given"), {"FLOWMO_API_KEY": "environment"}),
        ):
            result = run(
                "tokenize", one, "--overwrite", "--url", server.url, "--model", "micro",
                *options, **environment,
            )  # fmt: skip
            assert result.exit_code == 0, result.output
    keys = [request.headers["authorization"] for request in server.requests]
    assert keys == [
        f"Bearer {key}" for key in ("given", "environment", "given") for _ in ("models", "file")
    ]
    posts = [request for request in server.requests if request.method == "POST"]
    assert [request.query["model"] for request in posts] == [["micro"]] * 3


def test_a_wrong_key_is_reported_once(photos: Path) -> None:
    with script(problem(401, "unauthorized")) as server:
        result = run("tokenize", photos, "--url", server.url, "--api-key", "wrong")
    assert result.exit_code == 1
    assert result.output.count("401 unauthorized") == 1
    assert len(server.requests) == 1


def test_what_passes_is_tried_again(photos: Path) -> None:
    with script(MODELS, DROP, problem(429, "queue-full", Retry_After="0"), ENCODED) as server:
        result = run("tokenize", photos / "1.png", "--url", server.url)
    assert result.exit_code == 0, result.output
    assert len(server.requests) == 4


def test_a_model_needs_a_server(photos: Path) -> None:
    result = run("tokenize", photos, "--model", "micro")
    assert result.exit_code == 2
    assert "--url" in result.output


def test_a_key_that_cannot_be_sent_is_a_usage_error(photos: Path) -> None:
    result = run("tokenize", photos, "--url", "http://127.0.0.1:9", "--api-key", "two\nlines")
    assert result.exit_code == 2
    assert "api_key must be" in " ".join(result.output.replace("│", " ").split())
    assert "two" not in result.output


@pytest.fixture
def heeds_interrupts() -> Iterator[None]:
    """A shell's background jobs, as which these tests may run, and their children ignore them."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("heeds_interrupts")
def test_an_interrupt_ends_it_at_once(photos: Path) -> None:
    waiting = threading.Event()

    def answer(request: Request) -> Action:
        waiting.set()
        return HOLD

    with serving(answer) as server:
        command = [sys.executable, "-m", "flowmo", "tokenize", str(photos), "--url", server.url]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            assert waiting.wait(60)
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=60)
    assert process.returncode not in {0, 1}
    assert b"Traceback" not in errors
