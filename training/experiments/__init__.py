"""Experiments of the paper as functions: ``flowmo experiment`` (docs/experiments.md).

Each writes OUT.json and OUT.png, keeps its intermediate files in OUT.work, and goes on from there
when it is called again.
"""

from flowmo.training.experiments.loss_sweep import loss_sweep
from flowmo.training.experiments.noise_norm import noise_norm
from flowmo.training.experiments.post_training import post_training
from flowmo.training.experiments.precision_recall import precision_recall
from flowmo.training.experiments.published import published
from flowmo.training.experiments.resolutions import resolutions
from flowmo.training.experiments.setup import InterruptedExperiment, Setup
from flowmo.training.experiments.wall_clock import wall_clock
from flowmo.training.experiments.width_scaling import width_scaling

__all__ = [
    "InterruptedExperiment",
    "Setup",
    "loss_sweep",
    "noise_norm",
    "post_training",
    "precision_recall",
    "published",
    "resolutions",
    "wall_clock",
    "width_scaling",
]
