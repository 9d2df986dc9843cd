"""A run's weights as a folder that strangers can use: checkpoint, model card, figures, pictures.

    OUT/config.json, *.safetensors   the checkpoint
        README.md                    model card with the hub's metadata
        training.json                the run's config
        metrics.json                 held-out figures, and the evaluation's if there is one
        pictures.png                 held-out photographs and what comes back

The folder appears whole or not at all.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from huggingface_hub import HfApi, ModelCard, ModelCardData
from huggingface_hub.errors import HfHubHTTPError

from flowmo.imaging.tensors import to_images
from flowmo.model import registry
from flowmo.model.checkpoint import inspect_checkpoint
from flowmo.model.errors import CheckpointError, ConfigError
from flowmo.model.files import replacing_folder
from flowmo.model.flowmo import FlowMo
from flowmo.model.sampler import noise
from flowmo.training.checkpointing.checkpoint import checkpoint_folders, load_checkpoint
from flowmo.training.checkpointing.model_card import TEMPLATE, facts, figures
from flowmo.training.config import TrainConfig, ValidationConfig
from flowmo.training.data.held_out import HELD_OUT_SHA256
from flowmo.training.data.pictures import held_out_pictures
from flowmo.training.loop.samples import grid, save_picture
from flowmo.training.tasks.validation import Validator

Which = Literal["best", "export", "auto"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Release:
    """What was written.

    Attributes:
        folder: where.
        fingerprint: The fingerprint of the model.
        metrics: The held-out figures by name.
        missing: Why a figure was left out, by its name.
    """

    folder: Path
    fingerprint: str
    metrics: dict[str, float]
    missing: dict[str, str]


def release(
    run: Path,
    out: Path,
    *,
    which: Which = "auto",
    title: str | None = None,
    licence: str | None = None,
    data_note: str | None = None,
    source: str | None = None,
    evaluation: Path | None = None,
) -> Release:
    """Write the release of a run.

    Args:
        run: folder of :func:`flowmo.training.loop.trainer.train`.
        out: the new folder; one of an earlier release is replaced.
        which: weights of the best validation, or the last ones; ``auto`` is the best if there are.
        title: The title of the card; the model's name by default.
        licence: The licence of the weights, by its SPDX name in lower case as the hub has it.
        data_note: what the images are, in words for the card.
        source: where users will find it, such as ``owner/name``; ``out`` by default.
        evaluation: ``report.json`` of ``flowmo evaluate``, whose figures join the card.

    Raises:
        CheckpointError: the run has no such weights.
        ConfigError: ``out`` holds something else than a release, or the report is of other weights.
    """
    chosen, words = _weights(run, which)
    if out.exists() and not (out / "training.json").exists():
        raise ConfigError(f"{out} exists and is no release; choose a folder that is not there yet")
    checkpoint = load_checkpoint(checkpoint_folders(run)[-1])
    config = TrainConfig.from_dict(checkpoint.config)
    # Cards and held-out figures are those of a tokenizer; another model is refused here.
    model = registry.load(chosen, expected=FlowMo, dtype=torch.float32)
    info = inspect_checkpoint(chosen)
    # A release is in bf16, and its figures are those of what is released.
    for parameter in model.parameters():
        parameter.data = parameter.data.bfloat16().float()
    fingerprint = model.fingerprint()
    validator = Validator(
        config.validation, size=model.config.image_size, device=torch.device("cpu")
    )
    metrics = validator.measure(model)
    report = _report(evaluation, fingerprint)
    with replacing_folder(out) as folder:
        model.save_pretrained(folder, dtype=torch.bfloat16)
        _write_json(folder / "training.json", checkpoint.config)
        _write_json(
            folder / "metrics.json",
            {"held_out": metrics, "missing": validator.missing, "evaluation": report},
        )
        _draw(model, config.validation, folder / "pictures.png")
        card = ModelCard.from_template(
            ModelCardData(
                library_name="flowmo-serve",
                license=licence,
                tags=["image-tokenizer", "image-compression", "flowmo"],
            ),
            template_str=TEMPLATE,
            title=title or f"FlowMo {info.config.name}",
            source=source or out.name,
            figures=figures(metrics, config.validation, report),
            which=words,
            fingerprint=fingerprint,
            data_note="" if data_note is None else f" ({data_note})",
            **facts(info, config, checkpoint.progress),
        )
        card.save(folder / "README.md")
    return Release(folder=out, fingerprint=fingerprint, metrics=metrics, missing=validator.missing)


def push(folder: Path, repository: str, *, private: bool = False, token: str | None = None) -> str:
    """Upload a release to the hub, in one commit; the repository is made if it does not exist.

    Args:
        folder: The folder of :func:`release`.
        repository: ``owner/name``.
        private: Whether a new repository is private.
        token: The token of the hub; the stored one by default.

    Returns:
        The address of the commit.

    Raises:
        CheckpointError: the hub refused, or cannot be reached.
    """
    api = HfApi(token=token)
    try:
        api.create_repo(repository, private=private, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repository, folder_path=folder, commit_message="Release of flowmo-serve"
        )
    except (HfHubHTTPError, OSError) as error:
        raise CheckpointError(f"{repository} cannot be written to: {error}") from error
    return str(commit.commit_url)


def _weights(run: Path, which: Which) -> tuple[Path, str]:
    if not checkpoint_folders(run):
        raise CheckpointError(
            f"{run} holds no finished run: there is no checkpoint in {run / 'checkpoints'}"
        )
    best = (run / "best").is_dir()
    if which == "best" and not best:
        raise CheckpointError(f"{run} has no best weights: it was trained without validation")
    chosen = "best" if best and which != "export" else "export"
    words = "average, best validation" if chosen == "best" else "average, last step"
    return run / chosen, words


@torch.no_grad()
def _draw(model: FlowMo, config: ValidationConfig, path: Path) -> None:
    pictures = held_out_pictures(config.paths, model.config.image_size, limit=len(HELD_OUT_SHA256))
    images = to_images(pictures)
    start = noise(range(len(images)), tuple(images.shape[1:]))
    came = model.decode(model.quantize(model.encode(images)), start=start)
    save_picture(grid(images, came), path)


def _report(path: Path | None, fingerprint: str) -> dict[str, Any] | None:
    if path is None:
        return None
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} is no report of `flowmo evaluate`: {error}") from error
    methods = report.get("methods", {}) if isinstance(report, dict) else {}
    described = [method["method"].get("fingerprint") for method in methods.values()]
    if fingerprint not in described:
        raise ConfigError(
            f"{path} is not of these weights: it has the fingerprints "
            f"{[came for came in described if came]}, they have {fingerprint}; evaluate the same "
            f"folder"
        )
    assert isinstance(report, dict)
    return report


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
