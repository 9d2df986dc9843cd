"""What PyTorch's compiler would launch on an H100 for a block, counted where there is none."""
