"""Scenes: which files make one, and reading them as normalized pixels and heights."""
