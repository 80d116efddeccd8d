"""Exact rewrites of a network into an equal one with fewer operations."""
