"""Learning-rate transfer: sweeps of training runs over sizes, and where their optima lie."""

SCHEDULES = ("linear", "cosine", "constant")
METRICS = ("train", "held_out")
FORMATS = ("text", "json", "markdown", "html")
RATES = "2^-8..2^2"
"""Learning rates of an optimizer for which none are given."""
