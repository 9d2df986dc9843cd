"""Measurements for a machine with a GPU; each also runs at tiny size on a CPU."""
