"""Power laws through measured points, and what they say."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Verdict = Literal["flat", "grows", "shrinks", "unclear", "zero"]

FLAT = 0.15
"""An exponent up to this size counts as flat.

What scales wrongly does so with exponents of 1/2 and 1; what scales rightly still drifts by up to
0.1 at widths below a thousand.
"""
SURE = 2.0
"""Standard errors by which an exponent has to be beyond `FLAT` before it counts as not flat."""


@dataclass(frozen=True)
class Fit:
    """y ~ c·xᵃ by least squares of log y on log x: the exponent a, and its standard error."""

    slope: float
    error: float

    @property
    def verdict(self) -> Verdict:
        """Flat: no further from 0 than `FLAT`. Grows or shrinks: further, by `SURE` errors."""
        if abs(self.slope) <= FLAT:
            return "flat" if self.error <= FLAT else "unclear"
        if abs(self.slope) - SURE * self.error <= FLAT:
            return "unclear"
        return "grows" if self.slope > 0 else "shrinks"


def power_law(xs: Sequence[float], ys: Sequence[float]) -> Fit | None:
    """The power law through points; None where a value is 0 or not finite.

    The points' scatter about the line gives the standard error; two points give an error of 0.

    Raises:
        ValueError: for fewer than two different xs.
    """
    if len(set(xs)) < 2:
        raise ValueError("a power law needs two different sizes")
    if any(not (y > 0 and math.isfinite(y)) for y in ys):
        return None
    u, v = [math.log(x) for x in xs], [math.log(y) for y in ys]
    n = len(u)
    mean_u, mean_v = math.fsum(u) / n, math.fsum(v) / n
    spread = math.fsum((a - mean_u) ** 2 for a in u)
    slope = math.fsum((a - mean_u) * (b - mean_v) for a, b in zip(u, v, strict=True)) / spread
    rest = math.fsum((b - mean_v - slope * (a - mean_u)) ** 2 for a, b in zip(u, v, strict=True))
    error = math.sqrt(rest / (n - 2) / spread) if n > 2 else 0.0
    return Fit(slope, error)
