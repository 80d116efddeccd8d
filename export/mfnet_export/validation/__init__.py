"""Parity of exported files with the PyTorch network."""
