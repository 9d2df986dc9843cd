"""The examples of docs/python.md run as they stand, in order, in an empty folder."""

import re
import shutil
from pathlib import Path

import pytest

import flowmo

PAGE = Path(__file__).parents[2] / "docs" / "python.md"


def test_examples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    examples = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(examples) == 3
    monkeypatch.chdir(tmp_path)
    shutil.copy(flowmo.photograph_paths()[0], "photo.jpg")
    namespace: dict[str, object] = {}
    for example in examples:
        exec(example, namespace)
    assert {path.name for path in tmp_path.iterdir()} == {"photo.jpg", "photo.flowmo", "photo.png"}
    assert namespace["same"] != namespace["encoded"]
