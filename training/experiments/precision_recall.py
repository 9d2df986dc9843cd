"""What post-training does to precision and recall (supplement C.4).

Reconstructions of the validation pictures are compared with the validation pictures themselves and
with training pictures, which are not their originals.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flowmo.training.evaluation import EvaluationError, load_model
from flowmo.training.experiments.setup import Setup, plot, work_folder, write_result

BEFORE, AFTER = "before", "after"


def precision_recall(
    before: str,
    after: str,
    *,
    train: Sequence[str],
    setup: Setup,
    out: Path,
    train_limit: int | None = None,
) -> dict[str, Any] | None:
    """Precision and recall of two checkpoints against two sets of pictures.

    Args:
        before: checkpoint without post-training.
        after: checkpoint with it.
        train: training pictures, as in an evaluation.
        setup: how to measure; its pictures are the validation set.
        out: path without suffix.
        train_limit: most training pictures, evenly spaced.

    Returns:
        What OUT.json says; None in other ranks than 0.

    Raises:
        EvaluationError: the checkpoints are of different sizes, no training pictures were given, or
            the folder holds another experiment.
    """
    if not train:
        raise EvaluationError("precision-recall compares with training pictures: give --train")
    models = {
        name: load_model(checkpoint, device=setup.place, precision=setup.precision)
        for name, checkpoint in ((BEFORE, before), (AFTER, after))
    }
    sizes = {name: model.config.image_size for name, model in models.items()}
    if sizes[BEFORE] != sizes[AFTER]:
        raise EvaluationError(f"the checkpoints' images differ in size: {sizes}")
    networks = setup.networks()
    report = setup.evaluate(
        [setup.method(model, name=name) for name, model in models.items()],
        size=sizes[BEFORE],
        networks=networks,
        folder=work_folder(out),
        reference=setup.pictures(train, sizes[BEFORE], limit=train_limit),
    )
    if report is None:
        return None
    rows = {
        name: {
            "checkpoint": {BEFORE: before, AFTER: after}[name],
            "fingerprint": models[name].fingerprint,
            "train": _shares(method, "reference_"),
            "val": _shares(method, ""),
            **{key: method[key] for key in ("psnr", "lpips", "rfid")},
        }
        for name, method in report["methods"].items()
    }
    result = write_result(
        out,
        "precision-recall",
        "C.4",
        {
            "val_pictures": report["pictures"]["count"],
            "train_pictures": report["reference"]["count"],
            "models": rows,
            "caveats": report["caveats"],
        },
    )
    _draw(rows, out)
    return result


def _shares(method: Mapping[str, Any], prefix: str) -> dict[str, float | None]:
    return {key: method[prefix + key] for key in ("precision", "recall")}


def _draw(rows: Mapping[str, Mapping[str, Any]], out: Path) -> None:
    """An arrow from before to after for each set of pictures."""
    with plot(out, x="recall", y="precision") as axis:
        for which in ("train", "val"):
            points = [(rows[n][which]["recall"], rows[n][which]["precision"]) for n in rows]
            if any(None in point for point in points):
                continue
            across, up = zip(*points, strict=True)
            axis.plot(across, up, marker="o", label=f"against {which} pictures")
            axis.annotate(AFTER, points[1], fontsize=8)
        if axis.lines:
            axis.legend(fontsize=8)
        else:
            axis.text(0.5, 0.5, "no figures: the weights of their network are missing", ha="center")
