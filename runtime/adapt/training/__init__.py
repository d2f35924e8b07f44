"""What teaches an edge's graph: the part that needs onnx and torch, imported on first use."""
