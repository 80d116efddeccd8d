"""Runs over many scenes: plan tasks, do them, record what is done, and finish the outputs."""
