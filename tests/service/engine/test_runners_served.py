"""Which runner serves: the one that was asked for, or PyTorch and a word in the log."""

import logging
from pathlib import Path

import pytest
import torch

from flowmo.cores import usable_cores
from flowmo.deploy.buckets import powers_of_two
from flowmo.model.errors import ConfigError
from flowmo.service.engine.config import RunnerConfig
from flowmo.service.engine.sizes import TORCH
from flowmo.service.loader import load_runner

without_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")


@without_gpu
@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("compiled-fp8", "compute capability 8.9"),
        ("kernels", "are for a CUDA device"),
        ("kernels-fp8", "are for a CUDA device"),
        ("tensorrt", "no CUDA device"),
    ],
)
def test_without_a_gpu_pytorch_serves_and_the_log_says_why(
    kind: str,
    message: str,
    checkpoint: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))  # or the runner would set it
    with caplog.at_level(logging.WARNING, logger="flowmo.service.loader"):
        runner = load_runner(RunnerConfig(checkpoint=str(checkpoint), runner=kind))
    assert runner.info.runner == TORCH
    assert runner.info.is_fallback
    (record,) = caplog.records
    assert "PyTorch computes instead" in record.getMessage()
    assert message in record.getMessage()


def test_a_served_model_says_what_computes_it(checkpoint: Path, tmp_path: Path) -> None:
    runners = [
        load_runner(
            RunnerConfig(
                checkpoint=str(checkpoint), runner=kind, engine_cache=tmp_path, build_engines=True
            )
        )
        for kind in (TORCH, "onnxruntime")
    ]
    assert [runner.info.runner for runner in runners] == [TORCH, "onnxruntime"]
    assert not any(runner.info.is_fallback for runner in runners)
    pictures = torch.randint(0, 256, (2, 32, 32, 3), dtype=torch.uint8).numpy()
    one, other = (runner.encode(pictures) for runner in runners)
    same = [(a.ids == b.ids).mean() for a, b in zip(one, other, strict=True)]
    assert min(same) > 0.95  # a bit may flip where the code is nearly zero


def test_unknown_runners_are_named(checkpoint: Path) -> None:
    with pytest.raises(ConfigError, match=r"torch, compiled, .*'fastest'"):
        load_runner(RunnerConfig(checkpoint=str(checkpoint), runner="fastest"))
    with pytest.raises(ConfigError, match="not a module:function that can be imported"):
        load_runner(RunnerConfig(checkpoint=str(checkpoint), runner="no_such_module:make"))


def test_threads_are_measured_when_asked_for(checkpoint: Path) -> None:
    before = torch.get_num_threads()
    try:
        load_runner(RunnerConfig(checkpoint=str(checkpoint), threads=0))
        assert torch.get_num_threads() in powers_of_two(usable_cores())
    finally:
        torch.set_num_threads(before)
