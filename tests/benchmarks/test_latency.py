import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.latency import main, time_reconstruction
from flowmo.model.config import FlowMoConfig, SamplerConfig, TransformerConfig
from flowmo.model.flowmo import FlowMo
from flowmo.model.inference import InferenceModel

PART = TransformerConfig(width=16, depth=1, heads=2)
MODEL = FlowMo(
    FlowMoConfig(
        image_size=32,
        patch_size=8,
        encoder=PART,
        decoder=PART,
        code_length=4,
        token_bits=8,
        group_bits=8,
        sampler=SamplerConfig(steps=3, guidance=1.5),
    )
)


def test_report_names_the_default_and_each_number_of_steps(tmp_path: Path) -> None:
    MODEL.save_pretrained(tmp_path / "checkpoint")
    out = tmp_path / "new" / "report.json"
    main([str(tmp_path / "checkpoint"), "--out", str(out), "--steps", "1", "2", "--repeats", "2"])
    report = json.loads(out.read_text(encoding="utf-8"))
    rows = report["reconstruction"]
    assert {name: (row["steps"], row["guidance"]) for name, row in rows.items()} == {
        "default": (3, 1.5),
        "1_steps": (1, 1.0),
        "2_steps": (2, 1.0),
    }
    for row in rows.values():
        assert 0 < row["fastest"] <= row["seconds"] <= row["slowest"]
        assert row["ratio"] == pytest.approx(row["seconds"] / rows["default"]["seconds"])


def test_nothing_is_measured_without_repetitions() -> None:
    with pytest.raises(ValueError, match="at least 1, got 0"):
        time_reconstruction(
            InferenceModel(MODEL), np.zeros((32, 32, 3), np.uint8), 0, MODEL.config.sampler
        )
