"""Learning-rate transfer: sweeps of training runs over sizes, and where their optima lie."""

from __future__ import annotations

from pathlib import PurePath

SCHEDULES = ("linear", "cosine", "constant")
METRICS = ("train", "held_out")
FORMATS = ("text", "json", "markdown", "html")
RATES = "2^-8..2^2"
"""Learning rates of an optimizer for which none are given."""


def default_store(file: str) -> str:
    """The store of a file's runs, in the working directory."""
    return f"{PurePath(file).stem}.transfer.db"
