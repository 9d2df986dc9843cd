"""Who runs when: the engines of a model over one device (docs/engine.md)."""
