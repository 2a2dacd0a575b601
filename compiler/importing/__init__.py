"""From a model that was written in PyTorch to the text of a `.mod` file."""
