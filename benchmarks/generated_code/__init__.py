"""What PyTorch's compiler would launch on an H100 for one block, counted on a machine without one."""
