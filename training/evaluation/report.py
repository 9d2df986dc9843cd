"""From an evaluation's files to its report: means, distances of features, caveats."""

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flowmo.model.files import write_file
from flowmo.training.environment import environment
from flowmo.training.evaluation.distances import frechet, precision_recall, statistics
from flowmo.training.evaluation.errors import EvaluationError
from flowmo.training.evaluation.moments import Moments, Statistics
from flowmo.training.evaluation.page import page
from flowmo.training.evaluation.protocol import (
    FID_PICTURES,
    INCEPTION,
    Protocol,
    find_protocol,
)
from flowmo.training.evaluation.reference import read_reference
from flowmo.training.evaluation.shown import extremes
from flowmo.training.evaluation.store import Row, ShardResult, Store
from flowmo.training.json_report import write_json
from flowmo.training.perceptual.weights import NONE, RANDOM

ORIGINALS = "original"
FORMAT = "flowmo-evaluation/1"

# What is left out without a network or library, and the option that gives a network's weights.
_NEEDED_FOR = {
    "inception": ("rFID", "--inception"),
    "vgg16": ("precision and recall", "--vgg"),
    "lpips": ("LPIPS", "--lpips"),
    "ssim": ("SSIM", "which torchmetrics computes"),
}


def merge(out: Path) -> dict[str, Any]:
    """Write ``report.json``, ``report.html`` and ``pictures.csv`` of a finished evaluation.

    Args:
        out: its folder.

    Returns:
        What ``report.json`` says, unrounded.

    Raises:
        EvaluationError: files are missing, or it is no folder of an evaluation.
    """
    store = Store(out)
    settings, notes = store.settings(), store.notes()
    protocol = find_protocol(str(settings["protocol"]).partition(" ")[0])
    originals = _read(store, ORIGINALS, settings["pictures"]["count"])
    sets = {"": _Set(originals, fid=protocol.fid)}
    report: dict[str, Any] = {
        "format": FORMAT,
        "pictures": settings["pictures"] | {"unreadable": originals.unreadable},
        "reference": settings["reference"],
        "protocol": {"name": protocol.name, **protocol.text, "batch": settings["plan"]["batch"]},
        "networks": settings["networks"],
        "missing": notes["missing"],
        "methods": {},
    }
    if settings["reference"] is not None:
        reference = read_reference(store, settings["reference"]["count"], settings["plan"]["batch"])
        sets["reference_"] = _Set(reference, fid=INCEPTION)
        report["reference"] |= {"unreadable": reference.unreadable}
    shown: dict[str, dict[int, tuple[bytes, bytes]]] = {}
    rows: dict[str, list[Row]] = {}
    for name, description in settings["methods"].items():
        result = _read(store, name, settings["pictures"]["count"])
        report["methods"][name] = _method(result, description, sets, protocol)
        shown[name], rows[name] = result.shown, result.rows
    report["caveats"] = [*notes["caveats"], *_caveats(report)]
    report["environment"] = environment()
    write_json(out / "report.json", report)
    write_file(out / "pictures.csv", _table(rows).encode())
    write_file(
        out / "report.html", page(report, shown, rows, first=settings["plan"]["shown"]).encode()
    )
    return report


class _Set:
    """Pictures to be compared with; their statistics are computed once.

    Args:
        result: Their features, or the sums of them.
        fid: The features that Frechet distances rest on.
    """

    def __init__(self, result: ShardResult, *, fid: str) -> None:
        self.numbers = [row.number for row in result.rows]
        self.features, self.fid = result.features, fid
        self._moments: Moments | None = result.moments.get(fid)
        self._statistics: Statistics | None = None

    def statistics(self) -> Statistics | None:
        """Mean and covariance; None of fewer than two pictures, or without the network."""
        if self._statistics is None:
            if self._moments is not None and self._moments.count > 1:
                self._statistics = self._moments.statistics()
            elif len(self.features.get(self.fid, ())) > 1:
                self._statistics = statistics(self.features[self.fid])
        return self._statistics

    def only(self, numbers: Sequence[int]) -> "_Set":
        """The pictures that a method has."""
        if list(numbers) == self.numbers:
            return self
        wanted = set(numbers)
        places = [place for place, n in enumerate(self.numbers) if n in wanted]
        features = {name: each[places] for name, each in self.features.items()}
        found = _Set(ShardResult(rows=[], features=features), fid=self.fid)
        found.numbers = list(numbers)
        return found


