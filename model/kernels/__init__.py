"""Hand-written forms of what lies between the matrix products of a block, for GPUs.

Each file holds the PyTorch form, which is the reference, and what runs wherever a kernel is not
asked for; the file ``triton_...`` beside it holds the kernel, and is imported at its first use.
"""
