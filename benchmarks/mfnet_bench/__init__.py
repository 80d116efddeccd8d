"""Accuracy of models on labelled scenes, and pictures of what they see."""
