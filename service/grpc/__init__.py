"""The Open Inference Protocol over gRPC (docs/inference-protocol.md); needs the extra ``grpc``."""
