"""Rasters over the network: addresses, hosts that may be used, a file-like reader, uploads."""
