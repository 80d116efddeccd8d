"""Conversion of an FP32 graph to FP16 or INT8, checked against the FP32 graph."""
