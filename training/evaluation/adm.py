"""Generated pictures, measured as ADM's evaluator does: gFID, sFID, IS, precision and recall.

Statistics are exchanged in ADM's ``.npz`` files (Dhariwal and Nichol 2021): ``mu`` and ``sigma`` of
InceptionV3's 2,048 features, ``mu_s`` and ``sigma_s`` of its 17 x 17 x 7 spatial ones, and some of
the pictures themselves as ``arr_0``, uint8 [N, S, S, 3], for precision and recall.
"""

import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flowmo.imaging.reading import Pixels
from flowmo.imaging.tensors import as_levels
from flowmo.model.files import replacing_file
from flowmo.training.data.pictures import PictureList
from flowmo.training.evaluation.distances import frechet, precision_recall
from flowmo.training.evaluation.errors import EvaluationError
from flowmo.training.evaluation.extractors import LOGITS, SPATIAL
from flowmo.training.evaluation.moments import Moments, Statistics, add_to
from flowmo.training.evaluation.networks import ADM_FEATURES, Networks
from flowmo.training.evaluation.protocol import INCEPTION
from flowmo.training.evaluation.reading import default_workers, read_ahead

INCEPTION_SPLIT = 5_000
"""Pictures of a split of the inception score, whose mean is the figure."""

_STATISTICS = {INCEPTION: ("mu", "sigma"), SPATIAL: ("mu_s", "sigma_s")}
_PICTURES = "arr_0"
_BATCH = 64


@dataclass(frozen=True, kw_only=True, slots=True)
class AdmStatistics:
    """What an ``.npz`` file of ADM's holds.

    Attributes:
        of: Mean and covariance by features, :data:`INCEPTION` and :data:`SPATIAL`.
        pictures: Some of the pictures, uint8 [N, S, S, 3]; None where the file has none.
    """

    of: dict[str, Statistics]
    pictures: Pixels | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Generated:
    """Figures of generated pictures; None where something that they need is missing.

    Attributes:
        pictures: The number of generated pictures.
        gfid: Frechet distance to the reference.
        sfid: The same on spatial features.
        inception_score: exp of the mean divergence of a picture's classes from those of all.
        precision: The share of generated pictures in the reference's manifold.
        recall: The share of the reference's pictures in the generated ones' manifold.
    """

    pictures: int
    gfid: float
    sfid: float
    inception_score: float
    precision: float | None
    recall: float | None


def read_statistics(path: Path) -> AdmStatistics:
    """Read a file of ADM's; statistics that it lacks are left out.

    Raises:
        EvaluationError: It is none, or its arrays are of other shapes.
    """
    try:
        with np.load(path, allow_pickle=False) as opened:
            arrays = {name: opened[name] for name in opened.files}
    except (OSError, ValueError, zipfile.BadZipFile, EOFError) as error:
        raise EvaluationError(f"{path} cannot be read as ADM's statistics: {error}") from error
    of: dict[str, Statistics] = {}
    for features, (mean, covariance) in _STATISTICS.items():
        if mean not in arrays or covariance not in arrays:
            continue
        mu, sigma = (arrays[n].astype(np.float64) for n in (mean, covariance))
        if mu.ndim != 1 or sigma.shape != (len(mu), len(mu)):
            raise EvaluationError(
                f"{path}: {mean} and {covariance} are [F] and [F, F] in ADM's files, got "
                f"{list(mu.shape)} and {list(sigma.shape)}"
            )
        of[features] = {"mu": mu, "sigma": sigma}
    pictures = arrays.get(_PICTURES)
    if pictures is not None and (pictures.dtype != np.uint8 or pictures.ndim != 4):
        raise EvaluationError(
            f"{path}: {_PICTURES} is uint8 [N, S, S, 3] in ADM's files, got {pictures.dtype} "
            f"{list(pictures.shape)}"
        )
    if not of and pictures is None:
        raise EvaluationError(
            f"{path} is no file of ADM's: it has neither mu and sigma nor {_PICTURES}, but "
            f"{', '.join(sorted(arrays)) or 'nothing'}"
        )
    return AdmStatistics(of=of, pictures=pictures)


def write_statistics(path: Path, statistics: AdmStatistics) -> None:
    """Write a file that ADM's evaluator reads, whole or not at all."""
    arrays: dict[str, Any] = {}
    for features, (mean, covariance) in _STATISTICS.items():
        if features in statistics.of:
            arrays[mean] = statistics.of[features]["mu"]
            arrays[covariance] = statistics.of[features]["sigma"]
    if statistics.pictures is not None:
        arrays[_PICTURES] = statistics.pictures
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing_file(path) as partial, partial.open("wb") as file:
        np.savez(file, **arrays)


def batches_of(
    source: PictureList | Pixels, *, batch: int = _BATCH, workers: int | None = None
) -> Iterator[Tensor]:
    """Pictures as uint8 [B, 3, S, S]; what does not decode is left out."""
    if isinstance(source, np.ndarray):
        for first in range(0, len(source), batch):
            yield as_levels(source[first : first + batch])
        return
    parts = [
        range(first, min(first + batch, len(source))) for first in range(0, len(source), batch)
    ]
    for squares in read_ahead(source, parts, workers=workers or default_workers()):
        read = [square for square in squares if square is not None]
        if read:
            yield as_levels(read)


