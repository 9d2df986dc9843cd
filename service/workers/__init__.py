"""Gateways apart from the engine, as processes of one machine (docs/engine.md)."""
