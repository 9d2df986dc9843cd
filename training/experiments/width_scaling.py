"""How quality grows with the decoder's width (supplement C.3).

The paper's table has 260, 367, 517 and 710 million parameters at muP widths 2, 3, 4 and 5. Those
are the numbers of the preset ``small`` with the *decoder* 192 w wide and the encoder as it is
(768); with both scaled they would be 130, 291, 517 and 807. The published Lo and Hi, too, have a
wider decoder only. So that is what is scaled here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from flowmo.model.config import FlowMoConfig, TransformerConfig
from flowmo.model.network import FlowMoNetwork
from flowmo.training.config import TrainConfig
from flowmo.training.evaluation import EvaluationError
from flowmo.training.experiments.setup import Setup, plot, work_folder, write_result
from flowmo.training.experiments.train_and_evaluate import train_and_evaluate
from flowmo.training.loop.mesh import open_mesh

WIDTHS = (2, 3, 4, 5)
UNIT = 192
STEPS = 200_000


def widened(model: FlowMoConfig, width: int) -> FlowMoConfig:
    """A model with another decoder width, its heads as many as before.

    Raises:
        ConfigError: the heads do not divide the width.
    """
    shape = model.decoder
    # Rotary dimensions are those of the new head dimension.
    decoder = TransformerConfig(
        width=width, depth=shape.depth, heads=shape.heads, mlp_ratio=shape.mlp_ratio
    )
    return replace(model, name=f"{model.name}, decoder {width}", decoder=decoder)


def parameters(model: FlowMoConfig) -> int:
    """Trainable numbers of a model; nothing is allocated."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in FlowMoNetwork(model).parameters())


def width_scaling(
    config: TrainConfig,
    *,
    setup: Setup,
    out: Path,
    widths: Sequence[int] = WIDTHS,
    unit: int = UNIT,
) -> dict[str, Any] | None:
    """Train a model at each width and evaluate it.

    Several processes (torchrun) train together and share the evaluations.

    Args:
        config: the run at all widths, but for the decoder's width and the output folder: a recipe's
            with ``steps`` set (the paper: ``fewer-params``, 200,000 steps). A width whose run has
            finished is not trained again.
        setup: how to measure.
        out: path without suffix.
        widths: muP widths w.
        unit: the decoder is unit x w wide.

    Returns:
        What OUT.json says; None in other ranks than 0.

    Raises:
        InterruptedExperiment: a signal stopped training; the same call goes on.
        EvaluationError: no widths, the recipe trains no tokenizer, or an evaluation of other
            settings.
        ConfigError: a width that the heads do not divide.
    """
    if not isinstance(config.model, FlowMoConfig):
        raise EvaluationError(
            f"width-scaling widens the decoder of a tokenizer, and the task {config.task!r} trains "
            f"none; name a recipe such as fewer-params"
        )
    if not widths:
        raise EvaluationError("width-scaling needs at least one width")
    runs = {
        w: replace(
            config,
            model=widened(config.model, unit * w),
            output=str(work_folder(out) / f"width-{w}" / "run"),
        )
        for w in dict.fromkeys(widths)
    }
    networks = setup.networks()
    rows: list[dict[str, Any]] = []
    caveats: dict[str, None] = {}
    # One group for all widths: a process that has done its part of an evaluation waits in it.
    with open_mesh(config.device, config.parallel, shard_size=config.shard_size):
        for w, run in runs.items():
            if not setup.ranks.rank:
                setup.report(f"width {w}: {parameters(run.model) / 1e6:.0f} million parameters")
            folder = work_folder(out) / f"width-{w}"
            trained, report = train_and_evaluate(
                run, f"width {w}", setup=setup, networks=networks, folder=folder
            )
            if report is None:  # the other ranks only help
                continue
            caveats |= dict.fromkeys(report["caveats"])
            figures = report["methods"]["flowmo"]
            rows.append(
                {
                    "width": w,
                    "decoder_width": unit * w,
                    "parameters": parameters(run.model),
                    "steps": trained.step,
                    "training_seconds": trained.seconds,
                    **{key: figures[key] for key in ("pictures", "rfid", "psnr", "ssim", "lpips")},
                }
            )
    if setup.ranks.rank != 0:
        return None
    content = {"config": config.to_dict(), "rows": rows, "caveats": list(caveats)}
    result = write_result(out, "width-scaling", "C.3", content)
    _draw(rows, out)
    return result


def _draw(rows: Sequence[Mapping[str, Any]], out: Path) -> None:
    """PSNR, and rFID where there is one, against parameters."""
    millions = [row["parameters"] / 1e6 for row in rows]
    with plot(out, x="parameters (millions)", y="PSNR (dB)") as axis:
        axis.plot(millions, [row["psnr"] for row in rows], marker="o", label="PSNR")
        for row, x in zip(rows, millions, strict=True):
            axis.annotate(f"{row['width']}", (x, row["psnr"]), fontsize=8)
        if all(row["rfid"] is not None for row in rows):
            other = axis.twinx()
            other.set_ylabel("rFID")
            other.plot(millions, [row["rfid"] for row in rows], marker="s", color="C1")
            axis.plot([], [], marker="s", color="C1", label="rFID")
        axis.legend(fontsize=8)
