"""Losses by name, each declared once: how steep and how curved it is in the model's output.

Source: Large et al. 2024 (arXiv 2405.14813), section 4; the constants: docs/mathematics.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from modnorm.ops.types import Tensor

LARGEST = "I"
"""The letter of the measure of the largest entry."""


class Constants(NamedTuple):
    """σ bounds the slope of a loss in the output and τ its curvature, in the output's norm."""

    sigma: float
    tau: float


class Unbounded(Exception):
    """Raised where a loss has no constants behind a model: why, for people."""


@dataclass(frozen=True)
class LossRule:
    """A loss's constants, for an output of a type, the letter of its norm and a bound on it.

    `hint` says what to write where the constants would be smaller in the largest entry.
    """

    constants: Callable[[Tensor, str, float], Constants]
    hint: str = ""


def _mse(output: Tensor, norm: str, high: float) -> Constants:
    """‖y - t‖² in R, for targets of norm at most 1: every norm of an output is at least R."""
    if not math.isfinite(high):
        raise Unbounded("the output's norm has no bound")
    return Constants(2 * (high + 1), 2.0)


def _cross_entropy(output: Tensor, norm: str, high: float) -> Constants:
    """2 and 1 in the largest entry; √(2n) and n/2 in the RMS over n scores."""
    if norm == LARGEST:
        return Constants(2.0, 1.0)
    count = output.shape[-1] if output.shape else 0
    if not isinstance(count, int) or output.is_image:
        raise Unbounded(f"it needs scores along the last axis, but the output is {output}")
    return Constants(math.sqrt(2 * count), count / 2)


LOSSES: Mapping[str, LossRule] = {
    "mse": LossRule(_mse),
    "cross_entropy": LossRule(
        _cross_entropy,
        "end in `Readout(out)` instead of `Linear(out)`: it bounds the largest score, and σ and τ"
        " are 2 and 1",
    ),
}
"""The losses that are known: mean squared error, and cross-entropy of logits."""
