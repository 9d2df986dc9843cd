"""A loss on samples or on one-step estimates (supplement A.2, Table 2).

The sample loss of stage 1B at its weight is compared with the same network's distance on the
one-step estimate x_t - t v at several weights, from the same checkpoint and for the same steps.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from flowmo.training.config import TrainConfig
from flowmo.training.evaluation import EvaluationError
from flowmo.training.experiments.setup import Setup, plot, work_folder, write_result
from flowmo.training.experiments.train_and_evaluate import train_and_evaluate
from flowmo.training.loop.mesh import open_mesh

SAMPLE, ESTIMATE = "sample", "estimate"
WEIGHTS = (0.05, 0.01, 0.005, 0.001, 0.00075, 0.0005, 0.00025, 0.0001)

PAPER = {
    (SAMPLE, 0.01): 1.28,
    (ESTIMATE, 0.05): 2.57,
    (ESTIMATE, 0.01): 2.38,
    (ESTIMATE, 0.005): 2.16,
    (ESTIMATE, 0.001): 1.67,
    (ESTIMATE, 0.00075): 1.60,
    (ESTIMATE, 0.0005): 1.61,
    (ESTIMATE, 0.00025): 1.64,
    (ESTIMATE, 0.0001): 1.81,
}
"""rFID of Table 2, by where the loss is and its weight."""


def estimate_run(config: TrainConfig, weight: float) -> TrainConfig:
    """Stage 1B's run with the loss on one-step estimates: stage 1A's task, from the checkpoint.

    Args:
        config: A run of ``post-train``.
        weight: Of the perceptual term.
    """
    plain = TrainConfig(model=config.model, steps=config.steps)
    return replace(
        config,
        task="pretrain",
        # The flow loss stays; entropy and commitment concern an encoder that no longer trains.
        losses=replace(plain.losses, perceptual=weight, flow=config.losses.flow),
        post_train=plain.post_train,
        encoder_freeze_step=0,
        # "best" is chosen in neither: all weights are compared after the same steps.
        validation=plain.validation,
        keep_best=False,
    )


def loss_sweep(
    config: TrainConfig,
    *,
    setup: Setup,
    out: Path,
    weights: Sequence[float] = WEIGHTS,
) -> dict[str, Any] | None:
    """Train once with the sample loss and once a weight with the estimate's; evaluate each.

    Several processes (torchrun) train together and share the evaluations. A run that has finished
    is not trained again.

    Args:
        config: The run with the sample loss, of the task ``post-train``; its perceptual network is
            that of all runs.
        setup: How to measure.
        out: Path without suffix.
        weights: Weights of the estimate's loss.

    Returns:
        What OUT.json says; None in other ranks than 0.

    Raises:
        InterruptedExperiment: A signal stopped training; the same call goes on.
        EvaluationError: The run is none of stage 1B, or has no perceptual network, or the folder
            holds another experiment.
    """
    if config.task != "post-train" or config.perceptual.network == "none":
        raise EvaluationError(
            f"loss-sweep begins with a recipe of stage 1B with a perceptual network, got task "
            f"{config.task!r} with {config.perceptual.network!r}"
        )
    sample = replace(config, validation=estimate_run(config, 1.0).validation, keep_best=False)
    runs = [(SAMPLE, config.losses.sample_perceptual, sample)]
    runs += [(ESTIMATE, w, estimate_run(config, w)) for w in dict.fromkeys(weights)]
    networks = setup.networks()
    rows: list[dict[str, Any]] = []
    caveats: dict[str, None] = {}
    with open_mesh(config.device, config.parallel, shard_size=config.shard_size):
        for where, weight, planned in runs:
            folder = work_folder(out) / f"{where}-{weight:g}"
            run = replace(planned, output=str(folder / "run"))
            if not setup.ranks.rank:
                setup.report(f"{folder.name}: {run.steps:,} steps")
            _, report = train_and_evaluate(
                run, folder.name, setup=setup, networks=networks, folder=folder
            )
            if report is None:  # the other ranks only help
                continue
            caveats |= dict.fromkeys(report["caveats"])
            found = report["methods"]["flowmo"]
            rows.append(
                {
                    "loss": where,
                    "weight": weight,
                    **{key: found[key] for key in ("pictures", "rfid", "psnr", "ssim", "lpips")},
                    "paper_rfid": PAPER.get((where, weight)),
                }
            )
    if setup.ranks.rank:
        return None
    content = {"config": config.to_dict(), "rows": rows, "caveats": list(caveats)}
    result = write_result(out, "loss-sweep", "Table 2", content)
    _draw(rows, out)
    return result


def _draw(rows: Sequence[Mapping[str, Any]], out: Path) -> None:
    """rFID, or LPIPS or PSNR where there is none, against the weight; the sample loss is a line."""
    keys = {"rfid": "rFID", "lpips": "LPIPS", "psnr": "PSNR (dB)"}
    key = next(k for k in keys if all(row[k] is not None for row in rows))
    with plot(out, x="weight of the loss on one-step estimates", y=keys[key]) as axis:
        swept = sorted((r["weight"], r[key]) for r in rows if r["loss"] == ESTIMATE)
        if swept:
            axis.plot(*zip(*swept, strict=True), marker="o", label="on estimates")
            axis.set_xscale("log")
        for row in rows:
            if row["loss"] == SAMPLE:
                axis.axhline(row[key], linestyle="--", color="C1", label="on samples")
        if key == "rfid":
            paper = sorted((w, fid) for (where, w), fid in PAPER.items() if where == ESTIMATE)
            axis.plot(*zip(*paper, strict=True), marker="s", color="0.6", label="paper, estimates")
            axis.axhline(PAPER[SAMPLE, 0.01], linestyle=":", color="0.6", label="paper, samples")
        axis.legend(fontsize=8)
