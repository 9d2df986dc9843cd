"""Every name that a checkpoint can have, against a hub on this machine."""

import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from flowmo.model.checkpoint import inspect_checkpoint, load_weights
from flowmo.model.errors import CheckpointError, ConfigError
from flowmo.model.flowmo import FlowMo
from flowmo.model.hub import resolve_checkpoint, shipped_checkpoints
from tests.model.checkpoints import made_model, made_state
from tests.model.fake_hub import FakeHub

PUBLISHED = "ksarge/FlowMo:flowmo_pico.pth"

# The hub's address is read once, when its library is imported: so each hub has its own process.
WORKER = """
import json, logging, os, sys
from flowmo.model.config import PRESETS
from flowmo.model.errors import FlowMoError
from flowmo.model.hub import resolve_checkpoint
from tests.model.checkpoints import CONFIG
PRESETS["pico"] = CONFIG  # quick to convert
for line in sys.stdin:
    request = json.loads(line)
    os.environ["FLOWMO_CACHE"] = request.pop("cache")
    try:
        answer = {"folder": str(resolve_checkpoint(**request))}
    except FlowMoError as error:
        answer = {"error": type(error).__name__, "words": str(error)}
    print(json.dumps(answer), flush=True)
"""


class Worker:
    """A process that resolves names at a hub."""

    def __init__(self, url: str, home: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", WORKER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "HF_ENDPOINT": url, "HF_HOME": str(home), "HF_HUB_OFFLINE": "0"},
        )

    def ask(self, name: str, cache: Path, **options: Any) -> None:
        assert self._process.stdin is not None
        request = {"name": name, "cache": str(cache), **options}
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()

    def answer(self) -> dict[str, str]:
        assert self._process.stdout is not None
        answer: dict[str, str] = json.loads(self._process.stdout.readline())
        return answer

    def resolve(self, name: str, cache: Path, **options: Any) -> Path:
        self.ask(name, cache, **options)
        answer = self.answer()
        assert "folder" in answer, answer
        return Path(answer["folder"])

    def refusal(self, name: str, cache: Path, **options: Any) -> str:
        self.ask(name, cache, **options)
        answer = self.answer()
        assert answer.get("error") in {"CheckpointError", "ConfigError"}, answer
        return answer["words"]

    def close(self) -> None:
        self._process.communicate("")
        assert self._process.returncode == 0


@pytest.fixture(scope="module")
def published() -> bytes:
    buffer = io.BytesIO()
    torch.save({"model_ema_state_dict": made_state(), "total_steps": 7}, buffer)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def shared_hub() -> Iterator[FakeHub]:
    with FakeHub() as hub:
        yield hub


@pytest.fixture
def hub(shared_hub: FakeHub, published: bytes) -> FakeHub:
    shared_hub.repositories = {"ksarge/FlowMo": {"flowmo_pico.pth": published, "README.md": b"1"}}
    shared_hub.asked.clear()
    return shared_hub


@pytest.fixture(scope="module")
def workers(
    shared_hub: FakeHub, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Worker, Worker]]:
    home = tmp_path_factory.mktemp("hub-home")
    both = Worker(shared_hub.url, home), Worker(shared_hub.url, home)
    yield both
    for one in both:
        one.close()


@pytest.fixture
def worker(workers: tuple[Worker, Worker]) -> Worker:
    return workers[0]


# Names that need no hub


def test_the_shipped_model_has_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert list(shipped_checkpoints()) == ["prior-tiny", "tiny"]
    folder = resolve_checkpoint("tiny")
    assert inspect_checkpoint(folder).config.name == "tiny"
    assert FlowMo.from_pretrained("tiny").config.name == "tiny"
    # Wherever it is asked for, and whatever folders are there.
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny").mkdir()
    assert resolve_checkpoint("tiny") == folder
    assert resolve_checkpoint("./tiny") == Path("./tiny")
    assert resolve_checkpoint(Path("tiny")) == Path("tiny")


def test_a_file_that_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    photograph = tmp_path / "photo.jpg"
    photograph.write_bytes(b"\xff\xd8")
    for name in (str(photograph), photograph):
        with pytest.raises(CheckpointError, match=r"photo.jpg is a file, not a checkpoint folder"):
            resolve_checkpoint(name)


def test_a_published_file_needs_its_preset() -> None:
    with pytest.raises(CheckpointError, match=r"--preset.*continuous-lo, hi, lo, small, tiny"):
        resolve_checkpoint("ksarge/FlowMo:flowmo_lo.pth")
    with pytest.raises(ConfigError, match="no preset 'low'"):
        resolve_checkpoint("ksarge/FlowMo:flowmo_lo.pth", preset="low")


