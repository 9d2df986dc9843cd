"""The folders at the root are imported as parts of flowmo, and the linter says so."""

import ast
import contextlib
import subprocess
import sys
import tomllib
from collections.abc import Iterator

import pytest

from tests.packaging.environments import ROOT

CONFIGURATION = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
BANNED = set(CONFIGURATION["tool"]["ruff"]["lint"]["flake8-tidy-imports"]["banned-api"])


def test_every_linked_package_is_banned_as_a_name_of_its_own() -> None:
    links = [path for path in (ROOT / "flowmo").iterdir() if path.is_symlink()]
    assert {link.name for link in links if (link / "__init__.py").is_file()} == BANNED


@pytest.mark.parametrize("statement", ["import {}", "from {} import x", "import {}.x as x"])
@pytest.mark.parametrize("name", sorted(BANNED))
def test_the_linter_refuses_the_name(name: str, statement: str) -> None:
    ruff = [sys.executable, "-m", "ruff", "check", "--select=TID251"]
    found = subprocess.run(
        [*ruff, "--stdin-filename=benchmarks/some.py", "-"],
        input=statement.format(name) + "\n",
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 1
    assert "TID251" in found.stdout
    assert f"import flowmo.{name}" in found.stdout


def _imported(tree: ast.AST) -> Iterator[str]:
    """Top-level names of what a module imports, in code that it has as text, too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module.partition(".")[0]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield from _imported_in_text(node.value)


def _imported_in_text(text: str) -> Iterator[str]:
    """The same of a text, which is code if it is long enough to import something and parses."""
    if "import" in text:
        with contextlib.suppress(SyntaxError):
            yield from _imported(ast.parse(text))


def test_no_module_imports_a_folder_of_the_root_by_its_own_name() -> None:
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.py"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    paths = [ROOT / line for line in listed.stdout.splitlines() if not line.startswith("tests/")]
    assert len(paths) > 200
    wrong = {
        path.relative_to(ROOT): names
        for path in paths
        if path.exists()
        and (names := BANNED & set(_imported(ast.parse(path.read_text(encoding="utf-8")))))
    }
    assert not wrong


def test_an_import_inside_a_string_is_seen() -> None:
    code = 'run(["python", "-c", "import sys\\nfrom service import cluster"])'
    assert set(_imported(ast.parse(code))) == {"sys", "service"}
