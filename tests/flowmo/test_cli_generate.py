"""``flowmo generate``: pictures and containers that repeat."""

from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

import flowmo
from flowmo.cli import app
from flowmo.cli.server_process import ServerProcess
from tests.service.pictures import from_file


def run(*arguments: object) -> Result:
    result = CliRunner().invoke(app, ["generate", *map(str, arguments)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.fixture
def models(checkpoint: Path, prior_checkpoint: Path) -> tuple[str, ...]:
    return (f"--checkpoint={checkpoint}", f"--prior={prior_checkpoint}", "--device=cpu")


def test_images_of_a_class_are_written_and_edited(models: tuple[str, ...], tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = (*models, "--class=cat", "--decode-steps=1", f"--out={out}")
    assert run(*arguments, "--count=3", "--seed=5", "--batch-size=2").exit_code == 0
    names = {path.name for path in out.iterdir()}
    assert names == {f"cat-{seed}{end}" for seed in (5, 6, 7) for end in (".png", ".flowmo")}
    assert from_file((out / "cat-5.png").read_bytes()).shape == (32, 32, 3)
    picture = (out / "cat-7.png").read_bytes()
    assert run(*arguments, "--seed=7").exit_code == 2  # it is there
    assert run(*arguments, "--seed=7", "--overwrite").exit_code == 0
    assert (out / "cat-7.png").read_bytes() == picture  # the same alone

    edited = run(
        *models,
        f"--tokens={out / 'cat-5.flowmo'}",
        "--keep=0-7,15",
        "--write=tokens",
        f"--out={tmp_path / 'edited'}",
    )
    assert edited.exit_code == 0
    (path,) = (tmp_path / "edited").iterdir()
    assert path.name == "none-0.flowmo"
    before, after = flowmo.ImageTokens.load(out / "cat-5.flowmo"), flowmo.ImageTokens.load(path)
    assert (after.ids[0, [*range(8), 15]] == before.ids[0, [*range(8), 15]]).all()
    assert after != before


def test_with_no_option_the_shipped_models_draw(
    other_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run("--class=sky", "--steps=1", "--decode-steps=1", "--device=cpu").exit_code == 0
    assert from_file((tmp_path / "generated/sky-0.png").read_bytes()).shape == (128, 128, 3)
    prior = flowmo.load_prior("prior-tiny", flowmo.load("tiny", device="cpu"))
    tokens = prior.generate("sky", seeds=0, steps=1)
    assert flowmo.ImageTokens.load(tmp_path / "generated/sky-0.flowmo") == tokens
    other = run(f"--checkpoint={other_checkpoint}")
    assert "the prior that comes with the package is of tiny" in " ".join(other.stderr.split())


def test_mistakes_are_named(
    models: tuple[str, ...], other_checkpoint: Path, tmp_path: Path
) -> None:
    out = f"--out={tmp_path}"
    assert "no class 'cow'" in run(*models, "--class=cow", out).stderr
    assert (
        "is made for the tokens of" in run(*models, f"--checkpoint={other_checkpoint}", out).stderr
    )
    assert "go together" in run(*models, "--keep=0-3", out).stderr


def test_a_server_generates_the_same(
    server: ServerProcess, models: tuple[str, ...], tmp_path: Path
) -> None:
    wish = ("--class=dog", "--seed=3", "--count=2", "--steps=3", "--decode-steps=2")
    assert run(*models, *wish, f"--out={tmp_path / 'here'}").exit_code == 0
    assert run(*wish, f"--url={server.url}", f"--out={tmp_path / 'there'}").exit_code == 0
    here, there = (
        {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()}
        for name in ("here", "there")
    )
    assert len(here) == 4
    assert here == there
    both = run(*models, f"--url={server.url}", f"--out={tmp_path}")
    assert "--url is for a server: give one" in " ".join(both.stderr.split())
