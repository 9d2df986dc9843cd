"""A task that is no tokenizer: a table of logits learns which token follows a label.

Its model is another class, its batch is ids and labels, its data needs no image, and a checkpoint
of it another type. That it trains, stops, is killed and resumes shows what the loop takes for
granted of a model: nothing. Import this module to register it.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from flowmo.model import registry
from flowmo.model.errors import CheckpointError
from flowmo.training.config import AnyTrainConfig
from flowmo.training.loop.generators import Generators
from flowmo.training.tasks.objective import LossTerm, Objective
from flowmo.training.tasks.registry import register_task
from flowmo.training.tasks.task import ParameterGroup, Report, Samples, Task


@dataclass(frozen=True, kw_only=True, slots=True)
class TableConfig:
    """Labels and tokens of a table."""

    name: str = "table"
    labels: int
    tokens: int

    def to_dict(self) -> dict[str, Any]:
        return {"name": self.name, "labels": self.labels, "tokens": self.tokens}


class Table(nn.Module):
    """Logits [labels, tokens]."""

    def __init__(self, config: TableConfig) -> None:
        super().__init__()
        self.config = config
        self.logits = nn.Parameter(torch.zeros(config.labels, config.tokens))

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | str = "cpu",
    ) -> "Table":
        folder = Path(pretrained_model_name_or_path)
        record = json.loads((folder / "config.json").read_text())
        model = cls(TableConfig(**record["config"])).to(device, dtype)
        with torch.no_grad():
            model.logits.copy_(torch.tensor(record["logits"]))
        return model


class Pairs(NamedTuple):
    """The inputs: a label and the token that follows it, int [B] each."""

    labels: Tensor
    tokens: Tensor


class PairBatch(NamedTuple):
    pairs: Pairs
    unreadable: Sequence[int] = ()


class Draws(NamedTuple):
    """Which samples hide their label, bool [B]; and nothing, which a batch may have, too."""

    hidden: Tensor
    unused: None = None


class PairData:
    """Label i is followed by token 2 i + 1, in an order that the position decides."""

    def __init__(self, config: TableConfig, batch_size: int) -> None:
        self._config, self._batch_size = config, batch_size

    def __len__(self) -> int:
        return self._config.labels

    def load(self, report: Report) -> None:
        report("the pairs are counted, not read")

    def batches(
        self, *, start: int, steps: int, part: tuple[int, int], pin: bool
    ) -> AbstractContextManager[Iterator[PairBatch]]:
        del pin
        share = self._batch_size // part[1]

        def made() -> Iterator[PairBatch]:
            for step in range(steps):
                first = start + step * self._batch_size + part[0] * share
                labels = torch.arange(first, first + share) * 7 % self._config.labels
                yield PairBatch(Pairs(labels, 2 * labels + 1))

        return nullcontext(made())

    def name(self, index: int) -> str:
        return f"pair {index}"

    def check_unreadable(self, known: Sequence[int]) -> None:
        assert not known

    def close(self) -> None:
        return None


@register_task
class TableTask(Task[Table, PairBatch, Pairs, Draws]):
    """Cross-entropy of the token, given its label or a hidden one."""

    name = "table"
    title = "a table of tokens"
    model_config = TableConfig
    model_type = "table"
    generators = ("hiding",)
    validation_metrics = ("accuracy",)

    @classmethod
    def reads(cls, config: AnyTrainConfig) -> frozenset[str]:
        return frozenset({"condition_dropout"})

    @property
    def _table(self) -> TableConfig:
        assert isinstance(self.config.model, TableConfig)
        return self.config.model

    def build_model(self) -> Table:
        return Table(self._table)

    def parameter_groups(self, model: Table) -> list[ParameterGroup]:
        return [ParameterGroup(1.0, 0.0, list(model.parameters()))]

    def export(self, weights: Mapping[str, Tensor], folder: Path) -> None:
        record = {
            "model_type": self.model_type,
            "config": self._table.to_dict(),
            "logits": weights["logits"].tolist(),
        }
        (folder / "config.json").write_text(json.dumps(record))

    def open_data(self, report: Report) -> PairData:
        return PairData(self._table, self.config.batch_size)

    def inputs(self, batch: PairBatch) -> Pairs:
        return Pairs(*(one.to(self.device) for one in batch.pairs))

    def draw(self, generators: Generators) -> Draws:
        numbers = torch.rand(self.config.batch_size, generator=generators["hiding"])
        return Draws(numbers < self.config.condition_dropout)

    def objective(self, model: Table, inputs: Pairs, draws: Draws) -> Objective:
        logits = model.logits[inputs.labels]
        mean = model.logits.mean(0).expand_as(logits)
        shown = torch.where(draws.hidden[:, None], mean, logits)
        loss = nn.functional.cross_entropy(shown, inputs.tokens)
        return Objective((LossTerm("cross_entropy", loss, 1.0),))

    def sample(self, model: Table) -> Samples:
        accuracy = self._accuracy(model)
        return Samples(
            pixels=None,
            name="most probable tokens",
            values={"sample_accuracy": accuracy},
            status=f"{accuracy:.0%} of the tokens are right",
        )

    def validate(self, model: Table) -> dict[str, float]:
        return {"accuracy": self._accuracy(model)}

    def _accuracy(self, model: Table) -> float:
        labels = torch.arange(self._table.labels)
        return float((model.logits.argmax(1) == 2 * labels + 1).float().mean())


if "table" not in registry.known():
    registry.register("table", Table)


def load_table(folder: Path) -> Table:
    """The exported model, by its type.

    Raises:
        CheckpointError: There is none.
    """
    if not folder.is_dir():
        raise CheckpointError(f"{folder} is no folder")
    return registry.load(str(folder), expected=Table)
