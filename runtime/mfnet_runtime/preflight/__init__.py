"""`mfnet-run --check` and `--dry-run`: what a run would refuse, what is odd, and what it costs."""
