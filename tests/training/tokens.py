"""Data sets of tokens and runs over them, as small as can be."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.format import open_memmap

from flowmo.model.prior.config import PriorConfig
from flowmo.training.config import DataConfig, OptimizerConfig, PriorTrainConfig, TrainConfig

TOKENIZER = "ab" * 16


def write_tokens(folder: Path, ids: np.ndarray, labels: np.ndarray, **changes: Any) -> Path:
    """A data set as `flowmo tokenize-dataset` writes it."""
    folder.mkdir(parents=True)
    mapped = open_memmap(folder / "ids.npy", mode="w+", dtype=np.uint16, shape=ids.shape)
    mapped[:] = ids
    mapped.flush()
    np.save(folder / "labels.npy", labels.astype(np.int32))
    record = {
        "format_version": 1,
        "tokenizer": TOKENIZER,
        "code_length": 1,
        "token_bits": 4,
        "group_bits": 2,
        "classes": 2,
        "class_names": ["a", "b"],
        "flips": False,
        "rows": len(ids),
    }
    (folder / "dataset.json").write_text(json.dumps(record | changes))
    return folder


def prior_run(tokens: Path, output: Path, **changes: object) -> TrainConfig[PriorConfig]:
    model = PriorConfig(
        name="micro", width=32, depth=2, heads=2, mlp_width=64, code_length=1, token_bits=1,
        group_bits=1,
    )  # fmt: skip
    values: dict[str, Any] = {
        "task": "prior",
        "model": model,
        "data": DataConfig(paths=(str(tokens),)),
        "optimizer": OptimizerConfig(learning_rate=3e-3, schedule="linear"),
        "prior": PriorTrainConfig(label_smoothing=0.0),
        "output": str(output),
        "steps": 6,
        "batch_size": 8,
        "precision": "float32",
        "device": "cpu",
        "ema_ramp": True,
        "log_interval": 2,
        "sample_interval": 0,
        "checkpoint_interval": 0,
        "tensorboard": False,
    }
    return TrainConfig(**(values | changes))
