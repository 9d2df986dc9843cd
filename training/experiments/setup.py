"""What all experiments share: on which pictures, with which networks, where, and their results."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flowmo.model.inference import InferenceModel
from flowmo.training.environment import environment
from flowmo.training.evaluation import (
    SERVICE,
    CheckpointMethod,
    Evaluation,
    Method,
    Networks,
    NetworkSources,
    PictureList,
    Plan,
    Protocol,
    Ranks,
    evaluate,
)
from flowmo.training.evaluation.run import wait_for
from flowmo.training.json_report import write_json

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Figures = Mapping[str, Any]


class InterruptedExperiment(Exception):  # noqa: N818 - no error: somebody asked for it
    """A signal stopped an experiment, which has saved what it goes on from."""


def _silent(text: str) -> None:
    del text


@dataclass(frozen=True, kw_only=True, slots=True)
class Setup:
    """How an experiment measures.

    Attributes:
        data: pictures, as in an evaluation; none means the held-out photographs.
        limit: the most of them.
        sources: The sources of the metrics' weights.
        device: where to compute; ``cuda`` is this rank's GPU.
        precision: The precision of the checkpoints (training.evaluation.load_model).
        protocol: How figures are measured.
        plan: how evaluations are cut.
        ranks: this process's share of the evaluations.
        report: Is notified of what happens.
    """

    data: tuple[str, ...] = ()
    limit: int | None = None
    sources: NetworkSources = field(default_factory=NetworkSources)
    device: str = "cpu"
    precision: str = "auto"
    protocol: Protocol = SERVICE
    plan: Plan = field(default_factory=Plan)
    ranks: Ranks = field(default_factory=Ranks)
    report: Callable[[str], None] = _silent

    @property
    def place(self) -> str:
        """The device of this process."""
        return self.ranks.device(self.device)

    def networks(self) -> Networks:
        """The metrics' networks, loaded.

        Raises:
            EvaluationError: a file that was named is not what it should be.
        """
        return Networks(self.sources, self.place, protocol=self.protocol)

    def wait_for(self, file: Path) -> None:
        """Until a file is there that rank 0 writes."""
        wait_for([file], self.report)

    def pictures(self, paths: Sequence[str], size: int, *, limit: int | None = None) -> PictureList:
        """A list of pictures, read as the protocol says; none given means the held-out ones."""
        return PictureList(paths, size, limit=limit, read=self.protocol.read)

    def method(self, model: InferenceModel, **options: Any) -> CheckpointMethod:
        """A checkpoint as a method of the protocol; options as of :class:`CheckpointMethod`."""
        return CheckpointMethod(model, truncates=self.protocol.truncates, **options)

    def evaluate(
        self,
        methods: Sequence[Method],
        *,
        size: int,
        networks: Networks,
        folder: Path,
        reference: PictureList | None = None,
        data: Sequence[str] | None = None,
    ) -> dict[str, Any] | None:
        """An evaluation's report, resumed in its folder; None in other ranks than 0.

        Args:
            methods: to measure.
            size: The size of the pictures.
            networks: for the metrics.
            folder: The folder of the evaluation.
            reference: other pictures to compare with.
            data: pictures instead of the setup's.
        """
        evaluation = Evaluation(
            pictures=self.pictures(self.data if data is None else data, size, limit=self.limit),
            methods=methods,
            networks=networks,
            reference=reference,
            plan=self.plan,
        )
        return evaluate(evaluation, folder, ranks=self.ranks, on_progress=self.report)


def work_folder(out: Path) -> Path:
    """Where the experiment OUT keeps what it goes on from."""
    return out.with_name(f"{out.name}.work")


def write_result(out: Path, experiment: str, section: str, content: Figures) -> dict[str, Any]:
    """Write OUT.json.

    Args:
        out: path without suffix.
        experiment: its name.
        section: The section of the supplement that it repeats.
        content: what it found.

    Returns:
        All of the file.
    """
    result = {
        "experiment": experiment,
        "paper": f"supplement {section}",
        **content,
        "environment": environment(),
    }
    write_json(Path(f"{out}.json"), result)
    return result


@contextmanager
def plot(out: Path, *, x: str, y: str) -> Iterator["Axes"]:
    """A figure with one set of axes, written to OUT.png at the end.

    Args:
        out: path without suffix.
        x: label of the horizontal axis.
        y: label of the vertical axis.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(6, 3.8))
    axis.set_xlabel(x)
    axis.set_ylabel(y)
    axis.grid(alpha=0.3)
    yield axis
    figure.tight_layout()
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(f"{out}.png", dpi=90)
    plt.close(figure)
