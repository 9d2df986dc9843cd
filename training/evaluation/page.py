"""A report as one HTML file, to be read and passed on: no scripts, no other files."""

import base64
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from flowmo.training.evaluation.shown import extremes
from flowmo.training.evaluation.store import Row

Shown = Mapping[str, Mapping[int, tuple[bytes, bytes]]]

# Key of a method's figures, heading, digits.
_COLUMNS = (
    ("bytes", "bytes a picture", 0),
    ("psnr", "PSNR (dB) ↑", 2),
    ("ssim", "SSIM ↑", 3),
    ("lpips", "LPIPS ↓", 4),
    ("rfid", "rFID ↓", 3),
    ("precision", "precision ↑", 3),
    ("recall", "recall ↑", 3),
    ("reference_fid", "FID to reference ↓", 3),
    ("reference_precision", "precision, reference ↑", 3),
    ("reference_recall", "recall, reference ↑", 3),
)

_STYLE = """
:root { color-scheme: light dark; --line: #d0d4da; --soft: #5b6470; --note: #fff4d6; }
@media (prefers-color-scheme: dark) {
  :root { --line: #3a4048; --soft: #a2abb6; --note: #3a3115; }
}
body {
  font: 16px/1.5 system-ui, sans-serif; max-width: 1100px; margin: 2rem auto; padding: 0 1rem;
}
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: .35rem .7rem; border-bottom: 1px solid var(--line); }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
th { font-weight: 600; vertical-align: bottom; }
figure { margin: 0; flex: 0 0 auto; }
figure img { display: block; width: 168px; height: 168px; border-radius: 3px; }
figcaption { font-size: .8rem; color: var(--soft); max-width: 168px; overflow-wrap: anywhere; }
.row { display: flex; gap: .7rem; margin: .6rem 0; overflow-x: auto; }
.note {
  background: var(--note); padding: .6rem .9rem; border-radius: 4px; margin: .5rem 0;
  overflow-wrap: anywhere;
}
.soft { color: var(--soft); }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .3rem 1rem; }
dt { font-weight: 600; } dd { margin: 0; overflow-wrap: anywhere; }
"""


def page(
    report: Mapping[str, Any], shown: Shown, rows: Mapping[str, Sequence[Row]], *, first: int
) -> str:
    """The whole page.

    Args:
        report: as ``report.json`` has it.
        shown: by method and number the original and what came, as WebP files.
        rows: figures of every picture by method.
        first: how many of the first pictures make the grid.
    """
    pictures = report["pictures"]
    source = pictures["source"]
    source = source if isinstance(source, str) else ", ".join(source)
    size = pictures["image_size"]
    parts = [
        f"<p>{pictures['count']} pictures, {size} × {size} pixels: {escape(source)}.</p>",
        *(f'<p class="note">{escape(caveat)}</p>' for caveat in report["caveats"]),
        "<h2>Figures</h2>",
        _figures(report["methods"]),
        soft(
            "↑ more is better, ↓ less is better; – was not computed. The figures of every picture "
            "are in pictures.csv."
        ),
        "<h2>The first pictures</h2>",
        soft(
            "Shown as lossy WebP of at most 256 pixels; the figures are those of the exact pixels."
        ),
        *_grid(shown, rows, first),
        "<h2>Worst and best by PSNR</h2>",
        *(_extremes(name, shown[name], each) for name, each in rows.items()),
        "<h2>Protocol</h2>",
        definitions(report["protocol"]),
        "<h2>Methods</h2>",
        definitions({name: _settings(m["method"]) for name, m in report["methods"].items()}),
        "<h2>Networks' weights</h2>",
        definitions(report["networks"]),
        "<h2>Environment</h2>",
        definitions(report["environment"]),
    ]
    return document(f"Evaluation of {', '.join(report['methods'])}", parts)


def document(title: str, parts: Sequence[str]) -> str:
    """A whole page of parts in HTML under a title."""
    body = "\n".join(parts)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>Evaluation</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        f"<h1>{escape(title)}</h1>\n{body}\n</body>\n</html>\n"
    )


def soft(text: str) -> str:
    """A paragraph that stands back."""
    return f'<p class="soft">{escape(text)}</p>'


def _figures(methods: Mapping[str, Mapping[str, Any]]) -> str:
    # A column that no method has a figure in is left out, unless every report has it.
    columns = [
        column
        for column in _COLUMNS
        if not column[0].startswith("reference")
        or any(method.get(column[0]) is not None for method in methods.values())
    ]
    head = "".join(f'<th scope="col">{escape(title)}</th>' for _, title, _ in columns)
    lines = []
    for name, method in methods.items():
        cells = "".join(
            f"<td>{rounded_text(method.get(key), digits)}</td>" for key, _, digits in columns
        )
        lines.append(f"<tr><td>{escape(name)}</td>{cells}</tr>")
    return (
        f'<div class="scroll"><table><thead><tr><th scope="col">method</th>{head}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def rounded_text(value: float | None, digits: int) -> str:
    """A figure, or a dash where there is none."""
    return "–" if value is None else f"{value:.{digits}f}"


def _grid(shown: Shown, rows: Mapping[str, Sequence[Row]], first: int) -> list[str]:
    by_number = {name: {row.number: row for row in each} for name, each in rows.items()}
    lines = []
    for number in range(first):
        having = [name for name in shown if number in shown[name]]
        if not having:
            continue
        row = by_number[having[0]][number]
        figures = [figure(shown[having[0]][number][0], f"{number}: {_short(row.name)}")]
        figures += [
            figure(shown[name][number][1], _caption(name, by_number[name][number]))
            for name in having
        ]
        lines.append(f'<div class="row">{"".join(figures)}</div>')
    return lines


def _extremes(method: str, shown: Mapping[int, tuple[bytes, bytes]], rows: Sequence[Row]) -> str:
    worst, best = extremes(rows)
    lines = []
    for title, chosen in (("worst", worst), ("best", best)):
        figures = []
        for row in chosen:
            original, came = shown[row.number]
            figures.append(figure(original, f"{row.number}: {_short(row.name)}"))
            figures.append(figure(came, _caption(title, row)))
        lines.append(f'<div class="row">{"".join(figures)}</div>')
    opened = " open" if method.startswith("flowmo") else ""
    return f"<details{opened}><summary>{escape(method)}</summary>{''.join(lines)}</details>"


def _caption(title: str, row: Row) -> str:
    size = "" if row.size is None else f", {row.size} B"
    return f"{title}: {rounded_text(row.psnr, 1)} dB{size}"


def _short(name: str) -> str:
    """The last part of where a picture is: ``/data/val.tar:n01/x.jpg`` is ``x.jpg``."""
    return name.rsplit(":", 1)[-1].rsplit("/", 1)[-1] or name.rstrip(":").rsplit("/", 1)[-1]


def figure(webp: bytes, caption: str) -> str:
    """A WebP file with a caption."""
    data = base64.b64encode(webp).decode("ascii")
    text = escape(caption)
    return (
        f'<figure><img alt="{text}" src="data:image/webp;base64,{data}">'
        f"<figcaption>{text}</figcaption></figure>"
    )


def _settings(values: Mapping[str, Any]) -> str:
    return "; ".join(f"{key}: {value}" for key, value in values.items())


def definitions(values: Mapping[str, Any]) -> str:
    """Names and what they stand for."""
    items = "".join(
        f"<dt>{escape(str(key))}</dt><dd>{escape(str(value))}</dd>" for key, value in values.items()
    )
    return f"<dl>{items}</dl>"
