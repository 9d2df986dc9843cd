"""Evaluate: pictures x methods, in shards that any number of processes take in turn."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flowmo.imaging.quality import IDENTICAL_PSNR, psnr
from flowmo.imaging.reading import Pixels
from flowmo.imaging.tensors import as_levels
from flowmo.training.data.pictures import PictureList
from flowmo.training.evaluation.errors import EvaluationError
from flowmo.training.evaluation.methods import Came, Method
from flowmo.training.evaluation.networks import Networks
from flowmo.training.evaluation.protocol import INCEPTION, VERSION
from flowmo.training.evaluation.ranks import Ranks
from flowmo.training.evaluation.reading import default_workers, read_ahead
from flowmo.training.evaluation.reference import REFERENCE, chunk_count, pass_by
from flowmo.training.evaluation.report import ORIGINALS, merge
from flowmo.training.evaluation.shown import extremes, thumbnail
from flowmo.training.evaluation.store import Row, ShardResult, Store, slug

_POLL_SECONDS = 1.0

Report = Callable[[str], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """How the work is cut. No figure depends on ``shard`` or on the number of processes.

    Attributes:
        batch: pictures that are computed together. Batches begin at multiples of it in the list,
            because the last digits of a float may depend on what else is in a batch.
        shard: pictures a file, a multiple of ``batch``.
        shown: pictures of the report's grid, the first ones of the list.

    Raises:
        EvaluationError: a number is out of its range.
    """

    batch: int = 16
    shard: int = 64
    shown: int = 6

    def __post_init__(self) -> None:
        if self.batch < 1 or self.shard < 1 or self.shown < 0 or self.shard % self.batch:
            raise EvaluationError(
                f"batch and shard are at least 1, shown at least 0, and shard is a multiple of "
                f"batch; got batch={self.batch}, shard={self.shard}, shown={self.shown}"
            )

    def shards(self, count: int) -> int:
        """How many shards ``count`` pictures have."""
        return -(-count // self.shard)

    def numbers(self, shard: int, count: int) -> range:
        """The pictures of a shard of ``count`` pictures."""
        return range(shard * self.shard, min((shard + 1) * self.shard, count))


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """What to measure.

    Attributes:
        pictures: that are reconstructed.
        methods: that reconstruct them, with names that differ.
        networks: for LPIPS and features; they know the protocol.
        reference: pictures to compare the reconstructions' features with, beside the originals'.
        plan: how the work is cut.
        workers: Threads that read pictures while the device computes; None for one a core.

    Raises:
        EvaluationError: two methods have one name, or there are less workers than 1.
    """

    pictures: PictureList
    methods: Sequence[Method]
    networks: Networks
    reference: PictureList | None = None
    plan: Plan = Plan()
    workers: int | None = None

    def __post_init__(self) -> None:
        if self.workers is not None and self.workers < 1:
            raise EvaluationError(f"at least one worker reads pictures, got {self.workers}")
        names = [ORIGINALS, REFERENCE, *(slug(method.name) for method in self.methods)]
        if len(set(names)) < len(names):
            raise EvaluationError(f"methods need names of their own, got {names[2:]}")
        if not self.methods:
            raise EvaluationError("there is nothing to evaluate; name a checkpoint or a method")

    def settings(self) -> dict[str, Any]:
        """All that figures depend on, JSON-safe."""
        return {
            "protocol": f"{self.networks.protocol.name} {VERSION}",
            "pictures": self.pictures.describe(),
            "reference": None if self.reference is None else self.reference.describe(),
            "methods": {method.name: method.describe() for method in self.methods},
            "networks": self.networks.weights,
            "ssim": self.networks.ssim.computed_by,
            "plan": asdict(self.plan),
        }


def evaluate(
    evaluation: Evaluation,
    out: Path,
    *,
    ranks: Ranks | None = None,
    caveats: Sequence[str] = (),
    on_progress: Report | None = None,
) -> dict[str, Any] | None:
    """Compute what is missing in a folder; rank 0 then waits for the others and writes the report.

    Args:
        evaluation: what to measure.
        out: folder of the evaluation, the same one in every process.
        ranks: this process's share; all of it by default.
        caveats: further sentences for the report, of rank 0.
        on_progress: Is notified of what happens.

    Returns:
        The report; None in other ranks than 0.

    Raises:
        EvaluationError: the folder holds an evaluation of other settings.
        LibraryError: Features were computed, and torch-fidelity is missing.
    """
    ranks, report = ranks or Ranks(), on_progress or (lambda _: None)
    store, plan = Store(out), evaluation.plan
    notes = {"missing": evaluation.networks.missing, "caveats": list(caveats)}
    store.open(evaluation.settings(), notes)
    pictures, workers = evaluation.pictures, evaluation.workers or default_workers()
    methods: dict[str, Method | None] = {ORIGINALS: None, **{m.name: m for m in evaluation.methods}}
    count = plan.shards(len(pictures))
    due = {
        shard: missing
        for shard in ranks.share(count)
        if (missing := [name for name in methods if not store.path(name, shard).exists()])
    }
    parts_read = read_ahead(
        pictures, [plan.numbers(shard, len(pictures)) for shard in due], workers=workers
    )
    with closing(parts_read) as squares_of:
        for shard, squares in zip(due, squares_of, strict=True):
            wanted = {name: methods[name] for name in due[shard]}
            _shard(store, evaluation, pictures, wanted, shard, squares, report=report)
    pictures.close()
    files = [store.path(name, shard) for name in methods for shard in range(count)]
    if (reference := evaluation.reference) is not None:
        pass_by(
            store,
            reference,
            evaluation.networks,
            summed=(INCEPTION,),
            kept=(evaluation.networks.protocol.manifold,),
            batch=plan.batch,
            workers=workers,
            ranks=ranks,
            report=report,
        )
        reference.close()
        files += [
            store.path(REFERENCE, chunk) for chunk in range(chunk_count(len(reference), plan.batch))
        ]
    if ranks.rank:
        return None
    wait_for(files, report)
    return merge(out)


def _shard(
    store: Store,
    evaluation: Evaluation,
    pictures: PictureList,
    methods: Mapping[str, Method | None],
    shard: int,
    squares: Sequence[Pixels | None],
    *,
    report: Report,
) -> None:
    begin = time.perf_counter()
    numbers = evaluation.plan.numbers(shard, len(pictures))
    read = zip(numbers, squares, strict=True)
    unreadable = [pictures.name(number) for number, square in read if square is None]
    batches = list(_batches(numbers, squares, evaluation.plan.batch))
    for name, method in methods.items():
        result = (
            _features_only(pictures, batches, evaluation.networks, unreadable)
            if method is None
            else _measured(method, pictures, batches, evaluation)
        )
        store.write(name, shard, result)
    report(
        f"{pictures.size} px, shard {shard + 1} of {evaluation.plan.shards(len(pictures))}: "
        f"{', '.join(methods)} ({time.perf_counter() - begin:.1f} s)"
    )


def _batches(
    numbers: range, squares: Sequence[Pixels | None], batch: int
) -> Iterator[tuple[list[int], list[Pixels]]]:
    """Readable pictures of a shard, cut at multiples of the batch."""
    for first in range(0, len(numbers), batch):
        cut = slice(first, first + batch)
        readable = [
            (number, square)
            for number, square in zip(numbers[cut], squares[cut], strict=True)
            if square is not None
        ]
        if readable:
            yield [number for number, _ in readable], [square for _, square in readable]


def _features_only(
    pictures: PictureList,
    batches: Sequence[tuple[list[int], list[Pixels]]],
    networks: Networks,
    unreadable: list[str],
) -> ShardResult:
    rows: list[Row] = []
    features: list[dict[str, Tensor]] = []
    for numbers, squares in batches:
        rows += [Row(number=n, name=pictures.name(n)) for n in numbers]
        features.append(networks.features(as_levels(squares)))
    return ShardResult(rows=rows, features=_joined(features), unreadable=unreadable)


def _measured(
    method: Method,
    pictures: PictureList,
    batches: Sequence[tuple[list[int], list[Pixels]]],
    evaluation: Evaluation,
) -> ShardResult:
    networks = evaluation.networks
    rows: list[Row] = []
    features: list[dict[str, Tensor]] = []
    pixels: dict[int, tuple[Pixels, Pixels]] = {}
    for numbers, squares in batches:
        found: list[tuple[int, Pixels, Came]] = [
            (number, original, came)
            for number, original, came in zip(
                numbers, squares, method.reconstruct(squares, numbers), strict=True
            )
            if came is not None
        ]
        if not found:
            continue
        originals = as_levels([original for _, original, _ in found])
        levels = as_levels([came.pixels for _, _, came in found])
        similarities = networks.ssim(originals, levels)
        distances = networks.distances(originals, levels)
        features.append(networks.features(levels))
        for place, (number, original, came) in enumerate(found):
            pixels[number] = original, came.pixels
            rows.append(
                Row(
                    number=number,
                    name=pictures.name(number),
                    psnr=psnr(original, came.pixels, identical=IDENTICAL_PSNR),
                    ssim=None if similarities is None else similarities[place],
                    lpips=None if distances is None else distances[place],
                    size=came.size,
                )
            )
    worst, best = extremes(rows)
    kept = {row.number for row in (*worst, *best)} | set(range(evaluation.plan.shown))
    shown = {n: (thumbnail(a), thumbnail(b)) for n, (a, b) in pixels.items() if n in kept}
    return ShardResult(rows=rows, features=_joined(features), shown=shown)


def _joined(features: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    names = features[0] if features else ()
    return {name: torch.cat([part[name] for part in features]) for name in names}


def wait_for(files: Sequence[Path], report: Report) -> None:
    """Until the other processes have written their files."""
    reported = 0
    while missing := [path for path in files if not path.exists()]:
        if len(missing) != reported:
            reported = len(missing)
            report(f"waiting for {reported} files of other processes, such as {missing[0].name}")
        time.sleep(_POLL_SECONDS)
