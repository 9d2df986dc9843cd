"""The table of formats is what the code, the interface and the documents say."""

import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from flowmo.cli.files import IMAGE_SUFFIXES as COMMAND_LINE
from flowmo.client import Client
from flowmo.imaging.formats import ACCEPTED_FORMATS, INPUT_FORMATS, MEDIA_TYPES, SUFFIXES
from flowmo.training.data.sources.suffixes import IMAGE_SUFFIXES as TRAINING

ROOT = Path(__file__).parents[2]


def test_the_table_agrees_with_pillow() -> None:
    Image.init()
    for format in INPUT_FORMATS:
        assert format.pillow in Image.OPEN
        assert Image.MIME[format.pillow] == format.media_type
        for suffix in format.suffixes:
            assert Image.EXTENSION[suffix] == format.pillow


def test_everybody_searches_for_the_same_files() -> None:
    assert set(COMMAND_LINE) == set(TRAINING) == set(SUFFIXES)


def test_documents_name_every_format() -> None:
    assert ACCEPTED_FORMATS == "JPEG, PNG, WebP, AVIF, GIF, BMP or TIFF"
    interface = (ROOT / "docs/api.md").read_text(encoding="utf-8")
    for format, media_type in zip(INPUT_FORMATS, MEDIA_TYPES, strict=True):
        assert f"`{media_type}`" in interface
        assert format.label in interface
    assert ACCEPTED_FORMATS in (Client.tokenize.__doc__ or "")


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("formats", ["PIL", "numpy", "torch"]),
        *((name, ["torch"]) for name in ("fit", "levels", "quality", "reading", "writing")),
    ],
)
def test_what_is_not_needed_is_not_imported(module: str, absent: list[str]) -> None:
    program = (
        f"import sys, flowmo.imaging.{module}\n"
        f"print([name for name in {absent!r} if name in sys.modules])"
    )
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == "[]"
