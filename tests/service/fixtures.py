"""A very small model with random weights, real in every other respect, and a server that serves it.

A module of fixtures, because the command line's tests use them too.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch

from flowmo.cli.server_process import ServerProcess
from flowmo.model.checkpoint import inspect_checkpoint
from flowmo.model.config import FlowMoConfig, QuantizerKind, SamplerConfig, TransformerConfig
from flowmo.model.container import Container
from flowmo.model.inference import InferenceModel
from flowmo.model.prior.checkpoint import Prior
from flowmo.model.prior.config import PriorConfig
from flowmo.model.prior.sampler_config import PriorSamplerConfig
from flowmo.model.tokens import Tokens
from flowmo.service.engine.config import RunnerConfig
from flowmo.service.engine.runner import Runner
from flowmo.service.loader import load_model, load_runner
from tests.model.checkpoints import save_random

MAX_BODY_BYTES = 1_000_000
MAX_PIXELS = 1_000_000

CONFIG = FlowMoConfig(
    name="nano",
    image_size=32,
    patch_size=8,
    encoder=TransformerConfig(width=48, depth=1, heads=4),
    decoder=TransformerConfig(width=48, depth=1, heads=4),
    code_length=16,
    token_bits=12,
    group_bits=4,
    token_positions="grid",
    sampler=SamplerConfig(steps=4),
)


def save_model(folder: Path, *, seed: int, quantizer: QuantizerKind = "lfq") -> Path:
    """A checkpoint whose weights are all random, so that tokens and seeds both matter."""
    return save_random(folder, replace(CONFIG, quantizer=quantizer), seed=seed)


def cpu(checkpoint: Path) -> RunnerConfig:
    """A checkpoint, computed on the processor."""
    return RunnerConfig(checkpoint=str(checkpoint), device="cpu")


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("checkpoint"), seed=0)


@pytest.fixture(scope="session")
def other_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same shapes, other weights."""
    return save_model(tmp_path_factory.mktemp("other-checkpoint"), seed=1)


def prior_config(tokenizer: str) -> PriorConfig:
    """A very small prior of the nano model's tokens."""
    return PriorConfig(
        name="nano-prior",
        width=16,
        depth=1,
        heads=2,
        mlp_width=24,
        code_length=CONFIG.code_length,
        token_bits=CONFIG.token_bits,
        group_bits=CONFIG.group_bits,
        classes=2,
        class_names=("cat", "dog"),
        tokenizer=tokenizer,
        sampler=PriorSamplerConfig(steps=4),
    )


def save_prior(folder: Path, tokenizer: str) -> Path:
    """A prior with random weights, so large that ids depend on seeds, classes and each other."""
    prior = Prior(prior_config(tokenizer))
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, parameter in prior.named_parameters():
            if not name.endswith("norm.weight"):
                parameter.normal_(0.0, 0.5, generator=generator)
    prior.save_pretrained(folder, dtype=torch.float32)
    return folder


@pytest.fixture(scope="session")
def prior_checkpoint(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prior of the tokens of ``checkpoint``."""
    tokenizer = inspect_checkpoint(checkpoint).fingerprint
    assert tokenizer is not None
    return save_prior(tmp_path_factory.mktemp("prior"), tokenizer)


@pytest.fixture(scope="session")
def inference_model(checkpoint: Path) -> InferenceModel:
    return load_model(cpu(checkpoint))


@pytest.fixture(scope="session")
def runner(checkpoint: Path) -> Runner:
    return load_runner(cpu(checkpoint))


@pytest.fixture(scope="session")
def container(inference_model: InferenceModel) -> bytes:
    """Some tokens of the checkpoint's."""
    config = inference_model.config
    ids = np.full((config.code_length, config.ids_per_token), 9, np.int32)
    tokens = Tokens(ids=ids, group_bits=config.group_bits)
    size = config.image_size
    return Container(
        tokens=tokens, fingerprint=inference_model.fingerprint, width=size, height=size
    ).to_bytes()


@pytest.fixture(scope="session")
def server(
    checkpoint: Path, prior_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerProcess]:
    arguments = [
        f"--checkpoint={checkpoint}",
        f"--prior={prior_checkpoint}",
        f"--max-body-bytes={MAX_BODY_BYTES}",
        f"--max-pixels={MAX_PIXELS}",
        "--threads=1",
        "--cache-bytes=0",  # what these tests ask for is computed
    ]
    log = tmp_path_factory.mktemp("server") / "server.log"
    with ServerProcess(arguments, log=log) as process:
        yield process
    # Whatever a test sent, the server must not have met an error it did not expect.
    assert "Traceback" not in log.read_text()


@pytest.fixture(scope="session")
def http(server: ServerProcess) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=60.0) as client:
        yield client
