"""Frozen networks as losses and metrics, and where they get their weights."""
