"""Data to train on: texts and images, fetched, checked and cached, and functions of one's own."""
