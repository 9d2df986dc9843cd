"""The page of a report: whole, by itself, and escaped."""

from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from flowmo.cli.app import app
from flowmo.training.evaluation import CheckpointMethod, Evaluation, MeanColour, evaluate
from flowmo.training.evaluation.report import merge
from flowmo.training.json_report import rounded

TINY = Path(__file__).resolve().parents[3] / "checkpoints" / "tiny"
_VOID = {"meta", "img", "br", "link"}


class Reader(HTMLParser):
    """Tags, pictures and text; fails on tags that do not nest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.pictures: list[str] = []
        self.text = ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag == "img":
            self.pictures.append(dict(attrs)["src"] or "")
        if tag not in _VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_a_page_has_all_and_needs_nothing(
    evaluation: Callable[..., Evaluation], micro: Any, tmp_path: Path
) -> None:
    names = "flowmo <b>&amp;", "flowmo two"
    methods = [CheckpointMethod(micro, name=names[0]), CheckpointMethod(micro, name=names[1])]
    report = evaluate(evaluation(methods=[*methods, MeanColour()]), tmp_path, caveats=["1 < 2"])
    assert report is not None
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    found = Reader(page)
    assert not {"script", "link", "b"} & set(found.tags)
    assert all(picture.startswith("data:image/webp;base64,") for picture in found.pictures)
    # Two of the grid with three methods and the original; of each method 3 worst and 3 best.
    assert len(found.pictures) == 2 * 4 + 3 * 6 * 2
    assert names[0] in found.text
    assert "1 < 2" in found.text
    assert f"{report['methods']['mean-colour']['psnr']:.2f}" in found.text
    assert report["protocol"]["rounding"] in found.text
    assert "prefers-color-scheme: dark" in found.text
    lines = (tmp_path / "pictures.csv").read_text().splitlines()
    assert len(lines) == 1 + 3 * 10
    again = merge(tmp_path)
    assert rounded(again) == rounded(report)


def test_the_demo_models_figures_come_again(tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = ["evaluate", str(TINY), f"--out={out}", "--steps=1,4", "-a", "mean-colour"]
    without = ["--inception=none", "--vgg=none", "--lpips=none"]
    result = CliRunner().invoke(app, [*arguments, *without])
    assert result.exit_code == 0, result.output
    lines = {line[:32].strip(): line[32:].split() for line in result.stdout.splitlines()}
    four, one = lines["flowmo 4 steps, guidance 1"], lines["flowmo 1 steps, guidance 1"]
    # As the committed report of benchmarks.reconstruction has it, up to the noise drawn.
    assert float(four[0]) == pytest.approx(21.2, abs=0.3)
    assert float(four[1]) == pytest.approx(0.57, abs=0.02)
    assert float(one[0]) > float(four[0])
    assert four[2:] == ["-", "-", "-", "-", "576"]
    assert "note:" not in result.stderr  # nothing that was asked for is missing
    merged = CliRunner().invoke(app, ["evaluate", f"--merge={out}"])
    assert merged.stdout == result.stdout
    refused = CliRunner().invoke(app, [*arguments, *without, "--batch=8"])
    assert refused.exit_code == 1
    assert "plan.batch was 16 and is now 8" in refused.stderr


def test_the_command_says_what_is_missing(tmp_path: Path) -> None:
    for arguments, message in (
        (["evaluate", str(TINY)], "--out is needed"),
        (["evaluate", f"--out={tmp_path}"], "--size says how large"),
    ):
        result = CliRunner().invoke(app, arguments)
        assert (result.exit_code, message in result.stderr) == (2, True), result.output
    wrong = CliRunner().invoke(app, ["evaluate", str(TINY), f"--out={tmp_path}", "--steps=one"])
    assert (wrong.exit_code, "--steps takes numbers" in wrong.stderr) == (1, True)
