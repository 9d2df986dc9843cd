"""The reference says something of every public name, once."""

import re
from collections import Counter
from pathlib import Path

import flowmo

REFERENCE = Path(__file__).resolve().parents[2] / "docs" / "reference"


def test_every_public_name_has_one_place() -> None:
    pages = [page.read_text(encoding="utf-8") for page in REFERENCE.glob("*.md")]
    names = Counter(name for page in pages for name in re.findall(r"(?m)^::: flowmo\.(\w+)$", page))
    assert names == Counter(set(flowmo.__all__) - {"__version__"})
