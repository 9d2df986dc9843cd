"""From a checkpoint to compiled halves of the network: ONNX, TensorRT, ONNX Runtime, PyTorch."""
