"""Batch sizes by kind of device, and the name of what computes them by default."""

TORCH = "torch"

CPU_MAX_BATCH = 8
GPU_MAX_BATCH = 16
