"""Models that were written in PyTorch: what their weights are, found from one run."""
