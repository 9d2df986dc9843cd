"""The HTTP service under load: ``python -m benchmarks.serving`` (benchmarks/results/serving)."""
