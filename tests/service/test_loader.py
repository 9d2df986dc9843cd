"""Checkpoints to what computes."""

import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from flowmo.model.errors import CheckpointError, ConfigError
from flowmo.model.inference import HALVES, Half, InferenceModel
from flowmo.model.tokens import Tokens
from flowmo.service.engine.config import DEFAULT_CHECKPOINT, RunnerConfig
from flowmo.service.engine.runner import Runner
from flowmo.service.engine.torch_runner import TorchRunner
from flowmo.service.loader import (
    buckets_of,
    load_generator,
    load_model,
    load_prior_of,
    load_runner,
    resolve,
    with_prior,
)
from tests.service.fixtures import CONFIG, cpu, save_model
from tests.service.models import pictures_of, tokens_of
from tests.service.pictures import gradient

PICTURE = gradient(32, 32)


def test_a_runner_says_what_it_serves(runner: Runner) -> None:
    info = runner.info
    assert info.config == CONFIG
    assert (info.name, info.image_size, info.sampler) == ("nano", 32, CONFIG.sampler)
    assert (info.device, info.dtype, info.runner) == ("cpu", "float32", "torch")
    assert len(info.fingerprint) == 32
    assert runner.buckets == (1, 2, 4, 8)


def test_weights_decide_the_fingerprint(runner: Runner, other_checkpoint: Path) -> None:
    assert load_runner(cpu(other_checkpoint)).info.fingerprint != runner.info.fingerprint


def test_a_prior_goes_to_the_models_whose_tokens_it_knows(
    checkpoint: Path, other_checkpoint: Path, prior_checkpoint: Path, runner: Runner
) -> None:
    prior = str(prior_checkpoint)
    models = {"other": cpu(other_checkpoint), "nano": cpu(checkpoint)}
    assert {name: one.prior for name, one in with_prior(models, prior).items()} == {
        "other": None,
        "nano": prior,
    }
    with pytest.raises(ConfigError, match="none of the models is that: other"):
        with_prior({"other": cpu(other_checkpoint)}, prior)
    shipped = {"nano": cpu(checkpoint), "shipped": cpu(Path("tiny"))}
    assert with_prior(shipped, "prior-tiny")["shipped"].prior == "prior-tiny"
    asked = cpu(checkpoint).model_copy(update={"prior": prior})
    loaded = load_generator(asked, runner.info)
    assert loaded is not None
    assert (loaded.info.config.tokenizer, loaded.buckets) == (runner.info.fingerprint, (1, 2, 4, 8))
    with pytest.raises(ConfigError, match="is made for the tokens of"):
        load_prior_of(cpu(other_checkpoint).model_copy(update={"prior": prior}))
    with pytest.raises(CheckpointError, match="where one of type prior is needed"):
        load_generator(asked.model_copy(update={"prior": str(checkpoint)}), runner.info)


def test_a_batch_gives_what_its_rows_give_alone(inference_model: InferenceModel) -> None:
    pictures = np.stack([PICTURE, PICTURE[::-1], PICTURE[:, ::-1]])
    tokens = tokens_of(inference_model, pictures)
    assert tokens == [tokens_of(inference_model, picture[None])[0] for picture in pictures]
    batch = pictures_of(inference_model, tokens, seeds=[3, 1, 2], sampler=CONFIG.sampler)
    assert batch.shape == (3, 32, 32, 3)
    assert batch.dtype == np.uint8
    for row, seed, picture in zip(tokens, [3, 1, 2], batch, strict=True):
        (alone,) = pictures_of(inference_model, [row], seeds=[seed], sampler=CONFIG.sampler)
        assert np.abs(alone.astype(int) - picture).max() <= 1


def test_another_dtype_is_the_same_model(checkpoint: Path, inference_model: InferenceModel) -> None:
    half = load_model(RunnerConfig(checkpoint=str(checkpoint), device="cpu", dtype="bfloat16"))
    assert str(half.dtype) == "torch.bfloat16"
    assert half.fingerprint == inference_model.fingerprint
    tokens = tokens_of(inference_model, PICTURE[None])
    pictures = [
        pictures_of(model, tokens, seeds=[0], sampler=CONFIG.sampler)
        for model in (inference_model, half)
    ]
    assert np.abs(pictures[0].astype(int) - pictures[1]).mean() < 8


