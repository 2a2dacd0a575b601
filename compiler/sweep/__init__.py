"""Learning-rate transfer: sweeps of training runs over sizes, and where their optima lie."""

from __future__ import annotations

from pathlib import PurePath
from typing import Literal, get_args

Metric = Literal["train", "held_out"]
METRICS = get_args(Metric)
TOLERANCE = 0.1
"""Drift of the best log2 learning rate per doubling up to which it counts as staying put."""
RATES = "2^-8..2^2"
"""Learning rates of an optimizer for which none are given."""


def default_store(file: str) -> str:
    """The store of a file's runs, in the working directory."""
    return f"{PurePath(file).stem}.transfer.db"
