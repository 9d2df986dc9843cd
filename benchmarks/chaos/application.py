"""A small service on a Ray cluster of this machine's own, to be broken."""

import io
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from flowmo.cli.server_process import ServerProcess
from flowmo.model.config import FlowMoConfig, SamplerConfig, TransformerConfig
from flowmo.model.flowmo import FlowMo
from flowmo.model.prior.checkpoint import Prior
from flowmo.model.prior.config import PriorConfig

MODEL = "nano"
SIDE = 32
# Twice of everything, so that one can fail.
_TWO = {"num_cpus": 0.1, "min_replicas": 2, "max_replicas": 2}


@dataclass(frozen=True, slots=True)
class Application:
    """What runs.

    Attributes:
        server: the process that started the cluster and stops it.
        config: what it was started with, to be redeployed with changes.
        folder: for files.
        environment: with the token that the cluster asks for.
    """

    server: ServerProcess
    config: dict[str, Any]
    folder: Path
    environment: dict[str, str]

    @property
    def url(self) -> str:
        """Of the service."""
        return self.server.url

    @property
    def log(self) -> Path:
        """The file with the JSON lines of all the application's processes."""
        return lines_of(self.folder)

    @property
    def pid(self) -> int:
        """Whose descendants the cluster's processes are."""
        return self.server.pid


def write_checkpoint(folder: Path, *, seed: int) -> Path:
    """A network so small that a request takes milliseconds, with weights that do something."""
    config = FlowMoConfig(
        name=MODEL,
        image_size=SIDE,
        patch_size=8,
        encoder=TransformerConfig(width=32, depth=1, heads=2),
        decoder=TransformerConfig(width=48, depth=1, heads=2),
        code_length=4,
        token_bits=6,
        group_bits=3,
        sampler=SamplerConfig(steps=2),
    )
    torch.manual_seed(seed)
    model = FlowMo(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    model.save_pretrained(folder)
    return folder


def write_prior(folder: Path, tokenizer: Path) -> Path:
    """A prior of the tokens of such a network, with weights that do something."""
    model = FlowMo.from_pretrained(tokenizer)
    config = PriorConfig(
        name=f"{MODEL}-prior",
        width=32,
        depth=1,
        heads=2,
        mlp_width=48,
        code_length=model.config.code_length,
        token_bits=model.config.token_bits,
        group_bits=model.config.group_bits,
        classes=2,
        tokenizer=model.fingerprint(),
    )
    torch.manual_seed(0)
    prior = Prior(config)
    for name, parameter in prior.named_parameters():
        if not name.endswith("norm.weight"):
            torch.nn.init.normal_(parameter, std=0.5)
    prior.save_pretrained(folder, dtype=torch.float32)
    return folder


def picture() -> bytes:
    """A PNG with colour in it."""
    y, x = np.mgrid[:SIDE, :SIDE] * 255 // SIDE
    pixels = np.stack([x, y, 255 - x], axis=-1).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def config_of(checkpoint: Path, *, prior: Path | None = None, **settings: Any) -> dict[str, Any]:
    """A cluster config with two replicas of everything, for two cores."""
    model: dict[str, Any] = {
        "checkpoint": str(checkpoint),
        "device": "cpu",
        "threads": 1,
        "max_queued_requests": 64,
        "encoder": _TWO,
        "decoder": _TWO,
    }
    if prior is not None:
        model |= {"prior": str(prior), "generator": _TWO}
    limits = {"cache_bytes": 0, "default_deadline_seconds": 30.0, "max_deadline_seconds": 60.0}
    return {"models": {MODEL: model}, "gateway": _TWO, "settings": limits | settings}


def write_serve_file(folder: Path, config: dict[str, Any]) -> Path:
    """The config as a ``serve deploy`` file; JSON is YAML, too."""
    path = folder / "serve.yaml"
    content = {"applications": [{"name": "flowmo", "args": config}]}
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def lines_of(folder: Path) -> Path:
    """The file with the log of an application whose files are in a folder."""
    return folder / "lines.log"


def logging_to(folder: Path) -> dict[str, str]:
    """Variables for every process of a cluster, with which its log is there, in JSON."""
    return {"FLOWMO_LOG_FORMAT": "json", "FLOWMO_LOG_FILE": str(lines_of(folder))}


@contextmanager
def running(
    folder: Path,
    *,
    address: str | None = None,
    generates: bool = False,
    **settings: Any,
) -> Iterator[Application]:
    """Start the application; stop it at the end.

    Args:
        folder: for checkpoint, config and log; made.
        address: The address of a Ray cluster that is there; one of its own by default.
        generates: Whether the model has a prior.
        settings: The gateways' settings.
    """
    folder.mkdir(parents=True, exist_ok=True)
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    environment = os.environ | (token if address is None else {"RAY_ADDRESS": address})
    environment |= logging_to(folder)
    checkpoint = write_checkpoint(folder / "checkpoint", seed=0)
    prior = write_prior(folder / "prior", checkpoint) if generates else None
    config = config_of(checkpoint, prior=prior, **settings)
    arguments = ["--ray-config", str(write_serve_file(folder, config))]
    with ServerProcess(
        arguments, log=folder / "server.log", environment=environment, start_seconds=240
    ) as server:
        yield Application(server, config, folder, environment)