def _method(
    result: ShardResult, description: dict[str, Any], sets: dict[str, _Set], protocol: Protocol
) -> dict[str, Any]:
    rows = result.rows
    sizes = [row.size for row in rows if row.size is not None]
    found: dict[str, Any] = {
        "pictures": len(rows),
        # Some pictures may be too rich for a codec at so few bytes.
        "without_result": len(sets[""].numbers) - len(rows),
        "bytes": float(np.mean(sizes)) if sizes else None,
        "psnr": _mean(batch_psnr(rows, protocol.psnr_batch)),
        "ssim": _mean([row.ssim for row in rows]),
        "lpips": _mean([row.lpips for row in rows]),
    }
    for prefix, others in sets.items():
        real = others if prefix else others.only([row.number for row in rows])
        found |= {
            ("rfid" if name == "fid" and not prefix else prefix + name): value
            for name, value in _distances(real, result.features, protocol).items()
        }
    worst, best = extremes(rows)
    found |= {"worst": [_brief(row) for row in worst], "best": [_brief(row) for row in best]}
    return found | {"method": description}


def _distances(
    real: _Set, features: dict[str, Tensor], protocol: Protocol
) -> dict[str, float | None]:
    found: dict[str, float | None] = {"fid": None, "precision": None, "recall": None}
    came = features.get(real.fid)
    if came is not None and len(came) > 1 and (of_real := real.statistics()) is not None:
        found["fid"] = frechet(of_real, statistics(came))
    manifold = protocol.manifold
    if manifold in features and manifold in real.features:
        near = precision_recall(real.features[manifold], features[manifold])
        if near is not None:
            found |= asdict(near)
    return found


def batch_psnr(rows: Sequence[Row], batch: int) -> list[float | None]:
    """PSNR in dB of the mean squared error over batches of pictures.

    Args:
        rows: Rows of pictures with their own PSNR, of values 0 ... 255.
        batch: Pictures a batch, by number in the list: 0 ... batch - 1 are the first.

    Returns:
        One a batch in which there is a picture.
    """
    if batch == 1:
        return [row.psnr for row in rows]
    errors: dict[int, list[float]] = {}
    for row in rows:
        if row.psnr is not None:
            errors.setdefault(row.number // batch, []).append(255.0**2 / 10 ** (row.psnr / 10))
    return [10 * math.log10(255.0**2 / float(np.mean(each))) for each in errors.values()]


def _brief(row: Row) -> dict[str, Any]:
    return {"number": row.number, "name": row.name, "psnr": row.psnr, "bytes": row.size}


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _read(store: Store, method: str, count: int) -> ShardResult:
    """All shards of a method as one, in the pictures' order."""
    plan = store.settings()["plan"]
    shards = -(-count // plan["shard"])
    absent = [s for s in range(shards) if not store.path(method, s).exists()]
    if absent:
        raise EvaluationError(
            f"{store.folder} is not finished: {len(absent)} of {shards} shards of {method!r} are "
            f"missing, such as {absent[0]}; run the same evaluation again to go on"
        )
    parts = [store.read(method, shard) for shard in range(shards)]
    names = {name for part in parts for name in part.features}
    return ShardResult(
        rows=[row for part in parts for row in part.rows],
        features={
            n: torch.cat([part.features[n] for part in parts if n in part.features])
            for n in sorted(names)
        },
        shown={number: pair for part in parts for number, pair in part.shown.items()},
        unreadable=[name for part in parts for name in part.unreadable],
    )


def _caveats(report: dict[str, Any]) -> list[str]:
    found = []
    if random := [name for name, weights in report["networks"].items() if weights == RANDOM]:
        found.append(
            f"The weights of {', '.join(random)} are random: figures that rest on them mean "
            f"nothing, they only show that the computation runs."
        )
    for name, reason in report["missing"].items():
        figure, needs = _NEEDED_FOR[name.partition("-")[0]]
        found.append(f"No {figure} ({needs}): {reason}.")
    fewest = min((m["pictures"] for m in report["methods"].values()), default=0)
    if report["networks"][INCEPTION] != NONE and fewest < FID_PICTURES:
        found.append(
            f"rFID rests on {fewest} pictures. It is biased upwards for few, and below "
            f"{FID_PICTURES} the covariances are singular: compare it only with figures of as "
            f"many pictures, and not with published ones (50,000)."
        )
    if unreadable := report["pictures"]["unreadable"]:
        found.append(f"{len(unreadable)} pictures do not decode and were left out: {unreadable}.")
    for name, method in report["methods"].items():
        if method["without_result"]:
            found.append(
                f"{name} has no result for {method['without_result']} pictures; its figures are "
                f"over the others."
            )
    return found


def _table(rows: dict[str, list[Row]]) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    names = [field.name for field in fields(Row)]
    writer.writerow(["method", *names])
    for method, each in rows.items():
        writer.writerows([method, *(getattr(row, name) for name in names)] for row in each)
    return buffer.getvalue()
