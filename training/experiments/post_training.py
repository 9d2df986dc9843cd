"""What post-training does to several architectures (supplement C.5, Table 5 of the paper)."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flowmo.training.evaluation import EvaluationError, load_model
from flowmo.training.experiments.setup import Setup, plot, work_folder, write_result

BEFORE, AFTER = "before", "after"
FIGURES = ("rfid", "psnr", "lpips")

PAPER: dict[str, dict[str, dict[str, float]]] = {
    "fewer-params": {
        BEFORE: {"rfid": 2.02, "psnr": 21.32, "lpips": 0.143},
        AFTER: {"rfid": 1.21, "psnr": 22.20, "lpips": 0.120},
    },
    "continuous": {
        BEFORE: {"rfid": 0.74, "psnr": 25.65, "lpips": 0.064},
        AFTER: {"rfid": 0.65, "psnr": 26.61, "lpips": 0.054},
    },
}
"""The table of C.5, by recipe."""


def post_training(
    pairs: Mapping[str, tuple[str, str]], *, setup: Setup, out: Path
) -> dict[str, Any] | None:
    """Evaluate checkpoints before and after stage 1B.

    Args:
        pairs: The checkpoints before and after, by any name; those of :data:`PAPER` are shown
            beside its figures.
        setup: How to measure.
        out: Path without suffix.

    Returns:
        What OUT.json says; None in other ranks than 0.

    Raises:
        EvaluationError: There is nothing to do, or the folder holds another experiment.
    """
    if not pairs:
        raise EvaluationError("post-training compares checkpoints: name NAME=BEFORE,AFTER")
    networks = setup.networks()
    models: dict[str, dict[str, Any]] = {}
    caveats: dict[str, None] = {}
    for name, checkpoints in pairs.items():
        halves: dict[str, Any] = {"paper": PAPER.get(name)}
        for which, checkpoint in zip((BEFORE, AFTER), checkpoints, strict=True):
            model = load_model(checkpoint, device=setup.place, precision=setup.precision)
            report = setup.evaluate(
                [setup.method(model)],
                size=model.config.image_size,
                networks=networks,
                folder=work_folder(out) / f"{name}-{which}",
            )
            if report is None:
                continue
            caveats |= dict.fromkeys(report["caveats"])
            found = report["methods"]["flowmo"]
            halves[which] = {
                "checkpoint": checkpoint,
                "fingerprint": model.fingerprint,
                **{key: found[key] for key in ("pictures", *FIGURES)},
            }
        models[name] = halves
    if setup.ranks.rank:
        return None
    result = write_result(out, "post-training", "C.5", {"models": models, "caveats": list(caveats)})
    _draw(models, out)
    return result


def table(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Rows for people: a model before and after, and the paper's figures."""
    rows = []
    for name, halves in result["models"].items():
        for which in (BEFORE, AFTER):
            paper = (halves["paper"] or {}).get(which, {})
            rows.append(
                {
                    "model": f"{name} {which}",
                    **{key: halves[which][key] for key in FIGURES},
                    **{f"paper {key}": paper.get(key) for key in FIGURES},
                }
            )
    return rows


def _draw(models: Mapping[str, Mapping[str, Any]], out: Path) -> None:
    """An arrow a model from before to after; LPIPS where there is no rFID."""
    found = [halves[which]["rfid"] for halves in models.values() for which in (BEFORE, AFTER)]
    key = "lpips" if None in found else "rfid"
    with plot(out, x="PSNR (dB)", y={"rfid": "rFID", "lpips": "LPIPS"}[key]) as axis:
        for name, halves in models.items():
            lines: Sequence[tuple[str, Mapping[str, Any] | None]] = (
                (name, halves),
                (f"{name}, paper", halves["paper"]),
            )
            for label, of in lines:
                points = [(of[w]["psnr"], of[w][key]) for w in (BEFORE, AFTER)] if of else []
                if points and not any(None in point for point in points):
                    axis.plot(*zip(*points, strict=True), marker="o", label=label)
                    axis.annotate(AFTER, points[1], fontsize=8)
        if axis.lines:
            axis.legend(fontsize=8)
        else:
            axis.text(0.5, 0.5, "no figures: the networks' weights are missing", ha="center")
