"""Checkpoint files, ours and the official ones."""
