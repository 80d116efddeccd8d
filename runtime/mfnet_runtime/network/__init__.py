"""Rasters over the network: addresses, the hosts that may be read, and a file-like reader."""
