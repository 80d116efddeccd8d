"""TensorRT plans from ONNX files."""
