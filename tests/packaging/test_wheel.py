"""The wheel beside the core's libraries alone, in a folder full of the user's own names."""

import subprocess
from pathlib import Path

import httpx
import pytest
from PIL import Image

from flowmo.cli.server_process import ANNOUNCEMENT
from flowmo.model.container import Container
from flowmo.photographs import photograph_paths
from tests.packaging.environments import Environment, stranger_variables

# A user's own files beside the script: each ends whatever imports it.
THEIRS = (
    "benchmarks/__init__.py",
    "checkpoints/__init__.py",
    "deploy/__init__.py",
    "model.py",
    "service/__init__.py",
    "tools.py",
    "training.py",
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in THEIRS:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"raise SystemExit('imported the {name} of the user')\n")
    return tmp_path


def test_only_the_cores_libraries_are_there(environment: Environment) -> None:
    extras = {"hatchling", "matplotlib", "onnx", "pytest", "ray", "tensorboard", "torchvision"}
    assert not extras & environment.libraries
    assert {"fastapi", "httpx", "torch", "typer"} <= environment.libraries


def test_a_script_imports_the_installed_package(environment: Environment, folder: Path) -> None:
    script = folder / "script.py"
    script.write_text(
        "import flowmo\n"
        "from flowmo import Client, FlowMo, InferenceModel, photograph_paths\n"
        "import flowmo.deploy, flowmo.model, flowmo.service.settings, flowmo.training\n"
        "print(flowmo.__file__)\n"
        "print(all(path.is_file() for path in photograph_paths()))\n"
    )
    where, photographs = environment.run("python", "script.py", cwd=folder).splitlines()
    assert Path(where) == environment.site_packages / "flowmo" / "__init__.py"
    assert photographs == "True"


@pytest.mark.parametrize("command", [["flowmo"], ["python", "-m", "flowmo"]])
def test_the_command_shows_its_help(
    environment: Environment, folder: Path, command: list[str]
) -> None:
    assert "tokenize" in environment.run(*command, "--help", cwd=folder)


def test_the_demo_runs_with_no_option(environment: Environment, folder: Path) -> None:
    output = environment.run("flowmo", "demo", cwd=folder)
    assert "tiny" in output
    written = {path.name for path in (folder / "demo-output").iterdir()}
    assert "comparison.png" in written
    assert {f"{path.name}.flowmo.png" for path in photograph_paths()} <= written


def test_the_server_answers_with_no_option(environment: Environment, folder: Path) -> None:
    with subprocess.Popen(
        [environment.bin / "flowmo", "serve"],
        cwd=folder,
        env={**stranger_variables(), "FLOWMO_PORT": "0"},
        stdout=subprocess.PIPE,
        text=True,
    ) as serve:
        try:
            assert serve.stdout is not None
            line = next(line for line in serve.stdout if ANNOUNCEMENT in line)
            url = line.split(ANNOUNCEMENT)[1].split()[0]
            answer = httpx.post(
                url + "/v1/tokenize",
                content=photograph_paths()[0].read_bytes(),
                headers={"Content-Type": "image/png", "Accept": "application/vnd.flowmo"},
                timeout=60.0,
            )
            assert answer.status_code == 200, answer.text
            _assert_of_the_whole_photograph(answer.content)
            for part in ("", "docs", "playground/page.js", "playground/samples/rocket.webp"):
                assert httpx.get(f"{url}/{part}").status_code == 200
        finally:
            serve.terminate()


def test_files_are_tokenized_with_no_option(environment: Environment, folder: Path) -> None:
    photograph = str(photograph_paths()[0])
    environment.run("flowmo", "tokenize", photograph, "--out", "tokens", cwd=folder)
    (written,) = (folder / "tokens").iterdir()
    _assert_of_the_whole_photograph(written.read_bytes())


def _assert_of_the_whole_photograph(container: bytes) -> None:
    read = Container.from_bytes(container)
    with Image.open(photograph_paths()[0]) as photograph:
        assert (read.width, read.height) == photograph.size
    assert len(read.tokens.pack()) == 576 * read.tokens.tile_count
