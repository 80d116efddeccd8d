"""Sliding-window inference over a scene: grid, batches, blending, the pipeline."""
