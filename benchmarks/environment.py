"""On what machine and with what software a result was measured: training's, for all benchmarks."""

from flowmo.training.environment import environment

__all__ = ["environment"]
