"""Evaluation of tokenizers: ``flowmo evaluate``, or :func:`evaluate` (docs/evaluation.md)."""

from training.errors import LibraryError
from training.evaluation.adapters import Adapter, AdapterMethod
from training.evaluation.choose import checkpoint_methods, compared, load_model
from training.evaluation.codecs import Codec
from training.evaluation.errors import EvaluationError
from training.evaluation.methods import Came, CheckpointMethod, MeanColour, Method
from training.evaluation.networks import NO_NETWORKS, Networks, NetworkSources
from training.evaluation.ranks import Ranks
from training.evaluation.report import merge
from training.evaluation.run import Evaluation, Plan, evaluate
from training.pictures import PictureList

__all__ = [
    "NO_NETWORKS",
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
    "Ranks",
    "checkpoint_methods",
    "compared",
    "evaluate",
    "load_model",
    "merge",
]
