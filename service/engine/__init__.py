"""Who runs when: the encoder's and the decoder's engine over one device (docs/engine.md)."""
