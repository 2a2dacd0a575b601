"""What a sweep says, as data: curves, drifts, the best masses, warnings."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from modnorm.sweep import Metric
from modnorm.sweep.curves import Curve, is_mass
from modnorm.sweep.fits import Verdict
from modnorm.sweep.records import Sizes, Sweep


@dataclass(frozen=True)
class Drift:
    """How an optimizer's best log2 learning rate changes per doubling of a param.

    value: with its standard error; None where it cannot be told, and `reason` says why.
    curves: whose optima it comes from; left_out: curves without an optimum.
    masses: those that the curves have, where masses were varied too.
    """

    optimizer: str
    axis: str
    value: float | None
    error: float | None
    verdict: Verdict
    curves: int
    left_out: int
    masses: Sizes
    reason: str = ""


@dataclass(frozen=True)
class Recommendation:
    """The mass with the lowest loss at its own best learning rate, at one combination of sizes.

    as_good: the other masses whose loss is within two errors of it.
    excess: by what part the mass recommended at the smallest sizes is worse here than this one,
    and `transfers` whether it is this one or as good; both None at the smallest sizes themselves,
    or where it was not tried.
    """

    optimizer: str
    sizes: Sizes
    masses: Sizes
    best: float | None
    loss: float
    error: float | None
    as_good: tuple[Sizes, ...]
    excess: float | None
    transfers: bool | None


@dataclass(frozen=True)
class Findings:
    """A sweep with its runs in order, and everything that they say.

    metric: the loss that decides which learning rate is best.
    tolerance: the drift per doubling up to which learning rates count as transferring.
    """

    sweep: Sweep
    metric: Metric
    tolerance: float
    curves: tuple[Curve, ...]
    drifts: tuple[Drift, ...]
    masses: tuple[Recommendation, ...]
    warnings: tuple[str, ...]

    def of(self, optimizer: str) -> tuple[Curve, ...]:
        """An optimizer's curves."""
        return tuple(one for one in self.curves if one.optimizer == optimizer)

    def advised(self, optimizer: str) -> Sizes:
        """The masses recommended at an optimizer's smallest sizes; none where none is."""
        return advised([one for one in self.masses if one.optimizer == optimizer])


def volume(sizes: Sizes) -> float:
    """Log2 of the product of all sizes but masses."""
    return math.fsum(math.log2(value) for name, value in sizes if not is_mass(name))


def advised(found: Sequence[Recommendation]) -> Sizes:
    """The masses recommended at the smallest sizes; none where none is."""
    return min(found, key=lambda one: volume(one.sizes)).masses if found else ()