@pytest.mark.parametrize("half", HALVES)
def test_a_half_alone_computes_what_it_does_with_the_other(
    half: Half, checkpoint: Path, runner: Runner
) -> None:
    alone = load_runner(cpu(checkpoint), halves=[half])
    assert alone.info == runner.info
    tokens = Tokens(ids=np.full((16, 3), 9, np.int32), group_bits=4)

    def encode(runner: Runner) -> list[Tokens]:
        return runner.encode(PICTURE[None])

    def step(runner: Runner) -> list[float]:
        x, condition = runner.begin(tokens, 3)
        velocity: list[float] = runner.velocity(x[None], [0.5], condition[None]).flatten().tolist()
        return velocity

    compute: dict[Half, Callable[[Runner], Any]] = {"encoder": encode, "decoder": step}
    of_half = compute.pop(half)
    expected = of_half(runner)
    # A rounding of the last bit apart: where the weights lie in memory changes the order of sums.
    assert of_half(alone) == (expected if half == "encoder" else pytest.approx(expected, abs=1e-5))
    for other in compute.values():
        with pytest.raises(ConfigError, match="without its"):
            other(alone)


@pytest.mark.parametrize("half", HALVES)
def test_a_half_alone_has_no_weights_of_the_other(half: Half, checkpoint: Path) -> None:
    both, alone = (load_model(cpu(checkpoint), halves=halves) for halves in (HALVES, [half]))

    def bytes_of(model: InferenceModel) -> int:
        gc.collect()
        held: dict[int, object] = {id(model): model}
        stack: list[object] = [model]
        while stack:
            for one in gc.get_referents(stack.pop()):
                if id(one) not in held and isinstance(one, dict | torch.nn.Module | torch.Tensor):
                    held[id(one)] = one
                    stack.append(one)
        tensors = [one for one in held.values() if isinstance(one, torch.Tensor)]
        return sum(tensor.nbytes for tensor in tensors)

    network = {"encoder": both.encoder, "decoder": both.decoder}[half]
    other = {"encoder": both.decoder, "decoder": both.encoder}[half]
    own, spared = (sum(p.nbytes for p in one.parameters()) for one in (network, other))
    assert own <= bytes_of(alone) <= bytes_of(both) - spared


def test_a_half_alone_is_compiled_alone(checkpoint: Path, tmp_path: Path) -> None:
    config = cpu(checkpoint).model_copy(
        update={"runner": "onnxruntime", "build_engines": True, "engine_cache": tmp_path}
    )
    runner = load_runner(config, halves=["encoder"])
    assert not runner.info.is_fallback
    assert [path.suffix for path in tmp_path.rglob("encoder*.onnx")] == [".onnx"]
    assert not list(tmp_path.rglob("decoder*"))
    assert runner.encode(PICTURE[None]) == load_runner(cpu(checkpoint)).encode(PICTURE[None])


def test_a_runner_of_ones_own_gets_the_config(checkpoint: Path) -> None:
    config = RunnerConfig(
        checkpoint=str(checkpoint), device="cpu", max_batch=6, runner=f"{__name__}:make_own"
    )
    runner = load_runner(config)
    assert isinstance(runner, OwnRunner)
    assert runner.buckets == (1, 2, 4, 6)


class OwnRunner(TorchRunner):
    """A runner as an operator would write it."""


def make_own(config: RunnerConfig) -> OwnRunner:
    model = load_model(config)
    return OwnRunner(model, buckets=buckets_of(model.device.type, config.max_batch))


# --- which checkpoint ---------------------------------------------------------------------------


def test_the_default_is_the_model_that_comes_with_the_package() -> None:
    root = Path(__file__).parents[2]
    assert RunnerConfig().checkpoint == DEFAULT_CHECKPOINT == "tiny"
    assert resolve(RunnerConfig()).resolve() == root / "checkpoints" / "tiny"


def test_a_missing_checkpoint_is_named(tmp_path: Path) -> None:
    for name in (str(tmp_path / "nothing-here"), "nothing-here"):
        with pytest.raises(CheckpointError, match="nothing-here"):
            load_model(RunnerConfig(checkpoint=name))


@pytest.mark.parametrize("name", ["", "."])
def test_no_folder_of_checkpoints_is_taken_for_one(name: str) -> None:
    with pytest.raises(CheckpointError):
        load_model(RunnerConfig(checkpoint=name))


def test_a_continuous_model_has_no_tokens_to_serve(tmp_path: Path) -> None:
    folder = save_model(tmp_path / "continuous", seed=0, quantizer="gaussian")
    with pytest.raises(CheckpointError, match="continuous model"):
        load_runner(cpu(folder))


def test_an_unusable_device_is_named(checkpoint: Path) -> None:
    with pytest.raises(ConfigError, match="device 'abacus' cannot be used"):
        load_runner(RunnerConfig(checkpoint=str(checkpoint), device="abacus"))
