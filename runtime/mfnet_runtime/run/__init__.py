"""Runs over many scenes: tasks, manifest, resuming, outputs."""
