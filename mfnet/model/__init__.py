"""The MFNet network."""
