"""Evaluation of tokenizers: ``flowmo evaluate``, or :func:`evaluate` (docs/evaluation.md)."""

from flowmo.training.data.pictures import PictureList
from flowmo.training.errors import LibraryError
from flowmo.training.evaluation.adapters import Adapter, AdapterMethod
from flowmo.training.evaluation.choose import checkpoint_methods, compared, load_model
from flowmo.training.evaluation.codecs import Codec
from flowmo.training.evaluation.errors import EvaluationError
from flowmo.training.evaluation.methods import Came, CheckpointMethod, MeanColour, Method
from flowmo.training.evaluation.networks import NO_NETWORKS, Networks, NetworkSources
from flowmo.training.evaluation.protocol import (
    INCEPTION,
    PAPER,
    PROTOCOLS,
    SERVICE,
    Protocol,
    find_protocol,
)
from flowmo.training.evaluation.ranks import Ranks
from flowmo.training.evaluation.report import merge
from flowmo.training.evaluation.resolutions import check_resolutions, evaluate_resolutions
from flowmo.training.evaluation.run import Evaluation, Plan, evaluate
from flowmo.training.evaluation.tiled import TiledCheckpointMethod

__all__ = [
    "INCEPTION",
    "NO_NETWORKS",
    "PAPER",
    "PROTOCOLS",
    "SERVICE",
    "Adapter",
    "AdapterMethod",
    "Came",
    "CheckpointMethod",
    "Codec",
    "Evaluation",
    "EvaluationError",
    "LibraryError",
    "MeanColour",
    "Method",
    "NetworkSources",
    "Networks",
    "PictureList",
    "Plan",
    "Protocol",
    "Ranks",
    "TiledCheckpointMethod",
    "check_resolutions",
    "checkpoint_methods",
    "compared",
    "evaluate",
    "evaluate_resolutions",
    "find_protocol",
    "load_model",
    "merge",
]
