"""A prior measured by what it generates: gFID, sFID, IS, precision and recall by its samplers.

Sample n is of class n modulo the number of classes, and n is the seed of its ids and of its noise.
A shard of samples leaves their features in a file, so a stopped evaluation goes on with the shards
that are missing, further samplers join a folder that has some, and another reference needs no
picture drawn anew: it is no setting of the folder.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flowmo.imaging.reading import Pixels
from flowmo.model.files import write_file
from flowmo.model.inference import InferenceModel
from flowmo.model.prior.checkpoint import Prior
from flowmo.model.prior.sampler_config import PriorSamplerConfig
from flowmo.training.environment import environment
from flowmo.training.evaluation.adm import (
    AdmStatistics,
    adm_features,
    check_inception,
    check_reference,
    manifold,
    measure_features,
)
from flowmo.training.evaluation.errors import EvaluationError
from flowmo.training.evaluation.generation_page import draw_curves, generation_page
from flowmo.training.evaluation.networks import Networks
from flowmo.training.evaluation.protocol import FID_PICTURES, INCEPTION, VERSION
from flowmo.training.evaluation.ranks import Ranks
from flowmo.training.evaluation.run import Plan, wait_for
from flowmo.training.evaluation.shown import thumbnail
from flowmo.training.evaluation.store import Row, ShardResult, Store, slug
from flowmo.training.json_report import write_json
from flowmo.training.perceptual.weights import RANDOM
from flowmo.training.prior_pictures import draw_pictures

FORMAT = "flowmo-generation/1"
DEFAULT_SAMPLES = 50_000
DEFAULT_PLAN = Plan(batch=64, shard=512, shown=16)
_PICTURES = "pictures"


@dataclass(frozen=True, kw_only=True, slots=True)
class Generation:
    """What to draw and measure.

    Attributes:
        prior: What draws ids.
        decoder: Its tokenizer, with the decoder.
        samplers: How to draw; they differ in steps, guidance or temperature.
        networks: What gives InceptionV3's features.
        count: Samples of each sampler, at least 2. Published figures are of 50,000.
        plan: How the work is cut. No figure depends on ``shard`` or the number of processes.

    Raises:
        ConfigError: The tokenizer is not the prior's.
        EvaluationError: Two samplers are alike, there is none, or a count is too small.
    """

    prior: Prior
    decoder: InferenceModel
    samplers: Sequence[PriorSamplerConfig]
    networks: Networks
    count: int = DEFAULT_SAMPLES
    plan: Plan = DEFAULT_PLAN

    def __post_init__(self) -> None:
        self.prior.config.check_tokenizer(self.decoder.fingerprint)
        if self.count < 2:
            raise EvaluationError(f"statistics need at least two samples, got {self.count}")
        names = [name_of(sampler) for sampler in self.samplers]
        if not names or len(set(names)) < len(names):
            raise EvaluationError(
                f"samplers must be one or several that differ in temperature, guidance or steps, "
                f"got {names}"
            )

    def classes(self, numbers: Sequence[int]) -> list[int]:
        """The classes of samples: in turn, as many of each; the null class where there are none."""
        return [number % max(self.prior.config.classes, 1) for number in numbers]

    def settings(self) -> dict[str, Any]:
        """All that a sample depends on but for its sampler's three numbers, JSON-safe."""
        sampler = self.samplers[0].to_dict()
        varied = ("temperature", "guidance", "steps")
        return {
            "protocol": f"generation {VERSION}",
            "prior": self.prior.fingerprint(),
            "prior_dtype": str(self.prior.bias.dtype).removeprefix("torch."),
            "tokenizer": self.decoder.fingerprint,
            "decoder": self.decoder.config.sampler.to_dict(),
            "sampler": {name: value for name, value in sampler.items() if name not in varied},
            "samples": self.count,
            "classes": self.prior.config.classes,
            "image_size": self.decoder.config.image_size,
            "networks": self.networks.weights,
            "plan": asdict(self.plan),
        }


def name_of(sampler: PriorSamplerConfig) -> str:
    """A sampler in words."""
    return (
        f"temperature {sampler.temperature:g}, guidance {sampler.guidance:g}, {sampler.steps} steps"
    )


