"""Batch sizes by kind of device."""

CPU_MAX_BATCH = 8
GPU_MAX_BATCH = 16
