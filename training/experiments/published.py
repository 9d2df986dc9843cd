"""The published checkpoints under the published protocol, beside the paper's figures (Table 1)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import hf_hub_download

from flowmo.model.checkpoint_files import CONFIG_FILE
from flowmo.model.config import FlowMoConfig
from flowmo.model.config import preset as find_preset
from flowmo.model.errors import CheckpointError
from flowmo.model.hub_conversion import HUB_ERRORS
from flowmo.model.published import convert_published
from flowmo.training.evaluation import EvaluationError, load_model
from flowmo.training.experiments.setup import Setup, plot, work_folder, write_result

REPOSITORY = "ksarge/FlowMo"

FIGURES = ("rfid", "psnr", "ssim", "lpips")


@dataclass(frozen=True, kw_only=True, slots=True)
class PublishedModel:
    """A published checkpoint, and what the paper's Table 1 says of it.

    Attributes:
        file: Its name in :data:`REPOSITORY`.
        preset: The name of its config.
        paper: rFID, PSNR (dB), SSIM and LPIPS over the 50,000 validation images of ImageNet-1K.
    """

    file: str
    preset: str
    paper: Mapping[str, float]


PUBLISHED = {
    "lo": PublishedModel(
        file="flowmo_lo.pth",
        preset="lo",
        paper={"rfid": 0.95, "psnr": 22.07, "ssim": 0.649, "lpips": 0.113},
    ),
    "hi": PublishedModel(
        file="flowmo_hi.pth",
        preset="hi",
        paper={"rfid": 0.56, "psnr": 24.93, "ssim": 0.785, "lpips": 0.073},
    ),
}


def published(
    names: Sequence[str],
    *,
    setup: Setup,
    out: Path,
    files: Mapping[str, Path] | None = None,
    configs: Mapping[str, FlowMoConfig] | None = None,
) -> dict[str, Any] | None:
    """Download, convert to float32, evaluate, compare.

    Args:
        names: Of :data:`PUBLISHED`.
        setup: How to measure: the protocol ``paper`` and the validation images of ImageNet-1K, or
            the figures are not the paper's.
        out: Path without suffix.
        files: Published files by name that are here already, and are not downloaded.
        configs: Other configs than the presets', by name; tests have small ones.

    Returns:
        What OUT.json says; None in other ranks than 0.

    Raises:
        CheckpointError: A file cannot be had, or is not what it should be.
        EvaluationError: No such name, or the folder holds another experiment.
    """
    if not names or any(name not in PUBLISHED for name in names):
        raise EvaluationError(f"published models are {', '.join(PUBLISHED)}, got {list(names)}")
    networks = setup.networks()
    rows: dict[str, dict[str, Any]] = {}
    caveats: dict[str, None] = {}
    for name in dict.fromkeys(names):
        folder = work_folder(out) / name
        config = (configs or {}).get(name) or find_preset(PUBLISHED[name].preset)
        checkpoint = folder / "checkpoint"
        if not (checkpoint / CONFIG_FILE).exists() and setup.ranks.rank == 0:
            setup.report(f"{name}: fetching and converting {PUBLISHED[name].file}")
            file = (files or {}).get(name) or _download(PUBLISHED[name].file)
            convert_published(file, config, checkpoint, dtype=torch.float32)
        setup.wait_for(checkpoint / CONFIG_FILE)
        model = load_model(str(checkpoint), device=setup.place, precision=setup.precision)
        report = setup.evaluate(
            [setup.method(model)],
            size=config.image_size,
            networks=networks,
            folder=folder / "evaluation",
        )
        if report is None:
            continue
        caveats |= dict.fromkeys(report["caveats"])
        figures = report["methods"]["flowmo"]
        paper = PUBLISHED[name].paper
        rows[name] = {
            "fingerprint": model.fingerprint,
            "bits_per_pixel": config.payload_bits / config.image_size**2,
            "pictures": figures["pictures"],
            "ours": {key: figures[key] for key in FIGURES},
            "paper": dict(paper),
            "difference": {
                key: None if figures[key] is None else figures[key] - paper[key] for key in FIGURES
            },
        }
    if setup.ranks.rank:
        return None
    if setup.protocol.name != "paper":
        caveats |= {f"Measured under the protocol {setup.protocol.name!r}, not the paper's.": None}
    content = {"protocol": setup.protocol.name, "models": rows, "caveats": list(caveats)}
    result = write_result(out, "published", "Table 1 of the paper", content)
    _draw(rows, out)
    return result


def _download(file: str) -> Path:
    try:
        return Path(hf_hub_download(REPOSITORY, file))
    except HUB_ERRORS as error:
        raise CheckpointError(
            f"{REPOSITORY}:{file} cannot be downloaded ({str(error)[:300]}); download it elsewhere "
            f"and name it, as --file lo=flowmo_lo.pth"
        ) from error


def _draw(rows: Mapping[str, Mapping[str, Any]], out: Path) -> None:
    """rFID against PSNR: ours and the paper's."""
    with plot(out, x="PSNR (dB)", y="rFID") as axis:
        for name, row in rows.items():
            ours, paper = row["ours"], row["paper"]
            axis.plot(paper["psnr"], paper["rfid"], "s", label=f"{name}, paper")
            if ours["rfid"] is None:
                axis.axvline(ours["psnr"], linestyle=":", label=f"{name}, ours (no rFID)")
            else:
                axis.plot(ours["psnr"], ours["rfid"], "o", label=f"{name}, ours")
        axis.legend(fontsize=8)
