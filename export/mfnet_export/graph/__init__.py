"""The ONNX graph: export, passes, opset."""
