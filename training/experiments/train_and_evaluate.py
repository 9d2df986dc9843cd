"""One run of an experiment that trains: to its end, and measured."""

from pathlib import Path
from typing import Any

from flowmo.training.config import TrainConfig
from flowmo.training.evaluation import Networks, load_model
from flowmo.training.experiments.setup import InterruptedExperiment, Setup
from flowmo.training.loop.trainer import TrainResult, train


def train_and_evaluate(
    run: TrainConfig, name: str, *, setup: Setup, networks: Networks, folder: Path
) -> tuple[TrainResult, dict[str, Any] | None]:
    """Train, going on where it was stopped, and evaluate what came of it.

    Args:
        run: The run.
        name: Of it, for the message of an interruption.
        setup: How it is measured.
        networks: For the metrics.
        folder: The folder that the evaluation goes on from, by the number of steps.

    Returns:
        What came of training, and the evaluation's report; None in other ranks than 0.

    Raises:
        InterruptedExperiment: A signal stopped training; the same call goes on.
        EvaluationError: The folder holds an evaluation of other settings.
    """
    trained = train(run, resume=True)
    if trained.stopped == "interrupted":
        raise InterruptedExperiment(f"interrupted at {name}, step {trained.step}")
    model = load_model(str(trained.export), device=setup.place, precision=setup.precision)
    report = setup.evaluate(
        [setup.method(model)],
        size=model.config.image_size,
        networks=networks,
        folder=folder / f"evaluation-{trained.step}",
    )
    return trained, report
