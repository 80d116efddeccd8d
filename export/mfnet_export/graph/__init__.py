"""Export of a network to an ONNX graph, and passes over the graph."""
