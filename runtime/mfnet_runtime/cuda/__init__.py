"""What runs on an NVIDIA GPU around the network. Imports no CUDA until a device is opened."""