@pytest.mark.parametrize("name", ["tiny", "owner/name", "ksarge/FlowMo:photo.jpg", "nowhere"])
def test_a_preset_is_of_published_files_only(name: str) -> None:
    with pytest.raises(CheckpointError, match="belongs to a published file"):
        resolve_checkpoint(name, preset="lo")


# Names on the hub


def test_a_repository_is_downloaded(hub: FakeHub, worker: Worker, tmp_path: Path) -> None:
    made_model().save_pretrained(tmp_path / "made")
    files = {path.name: path.read_bytes() for path in (tmp_path / "made").iterdir()}
    hub.repositories["owner/pico"] = files
    folder = worker.resolve("owner/pico", tmp_path)
    assert {path.name for path in folder.iterdir()} == {"config.json", "model.safetensors"}
    assert FlowMo.from_pretrained(folder).fingerprint() == made_model().fingerprint()


def test_a_published_file_is_converted_once(hub: FakeHub, worker: Worker, tmp_path: Path) -> None:
    folder = worker.resolve(PUBLISHED, tmp_path, preset="pico")
    commit = hub.commit("ksarge/FlowMo")
    expected = tmp_path / "checkpoints" / "ksarge--FlowMo" / commit / "flowmo_pico.pth" / "pico"
    assert folder == expected
    assert inspect_checkpoint(folder).fingerprint == made_model().fingerprint()
    assert hub.downloads("flowmo_pico.pth") == 1
    written = (folder / "config.json").stat().st_mtime_ns

    assert worker.resolve(PUBLISHED, tmp_path, preset="pico") == folder
    assert hub.downloads("flowmo_pico.pth") == 1
    assert (folder / "config.json").stat().st_mtime_ns == written
    # The same file needs no hub, even when the download is gone.
    offline = worker.resolve(PUBLISHED, tmp_path, preset="pico", local_files_only=True)
    assert offline == folder
    del hub.repositories["ksarge/FlowMo"]
    assert worker.resolve(PUBLISHED, tmp_path, preset="pico") == folder


def test_a_new_commit_is_another_checkpoint(hub: FakeHub, worker: Worker, tmp_path: Path) -> None:
    first = worker.resolve(PUBLISHED, tmp_path, preset="pico")
    hub.repositories["ksarge/FlowMo"]["README.md"] = b"2"
    second = worker.resolve(PUBLISHED, tmp_path, preset="pico")
    assert second != first
    assert hub.commit("ksarge/FlowMo") in second.parts
    assert {inspect_checkpoint(folder).config.name for folder in (first, second)} == {"pico"}


def test_processes_at_once_convert_once(
    hub: FakeHub, workers: tuple[Worker, Worker], tmp_path: Path
) -> None:
    for one in workers:
        one.ask(PUBLISHED, tmp_path, preset="pico")
    folders = {one.answer()["folder"] for one in workers}
    assert len(folders) == 1
    info = inspect_checkpoint(folders.pop())
    assert load_weights(info).keys() == info.shapes.keys()
    # Nothing unfinished is left beside the checkpoint.
    assert {path.name for path in info.folder.iterdir()} == {"config.json", "model.safetensors"}


def test_what_was_interrupted_is_done_again(hub: FakeHub, worker: Worker, tmp_path: Path) -> None:
    folder = worker.resolve(PUBLISHED, tmp_path, preset="pico")
    (folder / "config.json").unlink()  # which is written last
    assert worker.resolve(PUBLISHED, tmp_path, preset="pico") == folder
    assert inspect_checkpoint(folder).config.name == "pico"


def test_refusals_say_what_was_tried(hub: FakeHub, worker: Worker, tmp_path: Path) -> None:
    words = worker.refusal("nobody/nothing", tmp_path)
    assert re.search(r"no folder nobody/nothing exists here, no checkpoint .* shipped, .*", words)
    assert "404" in words
    words = worker.refusal("ksarge/FlowMo:other.pth", tmp_path, preset="lo")
    assert re.search(r"other.pth of the repository ksarge/FlowMo could not be had .*404", words)
    words = worker.refusal(PUBLISHED, tmp_path, preset="lo")
    assert "holds the tensors of preset 'pico', not of 'lo'" in words
    words = worker.refusal(
        PUBLISHED,
        tmp_path / "empty",
        preset="pico",
        revision="v1",
        local_files_only=True,
        cache_dir=str(tmp_path / "none"),
    )
    assert "could not be had from the hub" in words
    assert "local_files_only" in words or "offline" in words.lower()
    assert not list(tmp_path.rglob("config.json"))
