"""The training loop: state, optimization, processes, logs."""
