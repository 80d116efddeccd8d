"""The command `mfnet-run`."""
