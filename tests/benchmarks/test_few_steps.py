"""Students beside their teacher: what the report says of cases whose answer is known."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.few_steps import main
from flowmo.model.config import SamplerConfig
from flowmo.model.errors import ConfigError
from flowmo.model.flowmo import FlowMo

TINY = Path(__file__).parents[2] / "checkpoints/tiny"


def _with_steps(folder: Path, steps: int) -> str:
    model = FlowMo.from_pretrained(TINY)
    model.config = replace(model.config, sampler=SamplerConfig(steps=steps, guidance=1.0))
    model.save_pretrained(folder)
    return str(folder)


def test_the_teacher_as_its_own_student_gains_nothing(tmp_path: Path) -> None:
    one, three = (_with_steps(tmp_path / str(k), k) for k in (1, 3))
    out = tmp_path / "out/report"
    out.parent.mkdir()
    main([str(TINY), three, one, "--out", str(out), "--teacher-steps", "3"])
    report = json.loads(out.with_suffix(".json").read_text())
    first, second = report["students"]
    assert (first["steps"], second["steps"], report["pictures"]) == (1, 3, 6)
    assert first["student_to_teacher"] == first["untuned_to_teacher"]
    assert first["student_to_truth"] == first["untuned_to_truth"]
    assert second["student_to_truth"] == report["teacher_to_truth"]
    assert second["student_to_teacher"] > 100  # the same pictures
    assert out.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


def test_other_tokens_are_refused(tmp_path: Path) -> None:
    model = FlowMo.from_pretrained(TINY)
    model.encoder.final_layer_txt.linear.bias.data.add_(1.0)
    model.save_pretrained(tmp_path / "other")
    with pytest.raises(ConfigError, match="tokens are not the teacher's"):
        main(
            [str(TINY), str(tmp_path / "other"), "--out", str(tmp_path / "r"), "--teacher-steps=1"]
        )
