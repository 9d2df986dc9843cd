"""The second stage: a masked transformer over a tokenizer's ids (paper A.3, docs/generation.md)."""
