"""Learning-rate transfer: sweeps of training runs over sizes, and where their optima lie."""
