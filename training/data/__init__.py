"""Training and evaluation pictures: sources, indices, batches."""
