"""README's blocks, run in their order in an empty folder, with only what they themselves make."""

import os
import re
import shutil
import socket
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image

from flowmo.model.container import Container

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
_FENCE = re.compile(r"^```(?P<language>[^\n]*)\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class Block:
    language: str
    code: str


BLOCKS = [Block(match["language"], match["code"]) for match in _FENCE.finditer(README)]


def test_every_block_is_of_a_kind_that_a_test_runs() -> None:
    assert {block.language for block in BLOCKS} == {"sh", "python", "sh hub"}
    # Nothing that looks like a command escapes by standing in an indented block.
    assert not re.search(r"(?m)^ {4}(\$ )?(flowmo|make|pip|curl|python|\.venv)\b", README)


def test_the_clone_comes_first() -> None:
    assert BLOCKS[0].code.splitlines()[0].startswith("git clone")
    assert BLOCKS[0].code.splitlines()[2:] == ["make demo", "make test"]
    assert "pip install" in BLOCKS[1].code


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Empty but for the repository, which stands where its address would."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    folder = tmp_path / "folder"
    repository = folder / "REPOSITORY"
    for name in filter(None, listed.stdout.split("\0")):
        if os.path.lexists(ROOT / name):
            (repository / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, repository / name, follow_symlinks=False)
    git = ["git", "-c", "user.name=test", "-c", "user.email=test@localhost"]
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-q", "-m", "As it is now"]):
        subprocess.run([*git, *command], cwd=repository, check=True)
    return folder


def _variables(libraries: Path, port: int) -> dict[str, str]:
    """Variables for which pip installs the project alone, beside the libraries that are here."""
    site = Path(sysconfig.get_paths()["purelib"])
    (libraries / "linked").mkdir(parents=True)
    for path in site.iterdir():
        if path.suffix != ".pth" and "flowmo" not in path.name:
            (libraries / "linked" / path.name).symlink_to(path)
    # The libraries come last, as site-packages would: what is installed in a block wins.
    (libraries / "sitecustomize.py").write_text(
        f"import runpy, sys\n"
        f"sys.path.append({str(libraries / 'linked')!r})\n"
        f"runpy.run_path({str(ROOT / 'tests' / 'site' / 'sitecustomize.py')!r})\n"
    )
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")}
    return {
        **kept,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(libraries),
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_NO_INDEX": "1",
        "PIP_NO_DEPS": "1",
        "PIP_NO_BUILD_ISOLATION": "0",  # pip's way to say yes
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "FLOWMO_PORT": str(port),
        # Of the tests, those of one file: this one is among them.
        "PYTEST_ADDOPTS": "tests/test_layout.py",
        "WORKERS": "0",
    }


def test_the_blocks_run_in_order(folder: Path, tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    lines = ["set -euo pipefail", "trap 'kill $(jobs -p) || true' EXIT"]
    for number, block in enumerate(BLOCKS):
        code = block.code.replace("127.0.0.1:8000", f"127.0.0.1:{port}")
        if block.language == "sh":
            lines += [f"echo '--- block {number}'", code]
        elif block.language == "python":
            script = tmp_path / f"block{number}.py"
            script.write_text(code)
            lines += [f"echo '--- block {number}'", f"python {script}"]
    with (tmp_path / "output").open("w+") as output:
        ended = subprocess.run(
            ["bash", "-c", "\n".join(lines)],
            cwd=folder,
            env=_variables(tmp_path / "libraries", port),
            stdout=output,
            stderr=subprocess.STDOUT,
            check=False,
        )
        output.seek(0)
        assert ended.returncode == 0, output.read()

    assert (folder / "flowmo-serve" / "demo-output" / "comparison.png").is_file()
    for name in ("photo.jpg.flowmo", "photo.flowmo"):
        container = Container.from_bytes((folder / name).read_bytes())
        assert (container.width, container.height) == (640, 427)
        assert len(container.tokens.pack()) == 24 * 576
    for name in (
        "photo.jpg.flowmo.png",
        "decoded.png",
        "again.png",
        "served.png",
        "from-python.png",
    ):
        with Image.open(folder / name) as image:
            assert image.size == (640, 427)


def test_the_block_for_the_hub_names_options_that_there_are() -> None:
    commands = [
        line for block in BLOCKS if block.language == "sh hub" for line in block.code.splitlines()
    ]
    assert commands
    for command in commands:
        program, name, *arguments = command.split()
        assert program == "flowmo"
        shown = subprocess.run(
            [sys.executable, "-m", "flowmo", name, "--help"],
            env={**os.environ, "COLUMNS": "200"},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for option in (argument for argument in arguments if argument.startswith("--")):
            assert option in shown