class InceptionScore:
    """The inception score of pictures that pass by once."""

    def __init__(self, *, split: int = INCEPTION_SPLIT) -> None:
        self._split = split
        self._count = 0
        self._total: Tensor | None = None
        self._entropies = 0.0
        self._scores: list[float] = []

    def add(self, logits: Tensor) -> None:
        """Take in [B, C]."""
        for row in logits.double():
            log_p = row.log_softmax(0)
            p = log_p.exp()
            self._total = p if self._total is None else self._total + p
            self._entropies += float((p * log_p).sum())
            self._count += 1
            if self._count == self._split:
                self._end()

    def value(self) -> float:
        """The mean over splits; a last one that is not full counts, as in ADM's evaluator."""
        if self._count:
            self._end()
        return float(np.mean(self._scores))

    def _end(self) -> None:
        # The mean over a split of KL(p || mean p) is mean(sum p log p) - sum(mean p log mean p).
        assert self._total is not None
        mean = self._total / self._count
        divergence = self._entropies / self._count - float(torch.xlogy(mean, mean).sum())
        self._scores.append(float(np.exp(divergence)))
        self._count, self._total, self._entropies = 0, None, 0.0


def measure_generated(
    samples: Iterable[Tensor],
    reference: AdmStatistics,
    networks: Networks,
    *,
    on_progress: Callable[[int], None] = lambda _: None,
) -> Generated:
    """Compare generated pictures with a reference.

    Args:
        samples: The generated pictures in batches, uint8 [B, 3, S, S], at least 2.
        reference: What to compare with.
        networks: What gives :data:`flowmo.training.evaluation.networks.ADM_FEATURES`.
        on_progress: Is notified of how many pictures are done.

    Raises:
        EvaluationError: There is no InceptionV3, the reference lacks statistics, or there are fewer
            than two pictures.
    """
    check_reference(reference)
    features = (adm_features(networks, levels) for levels in samples)
    return measure_features(
        features, reference, lambda: manifold(reference, networks), on_progress=on_progress
    )


def check_reference(reference: AdmStatistics) -> None:
    """Check that there is something to compare with.

    Raises:
        EvaluationError: It lacks statistics.
    """
    if absent := [name for name in _STATISTICS if name not in reference.of]:
        raise EvaluationError(
            f"the reference has no {' and '.join(_STATISTICS[absent[0]])}: make a file with "
            f"`flowmo statistics IMAGES --out FILE.npz`, or take one of ADM's"
        )


def manifold(reference: AdmStatistics, networks: Networks) -> Tensor | None:
    """Features [N, 2048] of a reference's pictures; None where it has none.

    Raises:
        EvaluationError: There is no InceptionV3.
    """
    if reference.pictures is None:
        return None
    batches = batches_of(reference.pictures)
    return torch.cat([adm_features(networks, batch)[INCEPTION] for batch in batches])


def measure_features(
    parts: Iterable[Mapping[str, Tensor]],
    reference: AdmStatistics,
    real: Callable[[], Tensor | None],
    *,
    on_progress: Callable[[int], None] = lambda _: None,
) -> Generated:
    """Compare features of generated pictures with a reference.

    Args:
        parts: What :func:`adm_features` gave of the generated pictures, batch by batch.
        reference: What to compare with; checked by :func:`check_reference`.
        real: Gives :func:`manifold`'s features of the reference.
        on_progress: Is notified of how many pictures are done.

    Raises:
        EvaluationError: There are fewer than two pictures.
    """
    moments: dict[str, Moments] = {}
    kept: list[Tensor] = []
    score, count = InceptionScore(), 0
    for found in parts:
        for name in _STATISTICS:
            add_to(moments, name, Moments.of(found[name]))
        kept.append(found[INCEPTION])
        score.add(found[LOGITS])
        count += len(found[INCEPTION])
        on_progress(count)
    if count < 2:
        raise EvaluationError(f"statistics need at least two generated pictures, got {count}")
    distances = {
        name: frechet(reference.of[name], moments[name].statistics()) for name in _STATISTICS
    }
    of_real = real()
    near = None if of_real is None else precision_recall(of_real, torch.cat(kept))
    return Generated(
        pictures=count,
        gfid=distances[INCEPTION],
        sfid=distances[SPATIAL],
        inception_score=score.value(),
        precision=None if near is None else near.precision,
        recall=None if near is None else near.recall,
    )


def adm_features(networks: Networks, levels: Tensor) -> dict[str, Tensor]:
    """All features of ADM's evaluator, of uint8 [B, 3, S, S].

    Raises:
        EvaluationError: There is no InceptionV3, and why.
    """
    found = networks.features(levels, ADM_FEATURES)
    if INCEPTION not in found:
        why = networks.missing.get(INCEPTION, "it was left out (--inception none)")
        raise EvaluationError(f"all these figures rest on InceptionV3: {why}")
    return found


def check_inception(networks: Networks) -> None:
    """Find out before hours of work whether there is an InceptionV3.

    Raises:
        EvaluationError: There is none, and why.
    """
    adm_features(networks, torch.full((1, 3, 64, 64), 128, dtype=torch.uint8))
