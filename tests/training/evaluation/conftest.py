"""A small model and evaluations without networks."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from flowmo.model.config import FlowMoConfig
from flowmo.model.flowmo import FlowMo
from flowmo.model.inference import InferenceModel
from flowmo.training.evaluation import (
    NO_NETWORKS,
    CheckpointMethod,
    Evaluation,
    Method,
    Networks,
    PictureList,
    Plan,
    Protocol,
)
from flowmo.training.evaluation.protocol import INCEPTION, SERVICE
from tests.model.checkpoints import save_random


class ColourNetworks(Networks):
    """Mean colours as the features of all networks: distances without the networks' time."""

    def __init__(self, protocol: Protocol = SERVICE) -> None:
        super().__init__(NO_NETWORKS, protocol=protocol)
        self.weights = dict.fromkeys(self.weights, "colours")
        self.missing = {}

    def features(self, levels: Tensor, names: Iterable[str] | None = None) -> dict[str, Tensor]:
        wanted = (INCEPTION, self.protocol.fid, self.protocol.manifold) if names is None else names
        return dict.fromkeys(wanted, levels.float().mean((2, 3)))


@pytest.fixture(scope="session")
def colour_networks() -> Networks:
    return ColourNetworks()


@pytest.fixture(scope="session")
def micro(micro_model: FlowMoConfig) -> InferenceModel:
    torch.manual_seed(0)
    return InferenceModel(FlowMo(micro_model))


@pytest.fixture
def evaluation(pictures: Path, micro: InferenceModel) -> Callable[..., Evaluation]:
    """Ten pictures through the micro model; keyword arguments replace parts."""

    def build(
        *,
        methods: Sequence[Method] | None = None,
        networks: Networks | None = None,
        plan: Plan | None = None,
        paths: Sequence[str] | None = None,
        limit: int | None = None,
        reference: PictureList | None = None,
    ) -> Evaluation:
        return Evaluation(
            pictures=PictureList(paths or [str(pictures)], 32, limit=limit),
            methods=methods or [CheckpointMethod(micro)],
            networks=networks or Networks(NO_NETWORKS),
            plan=plan or Plan(batch=2, shard=4, shown=2),
            reference=reference,
        )

    return build


@pytest.fixture(scope="session")
def micro_checkpoint(micro_model: FlowMoConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_random(tmp_path_factory.mktemp("micro"), micro_model, seed=0)
