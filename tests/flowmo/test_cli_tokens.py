"""Files and folders to tokens and back, by a model here and through a server."""

import io
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner, Result

from flowmo.cli import app
from flowmo.cli.server_process import ServerProcess
from flowmo.model.container import Container
from tests.model.checkpoints import made_model, made_state
from tests.model.fake_hub import FakeHub
from tests.service.fixtures import save_model
from tests.service.pictures import as_file, from_file, gradient

Run = Callable[..., Result]


@pytest.fixture
def run() -> Run:
    """The command in this process; errors are reported as they are on a terminal."""

    def invoke(*arguments: object) -> Result:
        result = CliRunner().invoke(app, [str(argument) for argument in arguments])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return invoke


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder with three pictures in two levels, and things that are none."""
    folder = tmp_path / "photos"
    (folder / "trip").mkdir(parents=True)
    (folder / ".hidden").mkdir()
    (folder / "a.png").write_bytes(as_file(gradient()))
    (folder / "a.jpg").write_bytes(as_file(gradient(60, 60), "JPEG"))
    (folder / "trip" / "B.WEBP").write_bytes(as_file(gradient(33, 70), "WEBP"))
    (folder / ".hidden" / "c.png").write_bytes(as_file(gradient()))
    (folder / "notes.txt").write_text("no picture")
    return folder


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_a_file_becomes_tokens_beside_it_and_a_picture_again(
    run: Run, photos: Path, checkpoint: Path
) -> None:
    result = run("tokenize", photos / "a.png", "--checkpoint", checkpoint)
    assert result.exit_code == 0, result.output
    tokens = photos / "a.png.flowmo"
    container = Container.from_bytes(tokens.read_bytes())
    assert (container.width, container.height) == (32, 32)
    assert str(tokens) in result.output
    result = run("detokenize", tokens, "--checkpoint", checkpoint, "--seed", 3)
    assert result.exit_code == 0, result.output
    assert from_file((photos / "a.png.flowmo.png").read_bytes()).shape == (32, 32, 3)


def test_a_folder_keeps_its_structure(run: Run, photos: Path, checkpoint: Path) -> None:
    before = files(photos)
    out = photos.parent / "tokens"
    result = run("tokenize", photos, "--out", out, "-c", checkpoint)
    assert result.exit_code == 0, result.output
    assert files(out) == {"a.png.flowmo", "a.jpg.flowmo", "trip/B.WEBP.flowmo"}
    assert files(photos) == before
    again = photos.parent / "again"
    result = run("detokenize", out, "--out", again, "-c", checkpoint, "--format", "jpeg")
    assert result.exit_code == 0, result.output
    assert files(again) == {
        "a.png.flowmo.jpeg",
        "a.jpg.flowmo.jpeg",
        "trip/B.WEBP.flowmo.jpeg",
    }


def test_reconstruct_is_the_other_two(run: Run, photos: Path, checkpoint: Path) -> None:
    options = ("-c", checkpoint, "--seed", 5, "--steps", 3, "--guidance", 2)
    run("tokenize", photos, "--fit", "pad", "-c", checkpoint)
    run("detokenize", photos, "--out", photos.parent / "apart", *options)
    result = run(
        "reconstruct", photos, "--out", photos.parent / "together", "--fit", "pad", *options
    )
    assert result.exit_code == 0, result.output
    apart, together = photos.parent / "apart", photos.parent / "together"
    assert files(apart) == files(together) != set()
    for name in files(apart):
        assert (apart / name).read_bytes() == (together / name).read_bytes()


def test_results_are_not_taken_for_pictures(run: Run, photos: Path, checkpoint: Path) -> None:
    run("reconstruct", photos, "-c", checkpoint)
    result = run("reconstruct", photos, "-c", checkpoint)
    assert result.exit_code == 0
    assert "3 skipped, because their results exist" in result.output
    assert not any(name.count(".flowmo") > 1 for name in files(photos))


def test_results_that_exist_are_kept_unless_replacing_is_asked_for(
    run: Run, photos: Path, checkpoint: Path
) -> None:
    target = photos / "a.png.flowmo"
    target.write_bytes(b"mine")
    result = run("tokenize", photos / "a.png", "-c", checkpoint)
    assert result.exit_code == 0
    assert "1 skipped" in result.output
    assert target.read_bytes() == b"mine"
    result = run("tokenize", photos / "a.png", "-c", checkpoint, "--overwrite")
    assert result.exit_code == 0
    Container.from_bytes(target.read_bytes())


@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_bad_files_cost_the_others_nothing(
    run: Run, photos: Path, checkpoint: Path, batch_size: int
) -> None:
    (photos / "a0-bad.png").write_bytes(b"no picture at all")
    (photos / "trip" / "cut.jpg").write_bytes((photos / "a.jpg").read_bytes()[:300])
    missing = photos / "missing.png"
    result = run("tokenize", photos, missing, "-c", checkpoint, "--batch-size", batch_size)
    assert result.exit_code == 1
    assert "3 tokenized" in result.output
    assert "3 failed" in result.output
    for name in ("a0-bad.png", "cut.jpg", "missing.png"):
        assert name in result.output
    assert {name for name in files(photos) if name.endswith(".flowmo")} == {
        "a.png.flowmo",
        "a.jpg.flowmo",
        "trip/B.WEBP.flowmo",
    }


def test_batches_change_nothing(run: Run, photos: Path, checkpoint: Path) -> None:
    one, all_ = photos.parent / "one", photos.parent / "all"
    for out, size in ((one, 1), (all_, 3)):
        run("reconstruct", photos, "--out", out, "-c", checkpoint, "--batch-size", size)
    for name in files(one):
        difference = np.abs(
            from_file((one / name).read_bytes()).astype(int) - from_file((all_ / name).read_bytes())
        )
        assert difference.max() <= 1


def test_tokens_of_another_model_are_reported(
    run: Run, photos: Path, checkpoint: Path, other_checkpoint: Path
) -> None:
    run("tokenize", photos / "a.png", "-c", other_checkpoint)
    result = run("detokenize", photos / "a.png.flowmo", "-c", checkpoint)
    assert result.exit_code == 1
    assert "1 failed" in result.output
    assert not (photos / "a.png.flowmo.png").exists()


def test_a_single_result_may_be_named(run: Run, photos: Path, checkpoint: Path) -> None:
    tokens, picture = photos.parent / "x" / "my.flowmo", photos.parent / "my.webp"
    assert run("tokenize", photos / "a.png", "-o", tokens, "-c", checkpoint).exit_code == 0
    assert run("detokenize", tokens, "-o", picture, "-c", checkpoint).exit_code == 0
    assert picture.read_bytes().startswith(b"RIFF")


def test_what_is_left_out_of_a_folder_is_counted_and_named(
    run: Run, photos: Path, checkpoint: Path
) -> None:
    (photos / "lost.png").symlink_to(photos / "nowhere.png")
    (photos / "turning.png").symlink_to(photos / "turning.png")
    (photos / "elsewhere").symlink_to(photos.parent)
    (photos / "old").mkdir()
    os.mkfifo(photos / "old" / "pipe.png")
    (photos / "raw.CR2").touch()
    result = run("tokenize", photos, "-c", checkpoint)
    assert result.exit_code == 0, result.output
    (line,) = [line for line in result.stdout.splitlines() if "skipped" in line]
    assert line == (
        f"7 skipped: {photos}/.hidden (hidden), {photos}/elsewhere (link to a folder), "
        f"{photos}/lost.png (broken link), {photos}/notes.txt (unsupported format), "
        f"{photos}/raw.CR2 (unsupported format) and 2 more"
    )
    assert "3 tokenized" in result.stdout
    (photos / "raw.CR2").unlink()
    (photos / "notes.txt").unlink()
    result = run("tokenize", photos, "-c", checkpoint)
    assert "(unreadable: Too many levels of symbolic links)" in result.stdout
    assert f"{photos}/old/pipe.png (no regular file)" in result.stdout
    # Tokens are no pictures that were left out: this command wrote them.
    assert ".flowmo (" not in result.stdout
    result = run("detokenize", photos / "trip", "-c", checkpoint)
    assert f"1 skipped: {photos}/trip/B.WEBP (not a .flowmo file)" in result.stdout


def test_a_folder_that_cannot_be_searched_is_named(
    run: Run, photos: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The tests may run as root, whom no permission stops.
    locked, listed = photos / "trip", os.scandir

    def scandir(path: str) -> object:
        if Path(path) == locked:
            raise PermissionError(13, "Permission denied", path)
        return listed(path)

    monkeypatch.setattr(os, "scandir", scandir)
    result = run("tokenize", photos, "-c", checkpoint)
    assert "2 tokenized" in result.stdout
    assert f"{locked} (unreadable: Permission denied)" in result.stdout


def test_names_do_not_reach_the_terminal_as_they_are(
    run: Run, photos: Path, checkpoint: Path
) -> None:
    (photos / "a\x1b[2J\n.txt").touch()
    (photos / os.fsdecode(b"b\xff.txt")).touch()
    (photos / "c[red].png").write_bytes(b"no picture at all")
    result = run("tokenize", photos, "-c", checkpoint)
    assert "a\\x1b[2J\\n.txt (unsupported format)" in result.stdout
    assert "b\\xff.txt (unsupported format)" in result.stdout
    assert "c[red].png: " in result.stderr
    assert "\x1b" not in result.output


def test_two_inputs_never_share_a_result(run: Run, photos: Path, checkpoint: Path) -> None:
    out = photos.parent / "out"
    other = photos.parent / "other"
    other.mkdir()
    (other / "a.png").write_bytes(as_file(gradient(40, 40)))
    result = run("tokenize", photos, other, "--out", out, "-c", checkpoint)
    assert result.exit_code == 2
    assert "would both become" in " ".join(result.output.replace("│", " ").split())
    assert not out.exists()


def test_no_pictures_is_reported(run: Run, tmp_path: Path, checkpoint: Path) -> None:
    result = run("tokenize", tmp_path, "-c", checkpoint)
    assert result.exit_code == 1
    assert "no files found" in result.output


def test_a_bad_checkpoint_is_reported_in_one_line(run: Run, photos: Path, tmp_path: Path) -> None:
    result = run("tokenize", photos, "-c", tmp_path / "nowhere")
    assert result.exit_code == 1
    assert result.output.startswith("error: ")
    assert "nowhere" in result.output


def test_sampling_options_that_cannot_be_are_refused_before_any_work(
    run: Run, photos: Path, checkpoint: Path
) -> None:
    result = run("reconstruct", photos, "-c", checkpoint, "--steps", 2000)
    assert result.exit_code == 1
    assert result.output == "error: steps must be 1 to 1000, got 2000\n"


def test_a_continuous_model_is_refused_in_one_line(run: Run, photos: Path, tmp_path: Path) -> None:
    folder = save_model(tmp_path / "continuous", seed=0, quantizer="gaussian")
    result = run("tokenize", photos, "-c", folder)
    assert result.exit_code == 1
    (line,) = result.output.splitlines()
    assert "is a continuous model" in line


def test_the_demo_model_needs_no_option_and_no_service(photos: Path) -> None:
    code = (
        "import sys\n"
        "from flowmo.cli import app\n"
        "try:\n"
        "    app(['reconstruct', sys.argv[1]])\n"
        "except SystemExit as end:\n"
        "    assert not end.code\n"
        "loaded = {name for name in sys.modules if name.startswith('flowmo.service')}\n"
        "assert not loaded, loaded\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(photos / "a.png")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert from_file((photos / "a.png.flowmo.png").read_bytes()).shape == (32, 32, 3)


def test_a_published_file_of_the_hub_is_used_by_its_preset(photos: Path, tmp_path: Path) -> None:
    published = io.BytesIO()
    torch.save({"model_ema_state_dict": made_state()}, published)
    code = (
        "import sys\n"
        "from flowmo.cli import app\n"
        "from flowmo.model.config import PRESETS\n"
        "from tests.model.checkpoints import CONFIG\n"
        "PRESETS['pico'] = CONFIG\n"
        "app(sys.argv[1:])\n"
    )
    arguments = ["tokenize", str(photos / "a.png"), "-c", "owner/name:pico.pth"]
    with FakeHub() as hub:
        hub.repositories = {"owner/name": {"pico.pth": published.getvalue()}}
        environment = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "0"}

        def run(*options: str) -> subprocess.CompletedProcess[str]:
            return subprocess.run(
                [sys.executable, "-c", code, *arguments, *options],
                env={**os.environ, **environment, "FLOWMO_CACHE": str(tmp_path)},
                capture_output=True,
                text=True,
                check=False,
            )

        refused, done = run(), run("--preset", "pico")
    assert refused.returncode == 1
    assert "name its preset (--preset" in refused.stderr
    assert done.returncode == 0, done.stderr
    container = Container.from_bytes((photos / "a.png.flowmo").read_bytes())
    assert container.fingerprint == made_model().fingerprint()


# --- through a server ---------------------------------------------------------------------------


def test_a_server_gives_the_same_bytes(
    run: Run, photos: Path, checkpoint: Path, server: ServerProcess
) -> None:
    here, there = photos.parent / "here", photos.parent / "there"
    for out, where in ((here, ("-c", checkpoint)), (there, ("--url", server.url))):
        options = ("--seed", 2, "--steps", 3, "--schedule", "linear", "--format", "webp")
        for result in (
            run("tokenize", photos, "--out", out, "--fit", "stretch", *where),
            run("detokenize", out, "--quality", 70, *options, *where),
            run("reconstruct", photos, "--out", out / "direct", *options, *where),
        ):
            assert result.exit_code == 0, result.output
    assert files(here) == files(there)
    assert len(files(here)) == 9
    for name in files(here):
        assert (here / name).read_bytes() == (there / name).read_bytes(), name


def test_what_a_server_refuses_is_reported(run: Run, photos: Path, server: ServerProcess) -> None:
    (photos / "bad.png").write_bytes(b"no picture at all")
    result = run("tokenize", photos, "--url", server.url)
    assert result.exit_code == 1
    assert "3 tokenized" in result.output
    assert "unsupported-image" in result.output


def test_no_server_is_reported_once(run: Run, photos: Path) -> None:
    result = run("tokenize", photos, "--url", "http://127.0.0.1:9")
    assert result.exit_code == 1
    assert result.output.count("no server at") == 1
    assert "flowmo serve" in result.output


@pytest.mark.parametrize(
    "arguments",
    [
        ("--url", "ftp://x"),
        ("--url", "http://127.0.0.1:9", "--checkpoint", "x"),
        ("--url", "http://127.0.0.1:9", "--preset", "lo"),
        ("--model", "x"),
    ],
)
def test_contradictory_options_are_a_usage_error(
    run: Run, photos: Path, arguments: tuple[str, ...]
) -> None:
    assert run("tokenize", photos, *arguments).exit_code == 2


def test_results_are_written_whole_with_the_users_permissions(
    run: Run, photos: Path, checkpoint: Path
) -> None:
    run("tokenize", photos, "-c", checkpoint)
    assert not any(path.name.startswith(".a") for path in photos.iterdir())
    mode = (photos / "a.png.flowmo").stat().st_mode & 0o777
    (photos / "plain").touch()
    assert mode == (photos / "plain").stat().st_mode & 0o777


def test_a_picture_of_any_size_and_a_region_of_it(run: Run, photos: Path, checkpoint: Path) -> None:
    wide = photos / "wide.png"
    wide.write_bytes(as_file(gradient(100, 40)))
    result = run("tokenize", wide, "--overlap", 0, "-c", checkpoint)
    assert result.exit_code == 0, result.output
    tokens = photos / "wide.png.flowmo"
    assert Container.from_bytes(tokens.read_bytes()).tokens.tile_count == 8
    run("detokenize", tokens, "--steps", 1, "-c", checkpoint)
    assert from_file((photos / "wide.png.flowmo.png").read_bytes()).shape == (40, 100, 3)
    part = photos / "part.png"
    options = ("--region", "10,5,30,20", "--out", part, "--steps", 1, "-c", checkpoint)
    result = run("detokenize", tokens, *options)
    assert result.exit_code == 0, result.output
    assert from_file(part.read_bytes()).shape == (20, 30, 3)
    result = run("detokenize", tokens, "--region", "10,5", "-c", checkpoint)
    assert result.exit_code == 2
    result = run("detokenize", tokens, "--region", "90,5,30,20", "--overwrite", "-c", checkpoint)
    assert result.exit_code == 1
    assert "a region lies inside the picture of 100 x 40" in " ".join(result.output.split())
