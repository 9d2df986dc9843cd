"""Copies of a run at a URL: whole or not counted, kept like the run's own, resumed from."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import fsspec
import pytest

from flowmo.model.errors import CheckpointError, ConfigError
from flowmo.model.flowmo import FlowMo
from flowmo.training.checkpointing.checkpoint import checkpoint_folders
from flowmo.training.checkpointing.mirror import Mirror
from flowmo.training.config import TrainConfig, ValidationConfig
from tests.training.processes import assert_same
from tests.training.students import quiet

Build = Callable[..., TrainConfig]


@pytest.fixture
def url() -> Iterator[str]:
    """A store in memory, empty before and after."""
    store = fsspec.filesystem("memory")
    if store.exists("/run"):
        store.rm("/run", recursive=True)
    yield "memory://run"
    store.rm("/run", recursive=True)


def test_a_run_goes_on_from_its_mirror_on_a_machine_that_has_nothing(
    run_config: Build, tmp_path: Path, url: str
) -> None:
    straight = run_config(
        steps=6, checkpoint_interval=2, log_interval=1, output=str(tmp_path / "straight")
    )
    quiet(straight)
    here = replace(straight, checkpoint_mirror=url, output=str(tmp_path / "here"))
    quiet(replace(here, steps=4))
    assert Mirror(url).steps() == [2, 4]
    there = replace(here, output=str(tmp_path / "there"))
    with pytest.raises(ConfigError, match="run holds a run with checkpoints up to step 4"):
        quiet(there)
    # Its log began on the machine that is gone.
    (tmp_path / "there").mkdir()
    (tmp_path / "there/log.jsonl").write_text((tmp_path / "here/log.jsonl").read_text())
    assert quiet(there, resume=True).step == 6
    assert_same(there, straight)
    assert Mirror(url).steps() == [4, 6]


def test_models_are_copied_whole(run_config: Build, tmp_path: Path, url: str) -> None:
    config = run_config(
        steps=2, checkpoint_mirror=url, validation=ValidationConfig(interval=2, count=1)
    )
    result = quiet(config)
    for name in ("export", "best"):
        fsspec.filesystem("memory").get(f"/run/{name}", str(tmp_path / name), recursive=True)
        copy = FlowMo.from_pretrained(tmp_path / name)
        assert copy.fingerprint() == FlowMo.from_pretrained(result.export).fingerprint()


def test_a_copy_that_was_cut_short_does_not_count(
    run_config: Build, tmp_path: Path, url: str
) -> None:
    config = run_config(steps=2, checkpoint_interval=1, checkpoint_mirror=url)
    quiet(config)
    store = fsspec.filesystem("memory")
    store.rm("/run/checkpoints/step_000000002.complete")
    assert Mirror(url).steps() == [1]
    again = quiet(replace(config, output=str(tmp_path / "again")), resume=True)
    assert again.step == 2  # trained once more from step 1
    assert Mirror(url).steps() == [1, 2]


def test_a_store_that_fails_is_told(
    run_config: Build, tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise PermissionError("not yours")

    monkeypatch.setattr(type(fsspec.filesystem("memory")), "pipe_file", fail)
    config = run_config(steps=2, checkpoint_mirror=url)
    with pytest.raises(CheckpointError, match="could not be written: not yours"):
        quiet(config)
    # The run's own checkpoint is there.
    assert checkpoint_folders(Path(config.output))
    with pytest.raises(ConfigError, match="checkpoint_mirror = 'nowhere://x' cannot be used"):
        Mirror("nowhere://x")
