"""Which sampler a checkpoint decodes best with: quality and work over grids of settings.

The default sampler is part of a checkpoint (``config.json``), not of its identity: setting another
leaves weights, fingerprint and tokens as they are.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any, Literal

import numpy as np

from flowmo.imaging.reading import Pixels
from flowmo.imaging.tensors import as_levels, psnr_of_images, to_levels, to_model_range
from flowmo.model.config import SamplerConfig
from flowmo.model.files import replacing_file
from flowmo.model.inference import InferenceModel
from flowmo.model.prior.sampler_config import PriorSamplerConfig
from flowmo.model.sampler import count_forwards
from flowmo.training.errors import DataError
from flowmo.training.perceptual.metrics import PairDistance
from flowmo.training.perceptual.ssim import Ssim


@dataclass(frozen=True, kw_only=True, slots=True)
class Point:
    """One sampler.

    Attributes:
        sampler: what was set.
        forwards: evaluations of the decoder a picture, guided steps twice.
        psnr: mean over the pictures, in dB, of 8-bit pictures.
        ssim: likewise, with the usual 11-pixel Gaussian window; None without torchmetrics.
        distance: likewise, by a perceptual network, less being better; None where none was asked
            for.
    """

    sampler: SamplerConfig
    forwards: int
    psnr: float
    ssim: float | None
    distance: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON-safe form."""
        return {**asdict(self), "sampler": self.sampler.to_dict()}


def settings(
    base: SamplerConfig,
    *,
    steps: Sequence[int] = (),
    guidance: Sequence[float] = (),
    rho: Sequence[float] = (),
    intervals: Sequence[tuple[float, float]] = (),
) -> list[SamplerConfig]:
    """Every combination; what is not given stays as in ``base``.

    Args:
        base: usually the checkpoint's own. An explicit grid has its own steps, so that giving
            steps or rho makes it a ``power`` schedule.
        steps: numbers of steps.
        guidance: weights; 1 is none.
        rho: exponents of the ``power`` schedule.
        intervals: The intervals of guidance, as noise-to-signal ratios.

    Raises:
        ConfigError: a value out of its range.
    """
    if base.schedule != "power" and (steps or rho):
        base = replace(base, schedule="power", times=(), steps=(*steps, base.steps)[0])
    combinations = product(
        steps or [base.steps],
        guidance or [base.guidance],
        rho or [base.rho],
        intervals or [base.guidance_interval],
    )
    return [
        replace(base, steps=s, guidance=g, rho=r, guidance_interval=i)
        if base.schedule == "power"
        else replace(base, guidance=g, guidance_interval=i)
        for s, g, r, i in combinations
    ]


def sweep(
    model: InferenceModel,
    images: Sequence[Pixels],
    samplers: Iterable[SamplerConfig],
    *,
    batch: int = 16,
    perceptual: PairDistance | None = None,
    on_point: Callable[[Point], None] | None = None,
) -> list[Point]:
    """Reconstruct every picture with every sampler; noise is that of the picture's number.

    Args:
        model: A model of any kind with tokens.
        images: uint8 [S, S, 3], S the model's size.
        samplers: to try.
        batch: pictures at a time.
        perceptual: Judges pairs of images in [-1, 1]
            (:func:`flowmo.training.perceptual.metrics.pair_distance`).
        on_point: Is notified of each result as it comes.
    """
    structural_similarity = Ssim()
    originals = as_levels(images)
    tokens = []
    for part in to_model_range(originals).split(batch):
        tokens.extend(model.tokenize(part))
    points = []
    for sampler in samplers:
        ratios: list[float] = []
        similarities: list[float] = []
        distances: list[float] = []
        for begin in range(0, len(tokens), batch):
            seeds = range(begin, min(begin + batch, len(tokens)))
            came = model.detokenize(
                tokens[begin : begin + batch], seeds=list(seeds), sampler=sampler
            )
            came = to_levels(came.cpu())
            expected = originals[begin : begin + batch]
            images_of = to_model_range(expected), to_model_range(came)
            ratios += psnr_of_images(*images_of)
            similarities += structural_similarity(came, expected) or []
            if perceptual is not None:
                pair = (one.to(model.device) for one in images_of)
                distances += perceptual(*pair).tolist()
        point = Point(
            sampler=sampler,
            forwards=count_forwards(sampler),
            psnr=float(np.mean(ratios)),
            ssim=float(np.mean(similarities)) if similarities else None,
            distance=float(np.mean(distances)) if distances else None,
        )
        points.append(point)
        if on_point is not None:
            on_point(point)
    return points


def best(
    points: Sequence[Point],
    *,
    most_forwards: int | None = None,
    by: Literal["psnr", "distance"] = "psnr",
) -> Point:
    """The one of highest PSNR, or of the least perceptual distance; the cheaper of equals.

    Args:
        points: The points of a sweep.
        most_forwards: that a picture may take.
        by: What ranks them.

    Raises:
        DataError: none takes so few.
    """
    allowed = [p for p in points if most_forwards is None or p.forwards <= most_forwards]
    if not allowed:
        least = min(point.forwards for point in points)
        raise DataError(
            f"no sampler of the sweep takes at most {most_forwards} forwards; the least is {least}"
        )
    return max(allowed, key=lambda point: (_goodness(point, by), -point.forwards))


def _goodness(point: Point, by: Literal["psnr", "distance"]) -> float:
    if by == "psnr":
        return point.psnr
    assert point.distance is not None, "the sweep had no perceptual network"
    return -point.distance


def set_default(checkpoint: Path, sampler: SamplerConfig | PriorSamplerConfig) -> None:
    """Make a sampler a checkpoint folder's own; its weights are not touched.

    Raises:
        DataError: it is no folder with a config.json.
    """
    path = checkpoint / "config.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        content["config"]["sampler"] = sampler.to_dict()
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{checkpoint} is not a checkpoint folder: {error!r}") from None
    with replacing_file(path) as partial:
        partial.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def draw(points: Sequence[Point], out: Path) -> None:
    """PSNR, and the distance where there is one, against forwards.

    A line a guidance weight, interval and rho.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    shown = {"PSNR (dB)": [point.psnr for point in points]}
    distances = [point.distance for point in points if point.distance is not None]
    if len(distances) == len(points):
        shown["perceptual distance"] = distances
    figure, axes = plt.subplots(1, len(shown), figsize=(6 * len(shown), 3.4), squeeze=False)
    for axis, (title, values) in zip(axes[0], shown.items(), strict=True):
        lines: dict[str, list[tuple[int, float]]] = {}
        for point, value in zip(points, values, strict=True):
            lines.setdefault(_line(point.sampler), []).append((point.forwards, value))
        for label, line in lines.items():
            axis.plot(*zip(*sorted(line), strict=True), marker="o", label=label)
        axis.set_xscale("log")
        axis.set_xlabel("evaluations of the decoder a picture")
        axis.set_ylabel(title)
        axis.grid(alpha=0.3, which="both")
        axis.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(out, dpi=90)
    plt.close(figure)


def _line(sampler: SamplerConfig) -> str:
    """Samplers of one line differ in their steps alone; an interval matters only with guidance."""
    low, high = sampler.guidance_interval
    where = "" if sampler.guidance == 1.0 else f" in {low:g} to {high:g}"
    return f"guidance {sampler.guidance:g}{where}, rho {sampler.rho:g}"
