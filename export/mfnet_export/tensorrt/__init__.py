"""TensorRT plans built from ONNX files. Needs no PyTorch."""
