"""TensorRT engines of exported halves: built anywhere, run on the GPU they were built for."""
