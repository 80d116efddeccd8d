"""GPU memory, streams and kernels. CUDA is imported only when a device is opened."""
