"""What an engine is made of, from the library's own account of its layers."""

import json
import re
from collections import Counter
from collections.abc import Iterable
from typing import Any

_LAYER = re.compile(r"^(?:Name: )?(?P<name>\S+?),? LayerType: (?P<type>\w+)", re.MULTILINE)
# The optimizer's names of kernels that hold both products of an attention and its softmax.
_ATTENTION = re.compile(r"mha|fmha|flash|attention", re.IGNORECASE)
_SOFTMAX = re.compile(r"soft_?max", re.IGNORECASE)


def inspected_lines(text: str) -> list[str]:
    """The layers of an engine inspector's JSON, as lines for :func:`layer_report`.

    Args:
        text: The inspector's words about an engine, or about one context of it. Engines that were
            built without details have names alone, which say nothing of types: no lines.
    """
    layers = json.loads(text).get("Layers", [])
    return [
        f"{layer['Name'].replace(' ', '_')}, LayerType: {layer.get('LayerType', 'unknown')}"
        for layer in layers
        if isinstance(layer, dict) and "Name" in layer
    ]


def layer_report(lines: Iterable[str], *, profiles: int, depth: int) -> dict[str, Any]:
    """Count an engine's layers by type, and see whether attention is fused.

    Args:
        lines: The library's log, or its inspector's lines; each layer as
            ``NAME, LayerType: TYPE, …``.
        profiles: The number of the engine's profiles; each has its own layers.
        depth: The blocks of the network, and so the attentions of a profile.

    Returns:
        ``layers`` by type, ``attention_kernels``, ``attention_expected``, ``softmax_kernels`` and
        ``attention_fused``: all, some, none, or unknown where the library does not say.
    """
    layers: dict[str, str] = {}
    for line in lines:
        for found in _LAYER.finditer(line):
            layers[found["name"]] = found["type"]
    attention = sum(bool(_ATTENTION.search(name)) for name in layers)
    softmax = sum(bool(_SOFTMAX.search(name)) and not _ATTENTION.search(name) for name in layers)
    expected = profiles * depth
    if not layers:
        fused = "unknown"
    elif attention >= expected and not softmax:
        fused = "all"
    else:
        fused = "some" if attention else "none"
    return {
        "layers": dict(sorted(Counter(layers.values()).items())),
        "attention_kernels": attention,
        "attention_expected": expected,
        "softmax_kernels": softmax,
        "attention_fused": fused,
    }
