"""Reports as JSON files: training's, for all benchmarks."""

from flowmo.training.json_report import rounded, write_json

__all__ = ["rounded", "write_json"]
