"""Accuracy of models over scenes."""
