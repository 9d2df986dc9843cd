"""What documents and comments point to is there."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DECISIONS = ROOT / "docs" / "decisions"
_FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\((?P<target>[^)\s]+)\)")


def _tracked(*patterns: str) -> list[Path]:
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", *patterns]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return [path for name in listed.stdout.splitlines() if (path := ROOT / name).is_file()]


def _anchors(text: str) -> set[str]:
    """The names that a page's headings get on the web: lower case, dashes, no punctuation."""
    headings = re.findall(r"(?m)^#+ (.+)$", _FENCED.sub("", text))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def _broken(page: Path) -> Iterator[str]:
    for match in _LINK.finditer(_FENCED.sub("", page.read_text(encoding="utf-8"))):
        if re.match(r"[a-z]+:", match["target"]):
            continue
        name, _, anchor = match["target"].partition("#")
        target = (page.parent / name) if name else page
        if not target.exists():
            yield f"{match['target']}: no such file"
        elif anchor and anchor not in _anchors(target.read_text(encoding="utf-8")):
            yield f"{match['target']}: no such heading"


PAGES = _tracked("*.md")


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def test_links_lead_somewhere(page: Path) -> None:
    assert not list(_broken(page))


def test_files_that_pages_name_are_there() -> None:
    folders = "|".join(sorted(path.name for path in ROOT.iterdir() if path.is_dir()))
    quoted = re.compile(rf"`((?:{folders})/[\w./-]+)`")
    named = {
        (str(page.relative_to(ROOT)), name)
        for page in PAGES
        if page.name != "CHANGELOG.md"  # it speaks of what was
        for name in quoted.findall(page.read_text(encoding="utf-8"))
    }
    assert len(named) > 50
    assert {(page, name) for page, name in named if not (ROOT / name).exists()} == set()


def test_a_broken_link_is_seen(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# A title\n\n[a](none.md) [b](#a-title) [c](#another)\n")
    assert list(_broken(page)) == ["none.md: no such file", "#another: no such heading"]


def test_every_decision_is_listed_under_its_title() -> None:
    listed = re.findall(
        r"(?m)^\| \[(\d{4})\]\((\S+)\) \| (.+) \|$", (DECISIONS / "README.md").read_text()
    )
    pages = sorted(DECISIONS.glob("[0-9]*.md"))
    titles = [page.read_text(encoding="utf-8").partition("\n")[0] for page in pages]
    assert [f"# {number}: {title}" for number, _, title in listed] == titles
    assert [name for _, name, _ in listed] == [page.name for page in pages]


def test_decisions_that_code_names_are_there() -> None:
    numbers = {page.name[:4] for page in DECISIONS.glob("[0-9]*.md")}
    patterns = ("*.py", "*.toml", "*.yml", "*.yaml", "*.json", "*.md", "Dockerfile", "Makefile")
    named = {
        (str(path.relative_to(ROOT)), number)
        for path in _tracked(*patterns)
        for number in re.findall(
            r"(?:decisions/|[Dd]ecision )(\d{4})", path.read_text(encoding="utf-8")
        )
    }
    assert len(named) > 10
    assert {(path, number) for path, number in named if number not in numbers} == set()
