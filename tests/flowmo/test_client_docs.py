"""The examples of docs/client.md run as they stand."""

import json
import re
from pathlib import Path

import pytest

from flowmo.cli.server_process import ServerProcess
from flowmo.client import Client
from tests.flowmo.scripted import Reply, problem_document, script
from tests.service.pictures import as_file, gradient

PAGE = Path(__file__).parents[2] / "docs" / "client.md"
URL = "http://127.0.0.1:8000"


def test_examples(
    server: ServerProcess,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    examples = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    *plain, many = examples
    assert len(plain) == 5
    monkeypatch.chdir(tmp_path)
    photograph = as_file(gradient(), "JPEG")
    (tmp_path / "photo.jpg").write_bytes(photograph)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "one.jpg").write_bytes(photograph)
    namespace: dict[str, object] = {}
    for example in plain:
        exec(example.replace(URL, server.url), namespace)
    different = namespace["different"]
    assert isinstance(different, list)
    assert len(set(different)) == 4
    pictures = {path.name for path in tmp_path.glob("*.png")}
    assert pictures == {"photo.png", "preview-5.png", "preview-10.png", "final.png"}
    told = capsys.readouterr().out
    assert "unsupported-image" in told
    assert "25/25" in told

    item = {"status": 415, "problem": problem_document(415, "unsupported-image")}
    body = json.dumps({"succeeded": 0, "failed": 1, "items": [item]}).encode()
    with script(Reply(200, body)) as scripted, Client(scripted.url) as client:
        exec(many, namespace | {"client": client})
    assert capsys.readouterr().out == "unsupported-image Send it again.\n"
