"""TensorRT: engines built from a bundle's ONNX files, kept in a cache, run through pycuda."""
