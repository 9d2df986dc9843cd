"""The model card of a release: its text, and the facts in it."""

from collections.abc import Sequence
from typing import Any

import torch

from flowmo.model.checkpoint import CheckpointInfo
from flowmo.model.sampler import count_forwards
from flowmo.training.config import AnyTrainConfig, ValidationConfig
from flowmo.training.tasks.registry import find_task

TEMPLATE = """---
{{ card_data }}
---

# {{ title }}

A [FlowMo](https://arxiv.org/abs/2503.11056) image tokenizer: a {{ size }} × {{ size }} image to
{{ tokens }} tokens of {{ bits }} bits ({{ payload }}, {{ bpp }} bits a pixel) and back.

![Held-out photographs above, reconstructions below](pictures.png)

## Use

    pip install flowmo-serve
    flowmo serve --checkpoint {{ source }}

```python
from flowmo import FlowMo, InferenceModel

model = InferenceModel(FlowMo.from_pretrained("{{ source }}"))
tokens = model.tokenize(images)  # float [B, 3, {{ size }}, {{ size }}] in [-1, 1]
again = model.detokenize(tokens, seeds=range(len(tokens)))
```

By default it decodes in {{ sampler.steps }} steps ({{ forwards }} evaluations of the decoder) with
guidance {{ sampler.guidance }}.

## Figures

| pictures | what | value |
|---|---|---|
{% for row in figures %}| {{ row[0] }} | {{ row[1] }} | {{ row[2] }} |
{% endfor %}
Pictures are cut to their centred square and resized (Lanczos), decoded with the default sampler,
and rounded to 8 bits before anything is measured. Few pictures say little: compare models on the
same ones only.

## Training

{{ task }}: {{ steps }} steps of batch {{ batch }} ({{ samples }} samples, {{ hours }} hours) on
{{ images }} images{{ data_note }}.{{ lineage }} Every setting is in `training.json`.

| | |
|---|---|
| parameters | {{ parameters }} |
| fingerprint | `{{ fingerprint }}` |
| weights | {{ which }} |
"""


_EVALUATED = {
    "bytes": "bytes",
    "psnr": "PSNR (dB)",
    "ssim": "SSIM",
    "lpips": "LPIPS",
    "rfid": "rFID",
    "precision": "precision",
    "recall": "recall",
}


def figures(
    metrics: dict[str, float], config: ValidationConfig, report: dict[str, Any] | None
) -> list[Sequence[str]]:
    """Rows of the card's table: pictures, what, value.

    Args:
        metrics: The metrics of the validation.
        config: The config of the validation.
        report: The report of ``flowmo evaluate``, or None.
    """
    names = {"psnr": "PSNR (dB)", "ssim": "SSIM", "lpips": "LPIPS-VGG"}
    pictures = "held out in training" if config.paths else "six held-out photographs"
    rows: list[Sequence[str]] = [
        (pictures, names[name], f"{value:.4g}") for name, value in metrics.items()
    ]
    for method, values in ({} if report is None else report["methods"]).items():
        rows += [
            (f"{values['pictures']} pictures, {method}", name, f"{values[key]:.4g}")
            for key, name in _EVALUATED.items()
            if values.get(key) is not None
        ]
    return rows


def facts(info: CheckpointInfo, config: AnyTrainConfig, progress: dict[str, Any]) -> dict[str, Any]:
    """What the template says of model and run.

    Args:
        info: the checkpoint.
        config: The config of the run.
        progress: the training state's record.
    """
    model = info.config
    bits = model.payload_bits
    continuous = model.quantizer == "gaussian"
    task = find_task(config.task)
    lineage = task.lineage(config)
    return {
        "size": model.image_size,
        "tokens": model.code_length,
        "bits": model.token_bits,
        "payload": "continuous, not packed" if continuous else f"{model.payload_bytes} bytes",
        "bpp": f"{bits / model.image_size**2:.3f}",
        "sampler": model.sampler,
        "forwards": count_forwards(model.sampler),
        "task": f"{task.title[:1].upper()}{task.title[1:]}",
        "steps": progress["step"],
        "batch": config.batch_size,
        "samples": progress["samples"],
        "hours": f"{progress['seconds'] / 3600:.3g}",
        "images": progress["images"],
        "lineage": f" {lineage}" if lineage else "",
        "parameters": f"{sum(_size(shape) for shape in info.shapes.values()) / 1e6:.1f} M",
    }


def _size(shape: Sequence[int]) -> int:
    return int(torch.Size(shape).numel())
