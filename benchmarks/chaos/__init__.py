"""Faults under load, and what becomes of the requests: ``python -m benchmarks.chaos``."""
