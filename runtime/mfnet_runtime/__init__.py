"""The lean runtime: numpy, rasterio, click and one engine. It has never heard of PyTorch."""
