"""The model card of a prior: its text, and the facts in it."""

import math
from collections.abc import Sequence
from typing import Any

import torch

from flowmo.model.checkpoint import CheckpointInfo
from flowmo.model.prior.config import PriorConfig
from flowmo.training.config import TrainConfig
from flowmo.training.tasks.prior_validation import MASK_RATES

TEMPLATE = """---
{{ card_data }}
---

# {{ title }}

A prior over the tokens of a [FlowMo](https://arxiv.org/abs/2503.11056) tokenizer (section A.3): it
draws the {{ ids }} ids of {{ bits }} bits of an image, of {{ classes }}, and the tokenizer decodes
them. It completes images of which some tokens are known, too.
{% if drawn %}
![Generated pictures, classes in turn](pictures.png)
{% endif %}
It knows the tokens of one tokenizer, of the fingerprint `{{ tokenizer }}`, and refuses others.

## Use

    pip install flowmo-serve

```python
from flowmo.model import registry
from flowmo.model.prior.checkpoint import Prior

prior = registry.load("{{ source }}", expected=Prior)
ids = prior.generate([prior.config.class_number({{ example }})], seeds=[0])  # int64 [1, {{ ids }}]
```

By default it draws in {{ sampler.steps }} steps with guidance {{ sampler.guidance }} and
temperature {{ sampler.temperature }}.

## Figures

| measured on | what | value |
|---|---|---|
{% for row in figures %}| {{ row[0] }} | {{ row[1] }} | {{ row[2] }} |
{% endfor %}
Ids of which a share is masked are predicted from the others and the class; of {{ bits }} bits none
are predicted where the cross-entropy is {{ bits }}. Compare priors of the same tokens only.

## Training

{{ steps }} steps of batch {{ batch }} ({{ samples }} samples, {{ hours }} hours) on the tokens of
{{ images }} rows{{ data_note }}. Every setting is in `training.json`.

| | |
|---|---|
| parameters | {{ parameters }} |
| fingerprint | `{{ fingerprint }}` |
| weights | {{ which }} |
"""

_EVALUATED = {
    "gfid": "gFID",
    "sfid": "sFID",
    "inception_score": "inception score",
    "precision": "precision",
    "recall": "recall",
}


def figures(metrics: dict[str, float], report: dict[str, Any] | None) -> list[Sequence[str]]:
    """Rows of the card's table: measured on, what, value.

    Args:
        metrics: Of the validation, cross-entropy in nats; none where there was none.
        report: The report of ``flowmo evaluate-generation``, or None.
    """
    rows: list[Sequence[str]] = []
    for rate in MASK_RATES if metrics else ():
        key = round(100 * rate)
        where = f"held-out ids, {key} % masked"
        bits = metrics[f"cross_entropy_at_{key}"] / math.log(2)
        rows.append((where, "cross-entropy (bits an id)", f"{bits:.3f}"))
        rows.append((where, "accuracy", f"{metrics[f'accuracy_at_{key}']:.4f}"))
    for name, values in ({} if report is None else report["samplers"]).items():
        rows += [
            (f"{values['pictures']} generated pictures, {name}", title, f"{values[key]:.4g}")
            for key, title in _EVALUATED.items()
            if values.get(key) is not None
        ]
    return rows


def facts(
    info: CheckpointInfo[PriorConfig], config: TrainConfig[PriorConfig], progress: dict[str, Any]
) -> dict[str, Any]:
    """What the template says of model and run.

    Args:
        info: The checkpoint.
        config: The config of the run.
        progress: The training state's record.
    """
    model = info.config
    names = ", ".join(model.class_names[:12]) + (" ..." if len(model.class_names) > 12 else "")
    known = f"{model.classes} classes" + (f" ({names})" if names else "")
    count = sum(int(torch.Size(shape).numel()) for shape in info.shapes.values())
    return {
        "ids": model.length,
        "bits": model.group_bits,
        "classes": known if model.classes else "no class",
        "example": repr(model.class_names[0] if model.class_names else None),
        "tokenizer": model.tokenizer,
        "sampler": model.sampler,
        "steps": progress["step"],
        "batch": config.batch_size,
        "samples": progress["samples"],
        "hours": f"{progress['seconds'] / 3600:.3g}",
        "images": progress["images"],
        "parameters": f"{count / 1e6:.1f} M",
    }
