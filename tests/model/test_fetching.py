"""Checkpoints that are fetched from stores, over HTTP, from disks: whole and checked, or not."""

import hashlib
import threading
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import fsspec
import pytest
import torch
from typer.testing import CliRunner

from flowmo.cli.app import app
from flowmo.model.checkpoint import inspect_checkpoint
from flowmo.model.config import PRESETS
from flowmo.model.errors import CheckpointError
from flowmo.model.fetching import Source, fetch_checkpoint
from flowmo.model.prior.checkpoint import Prior
from flowmo.model.prior.network import initialize
from tests.model.checkpoints import CONFIG, made_model, made_state
from tests.model.prior.test_prior import MICRO


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A folder with a checkpoint in shards, and a published file beside it."""
    folder = tmp_path / "store"
    made_model().save_pretrained(folder / "pico", max_shard_size="60KB")
    torch.save({"model_ema_state_dict": made_state()}, folder / "pico.pth")
    return folder


@pytest.fixture
def web(store: Path) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(store)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def preset(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setitem(PRESETS, "pico", CONFIG)
    return "pico"


@pytest.mark.parametrize("form", ["path", "http", "bucket"])
def test_a_folder_comes_whole_from_wherever_it_lies(
    form: str, store: Path, web: str, tmp_path: Path
) -> None:
    files: Any = fsspec.filesystem("memory")
    files.put(str(store / "pico"), "/bucket/pico", recursive=True)
    name = {"path": str(store / "pico"), "http": f"{web}/pico", "bucket": "memory://bucket/pico"}
    source = Source(name=name[form], fingerprint=made_model().fingerprint())
    info, new = fetch_checkpoint(source, tmp_path / "to" / "pico")
    assert (new, info.fingerprint, len(info.files) > 1) == (True, source.fingerprint, True)
    # The second time nothing is asked of the source.
    files.rm("/bucket", recursive=True)
    assert fetch_checkpoint(source, tmp_path / "to" / "pico")[1] is False


@pytest.mark.parametrize("form", ["path", "http"])
def test_a_prior_comes_as_a_tokenizer_does(
    form: str, store: Path, web: str, tmp_path: Path
) -> None:
    made = Prior(MICRO)
    initialize(made, seed=0)
    made.save_pretrained(store / "prior", dtype=torch.float32)
    name = str(store / "prior") if form == "path" else f"{web}/prior"
    source = Source(name=name, fingerprint=made.fingerprint())
    info, new = fetch_checkpoint(source, tmp_path / "to" / "prior")
    assert (new, info.config, info.fingerprint) == (True, made.config, made.fingerprint())
    assert fetch_checkpoint(source, tmp_path / "to" / "prior")[1] is False
    with pytest.raises(CheckpointError, match="damaged, or another checkpoint"):
        fetch_checkpoint(replace(source, fingerprint="0" * 32), tmp_path / "other")


@pytest.mark.parametrize("form", ["path", "http"])
def test_a_published_file_is_checked_and_converted(
    form: str, store: Path, web: str, tmp_path: Path, preset: str
) -> None:
    digest = hashlib.sha256((store / "pico.pth").read_bytes()).hexdigest()
    name = str(store / "pico.pth") if form == "path" else f"{web}/pico.pth"
    info, _ = fetch_checkpoint(Source(name=name, preset=preset, sha256=digest), tmp_path / "pico")
    assert info.fingerprint == made_model().fingerprint()
    wrong = Source(name=name, preset=preset, sha256="0" * 64)
    with pytest.raises(CheckpointError, match=f"has the SHA-256 {digest}, expected 0000"):
        fetch_checkpoint(wrong, tmp_path / "other")
    assert not (tmp_path / "other").exists()
    assert not list(tmp_path.glob(".*"))


def test_damaged_weights_never_get_the_name(store: Path, tmp_path: Path) -> None:
    (file, *_) = inspect_checkpoint(store / "pico").files
    data = bytearray(file.read_bytes())
    data[-3] ^= 0x40
    file.write_bytes(bytes(data))
    with pytest.raises(CheckpointError, match=r"damaged, or another checkpoint"):
        fetch_checkpoint(Source(name=str(store / "pico")), tmp_path / "pico")
    assert not (tmp_path / "pico").exists()


def test_what_cannot_be_had_or_is_asked_for_wrongly_is_said(
    store: Path, web: str, tmp_path: Path
) -> None:
    out = tmp_path / "pico"
    for source, words in (
        (Source(name=f"{web}/nothing"), "nothing cannot be had"),
        (Source(name="nosuch://x/y"), "nosuch"),
        (Source(name=str(store / "pico.pth")), "name its preset"),
        (Source(name=str(store / "pico"), sha256="0" * 64), "recognised by its fingerprint"),
        (Source(name=str(store / "none")), "does not exist"),
    ):
        with pytest.raises(CheckpointError, match=words):
            fetch_checkpoint(source, out)
        assert not out.exists()
    fetch_checkpoint(source := Source(name=str(store / "pico")), out)
    with pytest.raises(CheckpointError, match="another checkpoint needs another folder"):
        fetch_checkpoint(replace(source, name=f"{web}/pico"), out)
    with pytest.raises(CheckpointError, match="not fetched by this command"):
        fetch_checkpoint(source, store / "pico")


def test_the_command_says_what_is_there(store: Path, tmp_path: Path) -> None:
    arguments = ["fetch", str(store / "pico"), str(tmp_path / "pico")]
    first, second = (CliRunner().invoke(app, arguments) for _ in range(2))
    assert (first.exit_code, second.exit_code) == (0, 0), first.output
    assert made_model().fingerprint() in first.stdout
    assert "was there already" in second.stdout
    refused = CliRunner().invoke(app, [*arguments, "--fingerprint", "0" * 32])
    assert refused.exit_code == 1