def evaluate_generation(
    generation: Generation,
    reference: AdmStatistics,
    out: Path,
    *,
    source: str = "",
    ranks: Ranks | None = None,
    on_progress: Callable[[str], None] = lambda _: None,
) -> dict[str, Any] | None:
    """Draw what is missing in a folder; rank 0 then waits for the others and writes the report.

    Args:
        generation: What to draw and measure.
        reference: What to compare with.
        out: The folder, the same one in every process.
        source: Where the reference is from, for the report.
        ranks: This process's share; all of it by default.
        on_progress: Is notified of what happens.

    Returns:
        What ``report.json`` says; None in other ranks than 0.

    Raises:
        EvaluationError: The folder is of another prior or other settings, there is no InceptionV3,
            or the reference lacks statistics.
    """
    ranks, store = ranks or Ranks(), Store(out)
    check_reference(reference)
    check_inception(generation.networks)  # before hours of drawing
    store.open(generation.settings(), {})
    shards = range(generation.plan.shards(generation.count))
    for sampler in generation.samplers:
        for shard in ranks.share(len(shards)):
            if not store.path(name_of(sampler), shard).exists():
                _draw(store, generation, sampler, shard, on_progress)
    if ranks.rank:
        return None
    wait_for(
        [store.path(name_of(s), shard) for s in generation.samplers for shard in shards],
        on_progress,
    )
    return _report(store, generation, reference, source)


def _draw(
    store: Store,
    generation: Generation,
    sampler: PriorSamplerConfig,
    shard: int,
    report: Callable[[str], None],
) -> None:
    begin, name, plan = time.perf_counter(), name_of(sampler), generation.plan
    numbers = plan.numbers(shard, generation.count)
    features: list[dict[str, Tensor]] = []
    for first in range(0, len(numbers), plan.batch):
        part = numbers[first : first + plan.batch]
        levels = draw_pictures(
            generation.prior,
            generation.decoder,
            generation.classes(part),
            seeds=part,
            sampler=sampler,
        )
        features.append(adm_features(generation.networks, levels))
        for number, one in zip(part, levels, strict=True):
            if number < plan.shown:
                pixels: Pixels = one.permute(1, 2, 0).contiguous().numpy()
                write_file(_picture(store.folder, name, number), thumbnail(pixels))
    joined = {key: torch.cat([part[key] for part in features]) for key in features[0]}
    names = generation.prior.config.class_names
    rows = [
        Row(number=number, name=names[one] if names else str(one))
        for number, one in zip(numbers, generation.classes(numbers), strict=True)
    ]
    store.write(name, shard, ShardResult(rows=rows, features=joined))
    report(
        f"{name}: shard {shard + 1} of {plan.shards(generation.count)} "
        f"({time.perf_counter() - begin:.1f} s)"
    )


def _picture(folder: Path, name: str, number: int) -> Path:
    return folder / _PICTURES / slug(name) / f"{number:06d}.webp"


def _features(store: Store, generation: Generation, name: str) -> Iterator[dict[str, Tensor]]:
    for shard in range(generation.plan.shards(generation.count)):
        yield store.read(name, shard).features


def _report(
    store: Store, generation: Generation, reference: AdmStatistics, source: str
) -> dict[str, Any]:
    of_real = manifold(reference, generation.networks)
    samplers = {}
    for sampler in generation.samplers:
        name = name_of(sampler)
        found = measure_features(_features(store, generation, name), reference, lambda: of_real)
        samplers[name] = {"sampler": sampler.to_dict(), **asdict(found)}
    best = min(samplers, key=lambda name: samplers[name]["gfid"])
    report: dict[str, Any] = {
        "format": FORMAT,
        **generation.settings(),
        "prior_name": generation.prior.config.name,
        "reference": source,
        "samplers": samplers,
        "best": best,
        "environment": environment(),
    }
    report["caveats"] = _caveats(report, generation, reference)
    shown = {
        name: [
            (row.name, _picture(store.folder, name, row.number).read_bytes())
            for row in store.read(name, 0).rows[: generation.plan.shown]
        ]
        for name in samplers
    }
    plot = draw_curves(report) if len(samplers) > 1 else None
    if plot is not None:
        write_file(store.folder / "sweep.png", plot)
    write_json(store.folder / "report.json", report)
    write_file(store.folder / "report.html", generation_page(report, shown, plot).encode())
    return report


def _caveats(report: dict[str, Any], generation: Generation, reference: AdmStatistics) -> list[str]:
    found = []
    if report["networks"][INCEPTION] == RANDOM:
        found.append(
            "InceptionV3's weights are random: the figures mean nothing, they only show that the "
            "computation runs."
        )
    if generation.count < FID_PICTURES:
        found.append(
            f"The figures rest on {generation.count} samples. Distances are biased upwards for "
            f"few, and below {FID_PICTURES} the covariances are singular: compare them only with "
            f"figures of as many samples, and not with published ones (50,000)."
        )
    if reference.pictures is None:
        found.append("No precision and recall: the reference holds no pictures.")
    if (classes := generation.prior.config.classes) and generation.count % classes:
        found.append(
            f"{generation.count} samples are no multiple of the {classes} classes: the first ones "
            f"have one more."
        )
    return found
