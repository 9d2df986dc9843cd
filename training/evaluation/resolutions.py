"""One evaluation a resolution, and a table of all (Table 3 of the supplement)."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from flowmo.training.evaluation.errors import EvaluationError
from flowmo.training.json_report import write_json

COLUMNS = ("rfid", "psnr", "ssim", "lpips", "bytes")
TABLE = "resolutions.json"


def check_resolutions(sides: Sequence[int]) -> None:
    """Refuse resolutions of which there can be no table.

    Args:
        sides: The sides of the pictures in pixels.

    Raises:
        EvaluationError: There are none, one comes twice, or one is too small for the metrics.
    """
    if not sides or len(set(sides)) < len(sides) or min(sides) < 16:
        raise EvaluationError(
            f"resolutions are sides in pixels of at least 16, each once, as 256,512; got "
            f"{','.join(map(str, sides)) or 'none'}"
        )


def evaluate_resolutions(
    evaluate: Callable[[int, Path], Mapping[str, Any] | None], sides: Sequence[int], out: Path
) -> dict[str, Any] | None:
    """Evaluate at each resolution in a folder of its own, and write ``resolutions.json``.

    Args:
        evaluate: Evaluates squares of so many pixels a side in a folder; None in other ranks
            than 0.
        sides: The resolutions, in pixels.
        out: The folder that those of the resolutions are made in, called ``256``, ``512`` ...

    Returns:
        For each resolution and method rFID, PSNR, SSIM, LPIPS, bytes a picture and bits a pixel;
        None in other ranks than 0.

    Raises:
        EvaluationError: As :func:`check_resolutions`, or what ``evaluate`` raises.
    """
    check_resolutions(sides)
    rows: dict[str, Any] = {}
    for side in sides:
        report = evaluate(side, out / str(side))
        if report is not None:
            rows[str(side)] = {
                name: {column: method[column] for column in COLUMNS}
                | {"bits_a_pixel": _bits(method["bytes"], side)}
                for name, method in report["methods"].items()
            }
    if not rows:
        return None
    table = {"resolutions": rows}
    write_json(out / TABLE, table)
    return table


def _bits(size: float | None, side: int) -> float | None:
    return None if size is None else 8 * size / side**2
