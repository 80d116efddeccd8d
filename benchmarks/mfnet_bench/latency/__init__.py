"""Latency of models on backends."""
