"""A run's weights as a folder that strangers can use: checkpoint, model card, figures, pictures.

    OUT/config.json, *.safetensors   the checkpoint
        README.md                    model card with the hub's metadata
        training.json                the run's config
        metrics.json                 held-out figures, and the evaluation's if there is one
        pictures.png                 held-out photographs and what comes back; of a prior what it
                                     draws, if the run names the tokenizer that decodes

The folder appears whole or not at all. What is said of a model is its type's (:mod:`.subjects`).
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from huggingface_hub import HfApi, ModelCard, ModelCardData
from huggingface_hub.errors import HfHubHTTPError

from flowmo.model.errors import CheckpointError, ConfigError
from flowmo.model.files import replacing_folder
from flowmo.training.checkpointing.checkpoint import checkpoint_folders, load_checkpoint
from flowmo.training.checkpointing.subjects import Subject, subject_of
from flowmo.training.config import TrainConfig

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
        evaluation: ``report.json`` of ``flowmo evaluate``, or for a prior of ``flowmo
            evaluate-generation``, whose figures join the card.

    Raises:
        CheckpointError: the run has no such weights.
        ConfigError: ``out`` holds something else than a release, or the report is of other weights.
    """
    chosen, words = _weights(run, which)
    if out.exists() and not (out / "training.json").exists():
        raise ConfigError(f"{out} exists and is no release; choose a folder that is not there yet")
    checkpoint = load_checkpoint(checkpoint_folders(run)[-1])
    config = TrainConfig.from_dict(checkpoint.config)
    subject = subject_of(chosen, config)
    report = _report(evaluation, subject)
    with replacing_folder(out) as folder:
        subject.model.save_pretrained(folder, dtype=torch.bfloat16)
        _write_json(folder / "training.json", checkpoint.config)
        _write_json(
            folder / "metrics.json",
            {"held_out": subject.metrics, "missing": subject.missing, "evaluation": report},
        )
        drawn = subject.draw(folder / "pictures.png")
        card = ModelCard.from_template(
            ModelCardData(library_name="flowmo-serve", license=licence, tags=subject.tags),
            template_str=subject.template,
            title=title or subject.title,
            source=source or out.name,
            figures=subject.figures(report),
            drawn=drawn,
            which=words,
            fingerprint=subject.fingerprint,
            data_note="" if data_note is None else f" ({data_note})",
            **subject.facts(checkpoint.progress),
        )
        card.save(folder / "README.md")
    return Release(
        folder=out,
        fingerprint=subject.fingerprint,
        metrics=subject.metrics,
        missing=subject.missing,
    )


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


def _report(path: Path | None, subject: Subject) -> dict[str, Any] | None:
    if path is None:
        return None
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} is no report of {subject.evaluated_by}: {error}") from error
    described = subject.fingerprints(report) if isinstance(report, dict) else []
    if subject.fingerprint not in described:
        raise ConfigError(
            f"{path} is not of these weights: it has the fingerprints {described}, they have "
            f"{subject.fingerprint}; evaluate the same folder with {subject.evaluated_by}"
        )
    assert isinstance(report, dict)
    return report


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
