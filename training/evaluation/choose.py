"""Methods from what one writes on a command line."""

from collections.abc import Sequence

import torch

from flowmo.model import registry
from flowmo.model.config import SamplerConfig
from flowmo.model.flowmo import FlowMo
from flowmo.model.inference import InferenceModel
from flowmo.model.tiling import DEFAULT_OVERLAP_SHARE
from flowmo.training.evaluation.adapters import AdapterMethod
from flowmo.training.evaluation.codecs import CODECS, Codec, writes
from flowmo.training.evaluation.errors import EvaluationError
from flowmo.training.evaluation.methods import CheckpointMethod, MeanColour, Method
from flowmo.training.evaluation.protocol import SERVICE, Protocol
from flowmo.training.evaluation.tiled import TiledCheckpointMethod

PRECISIONS = {"float32": torch.float32, "bf16": torch.bfloat16}


def load_model(checkpoint: str, *, device: str, precision: str = "auto") -> InferenceModel:
    """A checkpoint ready to reconstruct.

    Args:
        checkpoint: folder or hub repository.
        device: where to run.
        precision: ``float32``, ``bf16``, or ``auto``: bf16 on a GPU, else float32.

    Raises:
        CheckpointError: there is none.
        EvaluationError: no such precision.
    """
    model = registry.load(checkpoint, expected=FlowMo)
    return to_inference(model, device=device, precision=precision)


def to_inference(model: FlowMo, *, device: str, precision: str = "auto") -> InferenceModel:
    """A model ready to reconstruct; arguments and errors as :func:`load_model`'s."""
    if precision == "auto":
        precision = "bf16" if device.startswith("cuda") else "float32"
    if precision not in PRECISIONS:
        raise EvaluationError(f"precision is auto, {' or '.join(PRECISIONS)}, got {precision!r}")
    return InferenceModel(model, dtype=PRECISIONS[precision], device=device)


def checkpoint_methods(
    model: InferenceModel,
    samplers: Sequence[SamplerConfig],
    *,
    side: int | None = None,
    overlap: float = DEFAULT_OVERLAP_SHARE,
    protocol: Protocol = SERVICE,
) -> list[Method]:
    """One method a sampler, called ``flowmo`` if there is one, else by what is set in each.

    Args:
        model: that reconstructs.
        samplers: how.
        side: of the pictures in pixels; the model's own by default. Others are made of tiles.
        overlap: the share of a tile's side that neighbours have in common at least.
        protocol: how values become 8 bits.

    Raises:
        ConfigError: The overlap is out of its range.
    """

    def name(sampler: SamplerConfig) -> str:
        several = f"flowmo {sampler.steps} steps, guidance {sampler.guidance:g}"
        return several if len(samplers) > 1 else "flowmo"

    if side in (None, model.config.image_size):
        return [
            CheckpointMethod(model, sampler=s, name=name(s), truncates=protocol.truncates)
            for s in samplers
        ]
    return [
        TiledCheckpointMethod(
            model, sampler=s, name=name(s), overlap=overlap, truncates=protocol.truncates
        )
        for s in samplers
    ]


def compared(
    texts: Sequence[str], budget: int | None, *, device: str = "cpu"
) -> tuple[list[Method], list[str]]:
    """Methods to compare with.

    Args:
        texts: ``codec:NAME``, ``mean-colour``, ``module:function`` or a tokenizer by name each.
        budget: bytes a picture for codecs; None if nothing says how many.
        device: Where tokenizers by name compute.

    Returns:
        The methods, and a sentence for each codec that this Pillow does not write.

    Raises:
        EvaluationError: an unknown one, or a codec without bytes.
    """
    methods: list[Method] = []
    absent = []
    for text in texts:
        kind, _, name = text.partition(":")
        if text == MeanColour.name:
            methods.append(MeanColour())
        elif kind != "codec":
            methods.append(AdapterMethod(text, device=device))
        elif budget is None:
            raise EvaluationError(
                f"{text} needs a number of bytes, which only models with tokens have: give --bytes"
            )
        elif name in CODECS and not writes(CODECS[name]):
            absent.append(f"Without {name}: this Pillow does not write {CODECS[name]}.")
        else:
            methods.append(Codec(name, budget))
    return methods, absent
