"""The walk of one picture through the files, as docs/engine.md has it."""

import asyncio
import re
import sys
import threading
from pathlib import Path
from types import FrameType

from flowmo.service.loader import load_runner
from tests.service.fixtures import cpu
from tests.service.pictures import as_file, gradient
from tests.service.runners import client_of

ROOT = Path(__file__).parents[2]
_ROW = re.compile(r"^\| (\d?) ?\| `([\w./]+)` \| `([\w.]+)` \|", re.MULTILINE)


def documented() -> list[tuple[str, str, str]]:
    """The number, file (or folder) and function of each row of the table."""
    text = (ROOT / "docs" / "engine.md").read_text(encoding="utf-8")
    return _ROW.findall(text)


class Walk:
    """Every function of ours that runs, in the order of the calls."""

    def __init__(self) -> None:
        self.on = False
        self.calls: list[tuple[str, str]] = []

    def profile(self, frame: FrameType, event: str, _: object) -> None:
        """See :func:`sys.setprofile`."""
        if self.on and event == "call":
            path = Path(frame.f_code.co_filename).resolve()
            if path.is_relative_to(ROOT):
                self.calls.append((str(path.relative_to(ROOT)), frame.f_code.co_qualname))


def test_a_picture_walks_as_documented(checkpoint: Path) -> None:
    rows = documented()
    assert [number for number, _, _ in rows if number] == list("123456")
    runner, walk = load_runner(cpu(checkpoint)), Walk()

    async def main() -> None:
        async with client_of(runner) as client:
            walk.on = True
            raw = {"Content-Type": "image/png"}
            answer = await client.post("/v1/tokenize", content=as_file(gradient()), headers=raw)
            walk.on = False
        assert answer.status_code == 200

    threading.setprofile(walk.profile)
    sys.setprofile(walk.profile)
    try:
        asyncio.run(main())
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    calls = iter(walk.calls)
    for _, file, function in rows:
        # Each is found after the one before it, or the walk is another one.
        found = any(path.startswith(file) and name == function for path, name in calls)
        assert found, f"{file}: {function} did not run, or not where the table has it"
