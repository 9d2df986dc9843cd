"""Measurements; their results are committed under benchmarks/results/."""
