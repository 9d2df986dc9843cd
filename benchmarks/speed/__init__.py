"""How fast each way to compute a half is, beside the others, in one run."""
