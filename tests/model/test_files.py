"""Files and folders that are whole whenever the writer is killed."""

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from flowmo.model.files import (
    discard,
    replacing_contents,
    replacing_file,
    replacing_folder,
    write_file,
)


def write(target: Path, text: str) -> None:
    write_file(target, text.encode())


def replace_file(target: Path, text: str) -> None:
    with replacing_file(target) as partial:
        partial.write_text(text)


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.mark.parametrize("put", [write, replace_file])
def test_a_file_is_replaced_and_its_folder_is_made(
    put: Callable[[Path, str], None], tmp_path: Path
) -> None:
    target = tmp_path / "new" / "file"
    put(target, "old")
    put(target, "new")
    assert target.read_text() == "new"
    assert names(tmp_path) == ["new", "new/file"]


@pytest.mark.parametrize("put", [write, replace_file])
def test_results_follow_the_users_umask(put: Callable[[Path, str], None], tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        put(tmp_path / "file", "text")
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("put", [write, replace_file])
def test_a_failed_write_leaves_the_old_file(
    put: Callable[[Path, str], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "file"
    put(target, "old")

    def full(_: int) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="full"):
        put(target, "new")
    assert target.read_text() == "old"
    assert names(tmp_path) == ["file"]


def test_many_writers_of_one_file_do_not_collide(tmp_path: Path) -> None:
    target, errors = tmp_path / "file", []
    texts = [str(number) * 100_000 for number in range(8)]

    def run(text: str) -> None:
        try:
            for _ in range(20):
                write_file(target, text.encode(), flush_to_disk=False)
                assert target.read_text() in texts
        except BaseException as error:  # noqa: BLE001  (whatever a thread met)
            errors.append(error)

    threads = [threading.Thread(target=run, args=[text]) for text in texts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert names(tmp_path) == ["file"]


def test_a_failed_write_leaves_the_old_folder(tmp_path: Path) -> None:
    target = tmp_path / "export"
    with replacing_folder(target) as folder:
        (folder / "a").write_text("old")

    def fail() -> None:
        with replacing_folder(target) as folder:
            (folder / "a").write_text("new")
            raise OSError("disk full")

    with pytest.raises(OSError, match="full"):
        fail()
    assert (target / "a").read_text() == "old"
    with replacing_folder(target) as folder:
        (folder / "b").write_text("newer")
    assert names(tmp_path) == ["export", "export/b"]
    discard(target)
    assert names(tmp_path) == []


def test_contents_are_exchanged_and_other_files_stay(tmp_path: Path) -> None:
    for name in ("key", "part-0", "part-1", "notes"):
        (tmp_path / name).write_text("old")
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a").write_text("old")
    stale = ("part-*", "texts")
    with replacing_contents(tmp_path, key="key", stale=stale) as folder:
        (folder / "key").write_text("new")
        (folder / "part-0").write_text("new")
        (folder / "texts").mkdir()
        (folder / "texts" / "b").write_text("new")
        assert (tmp_path / "part-1").exists()
    assert names(tmp_path) == ["key", "notes", "part-0", "texts", "texts/b"]
    assert {path.name: path.read_text() for path in tmp_path.iterdir() if path.is_file()} == {
        "key": "new",
        "notes": "old",
        "part-0": "new",
    }


def test_contents_that_fail_change_nothing(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("old")

    def fail() -> None:
        with replacing_contents(tmp_path, key="key", stale=("*",)) as folder:
            (folder / "key").write_text("new")
            raise OSError("disk full")

    with pytest.raises(OSError, match="full"):
        fail()
    assert names(tmp_path) == ["key"]
    assert (tmp_path / "key").read_text() == "old"


# A child a file operation, each killed instead of that operation; the last one survives.
KILLED = """
import os, sys
from pathlib import Path
from tests.training.fatal import arm
from flowmo.model.files import replacing_contents, replacing_file, replacing_folder, write_file

def work(folder):
    write_file(folder / "written", b"new")
    with replacing_file(folder / "replaced") as partial:
        partial.write_bytes(b"new")
    with replacing_folder(folder / "folder") as new:
        for name in "ab":
            (new / name).write_bytes(b"new")
    with replacing_contents(folder / "contents", key="key", stale=("part-*",)) as new:
        for name in ("key", "part-1", "part-2"):
            (new / name).write_bytes(b"new")

def begin(folder):
    for name in ("folder", "contents"):
        (folder / name).mkdir(parents=True)
    for name in ("written", "replaced", "folder/a", "contents/key", "contents/part-0"):
        (folder / name).write_bytes(b"old")

for fatal in range(1, 200):
    folder = Path(sys.argv[1], f"{fatal:03d}")
    begin(folder)
    if (child := os.fork()) == 0:
        arm(fatal)
        work(folder)
        os._exit(0)
    if os.waitpid(child, 0)[1] == 0:
        break
    print(fatal)
"""


def test_a_writer_killed_in_any_operation_leaves_old_or_new_but_no_mixture(tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert len(run.stdout.split()) > 20
    seen = set()
    for folder in sorted(tmp_path.iterdir()):
        for name in ("written", "replaced"):
            assert (folder / name).read_bytes() in {b"old", b"new"}
        whole = names(folder / "folder") if (folder / "folder").exists() else None
        assert whole in (["a"], ["a", "b"], None)  # between two renames there is none
        if whole is not None:
            contents = {(folder / "folder" / name).read_bytes() for name in whole}
            assert contents == ({b"old"} if whole == ["a"] else {b"new"})
        contents_folder = folder / "contents"
        parts = sorted(path.name for path in contents_folder.glob("[!.]*"))
        seen.add(tuple(parts))
        if "key" in parts:
            old = (contents_folder / "key").read_bytes() == b"old"
            assert parts == (["key", "part-0"] if old else ["key", "part-1", "part-2"])
    assert len(seen) > 3


def test_the_next_writer_clears_what_a_killed_one_left(tmp_path: Path) -> None:
    for leftover in (".folder.new", ".folder.old", ".new"):
        (tmp_path / leftover / "inner").mkdir(parents=True)
    (tmp_path / ".file.new").write_text("half")
    replace_file(tmp_path / "file", "text")
    with replacing_folder(tmp_path / "folder"):
        pass
    with replacing_contents(tmp_path, key="key") as new:
        (new / "key").touch()
    assert names(tmp_path) == ["file", "folder", "key"]
