"""What a sweep says, as data: curves, drifts, the best masses, warnings."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from modnorm.sweep import Metric, fits
from modnorm.sweep.fits import Verdict
from modnorm.sweep.records import Sizes, Sweep

Edge = Literal["low", "high"]


@dataclass(frozen=True)
class Point:
    """The runs at one learning rate: mean loss by the metric with its error, how many diverged.

    `losses` are those of the runs, by seed; one that diverged, or learned nothing, has its loss
    from before the first step.
    """

    lr: float
    loss: float
    error: float | None
    runs: int
    diverged: int
    losses: Mapping[int, float] = field(default_factory=dict)

    @property
    def log2_lr(self) -> float:
        return math.log2(self.lr)


@dataclass(frozen=True)
class Loss:
    """A loss at a curve's best learning rate, and at the one that is best for the smallest model.

    best: with its standard error over seeds (`error`). excess: by what part the second is above the
    first. None where they are not known.
    """

    best: float | None = None
    error: float | None = None
    at_smallest: float | None = None
    excess: float | None = None
    by_seed: Mapping[int, float] = field(default_factory=dict)
    points: Mapping[int, tuple[tuple[float, float], ...]] = field(default_factory=dict)
    ceilings: Mapping[int, float] = field(default_factory=dict)

    def of_seeds(self, x: float | None) -> dict[int, float]:
        """The loss of each seed at a log2 learning rate; none where no runs surround it."""
        found = {
            seed: fits.interpolated(line, x, self.ceilings[seed]) if x is not None else None
            for seed, line in self.points.items()
        }
        return {seed: value for seed, value in found.items() if value is not None}

    def at(self, x: float) -> Loss:
        """The loss at the curve's own best log2 learning rate."""
        own = self.of_seeds(x)
        values = list(own.values())
        best = fits.mean(values) if own else None
        return replace(self, best=best, error=fits.standard_error(values), by_seed=own)

    def compared(self, x: float | None) -> Loss:
        """The loss with that at the log2 learning rate that is best for the smallest."""
        there = list(self.of_seeds(x).values())
        at_smallest = fits.mean(there) if there else None
        excess = at_smallest / self.best - 1 if at_smallest is not None and self.best else None
        return replace(self, at_smallest=at_smallest, excess=excess)


@dataclass(frozen=True)
class Curve:
    """The optimum of one optimizer at one combination of sizes.

    best: log2 of the best learning rate, with its standard error; None where there is no optimum,
    and `problem` says why. `edge` is set if the best is at that end of what was tried; the losses
    are then those there. seeds: whose runs the optimum comes from; left_out: runs that it does not
    come from, as other seeds lack them. diverged: of all `runs`.
    """

    optimizer: str
    sizes: Sizes
    train: Loss
    held_out: Loss
    by: Metric
    seeds: tuple[int, ...]
    runs: int
    diverged: int
    left_out: int
    best: float | None = None
    error: float | None = None
    edge: Edge | None = None
    problem: str = ""
    by_seed: Mapping[int, float] = field(default_factory=dict)
    points: tuple[Point, ...] = ()

    @property
    def scales(self) -> Sizes:
        """The sizes without masses."""
        return scales_of(self.sizes)

    @property
    def masses(self) -> Sizes:
        return tuple(pair for pair in self.sizes if is_mass(pair[0]))

    @property
    def metric(self) -> Loss:
        """The losses that decide."""
        return self.train if self.by == "train" else self.held_out

    @property
    def ceiling(self) -> float:
        """The least mean loss of a point at which some run learned nothing."""
        tops = self.metric.ceilings
        stuck = [
            point.loss
            for point in self.points
            if any(loss >= tops.get(seed, math.inf) for seed, loss in point.losses.items())
        ]
        return min(stuck, default=math.inf)


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


def is_mass(name: str) -> bool:
    """Whether a varied param is a mass, which is chosen, and no size."""
    return name.endswith("mass")


def lr_of(log2: float) -> float:
    """The learning rate of a logarithm."""
    return float(2.0 ** min(max(log2, -1000.0), 1000.0))


def labels(sizes: Sizes) -> str:
    """Sizes as text: `d_embed = 64, blocks = 2`."""
    return ", ".join(f"{name} = {value:.6g}" for name, value in sizes)


def scales_of(sizes: Sizes) -> Sizes:
    """The sizes without masses."""
    return tuple(pair for pair in sizes if not is_mass(pair[0]))


def volume(sizes: Sizes) -> float:
    """Log2 of the product of all sizes but masses."""
    return math.fsum(math.log2(value) for _, value in scales_of(sizes))


def advised(found: Sequence[Recommendation]) -> Sizes:
    """The masses recommended at the smallest sizes; none where none is."""
    return min(found, key=lambda one: volume(one.sizes)).masses if found else ()
