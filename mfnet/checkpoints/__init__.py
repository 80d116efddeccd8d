"""Checkpoint files: ours, the official ones, and SAM's."""
