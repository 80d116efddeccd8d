"""PyTorch: the network, fine-tuning mechanisms, data and training."""
