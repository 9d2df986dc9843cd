"""Several resolutions and data sets (supplement C.2, Table 3)."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flowmo.model.tiling import DEFAULT_OVERLAP_SHARE
from flowmo.training.evaluation import (
    EvaluationError,
    Method,
    check_resolutions,
    checkpoint_methods,
    compared,
    load_model,
)
from flowmo.training.experiments.setup import Setup, plot, work_folder, write_result

SIDES = (256, 512)

PAPER: dict[str, dict[str, dict[int, float]]] = {
    "imagenet": {"FlowMo-Hi": {256: 0.55, 512: 0.30}, "Cosmos DI-8x8": {256: 0.87, 512: 0.39}},
    "openimages": {"FlowMo-Hi": {256: 0.69, 512: 0.40}, "Cosmos DI-8x8": {256: 0.85, 512: 0.52}},
    "food101": {"FlowMo-Hi": {256: 1.39, 512: 0.68}, "Cosmos DI-8x8": {256: 1.05, 512: 0.94}},
}
"""rFID of Table 3, by data set and side."""


def resolutions(
    checkpoint: str,
    data: Mapping[str, Sequence[str]],
    *,
    setup: Setup,
    out: Path,
    sides: Sequence[int] = SIDES,
    against: Sequence[str] = (),
    overlap: float = DEFAULT_OVERLAP_SHARE,
) -> dict[str, Any] | None:
    """Evaluate a checkpoint, and others beside it, at each resolution on each data set.

    Args:
        checkpoint: Pictures of other sizes than its own are made of tiles.
        data: Pictures by the data set's name, as in an evaluation; those of :data:`PAPER` are shown
            beside its figures. ``setup.data`` is not used.
        setup: How to measure.
        out: Path without suffix.
        sides: The resolutions, in pixels.
        against: Others, as ``flowmo evaluate --against`` has them, but for codecs.
        overlap: The share of a tile's side that neighbours have in common at least.

    Returns:
        What OUT.json says; None in other ranks than 0.

    Raises:
        EvaluationError: There is no data set, resolutions make no table, or the folder holds
            another experiment.
    """
    if not data:
        raise EvaluationError("resolutions needs data sets: name NAME=IMAGES")
    check_resolutions(sides)
    model = load_model(checkpoint, device=setup.place, precision=setup.precision)
    others, _ = compared(against, None, device=setup.place)
    networks = setup.networks()
    rows: list[dict[str, Any]] = []
    caveats: dict[str, None] = {}
    for name, paths in data.items():
        for side in sides:
            own = checkpoint_methods(
                model, [model.config.sampler], side=side, overlap=overlap, protocol=setup.protocol
            )
            methods: list[Method] = [*own, *others]
            report = setup.evaluate(
                methods,
                size=side,
                networks=networks,
                folder=work_folder(out) / f"{name}-{side}",
                data=paths,
            )
            if report is None:
                continue
            caveats |= dict.fromkeys(report["caveats"])
            for method, found in report["methods"].items():
                rows.append(
                    {
                        "data": name,
                        "side": side,
                        "method": method,
                        **{k: found[k] for k in ("pictures", "rfid", "psnr", "ssim", "lpips")},
                        "bits_a_pixel": None
                        if found["bytes"] is None
                        else 8 * found["bytes"] / side**2,
                    }
                )
    if setup.ranks.rank:
        return None
    result = write_result(
        out,
        "resolutions",
        "Table 3",
        {
            "checkpoint": checkpoint,
            "fingerprint": model.fingerprint,
            "rows": rows,
            "paper_rfid": {name: PAPER[name] for name in data if name in PAPER},
            "caveats": list(caveats),
        },
    )
    _draw(result, out)
    return result


def _draw(result: Mapping[str, Any], out: Path) -> None:
    """rFID, or PSNR where there is none, against the side; a line a data set and method."""
    rows = result["rows"]
    key = "psnr" if any(row["rfid"] is None for row in rows) else "rfid"
    lines: dict[str, list[tuple[int, float]]] = {}
    for row in rows:
        lines.setdefault(f"{row['data']}, {row['method']}", []).append((row["side"], row[key]))
    with plot(out, x="pixels a side", y={"psnr": "PSNR (dB)", "rfid": "rFID"}[key]) as axis:
        for label, line in lines.items():
            axis.plot(*zip(*sorted(line), strict=True), marker="o", label=label)
        for name, methods in result["paper_rfid"].items() if key == "rfid" else ():
            for method, figures in methods.items():
                points = sorted((int(side), value) for side, value in figures.items())
                axis.plot(
                    *zip(*points, strict=True), "s:", alpha=0.5, label=f"{name}, {method}, paper"
                )
        axis.legend(fontsize=7)
