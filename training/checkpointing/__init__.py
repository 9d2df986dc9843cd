"""Checkpoints of a run: writing, resuming, keeping, releasing."""
