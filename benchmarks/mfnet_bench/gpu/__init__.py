"""Everything about a GPU that no test can check without one: `benchmarks/gpu_check.py` runs it."""
