"""The exact steps from a trained network to a fast one (DESIGN 4), a file an idea."""
