"""The curves of a sweep: runs of one optimizer at one combination of sizes, and their optimum."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from modnorm.sweep import Metric, fits
from modnorm.sweep.records import Outcome, Sizes, Sweep, Trial

Run = tuple[Trial, Outcome]
Edge = Literal["low", "high"]
FEWEST = 3
"""Learning rates that a curve needs for an optimum."""
SAME = 9
"""Decimals to which learning rates are told apart, as logarithms."""


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

    def of_seeds(self, x: float) -> dict[int, float | None]:
        """The loss of each seed at a log2 learning rate; None where no runs surround it."""
        return {s: fits.interpolated(p, x, self.ceilings[s]) for s, p in self.points.items()}

    def at(self, x: float | None) -> float | None:
        """The mean over seeds at a log2 learning rate; None where no runs surround it."""
        found = self.of_seeds(x).values() if x is not None else ()
        known = [value for value in found if value is not None]
        return fits.mean(known) if known and len(known) == len(found) else None


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
    best: float | None
    error: float | None
    edge: Edge | None
    problem: str
    train: Loss
    held_out: Loss
    by: Metric
    seeds: tuple[int, ...]
    runs: int
    diverged: int
    left_out: int
    by_seed: Mapping[int, float] = field(default_factory=dict)
    points: tuple[Point, ...] = ()

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

    def at(self, x: float | None) -> Curve:
        """The curve with its losses at the log2 learning rate that is best for the smallest."""
        return replace(self, train=_compared(self.train, x), held_out=_compared(self.held_out, x))


def _compared(loss: Loss, x: float | None) -> Loss:
    there = loss.at(x)
    excess = there / loss.best - 1 if there is not None and loss.best else None
    return replace(loss, at_smallest=there, excess=excess)


def is_mass(name: str) -> bool:
    """Whether a varied param is a mass, which is chosen, and no size."""
    return name.endswith("mass")


def lr_of(log2: float) -> float:
    """The learning rate of a logarithm."""
    return float(2.0 ** min(max(log2, -1000.0), 1000.0))


def labels(sizes: Sizes) -> str:
    """Sizes as text: `d_embed = 64, blocks = 2`."""
    return ", ".join(f"{name} = {value:.6g}" for name, value in sizes)


# --- runs -----------------------------------------------------------------------------------


def normalised(sweep: Sweep) -> Sweep:
    """The sweep with its runs in order: optimizer, sizes, learning rate, seed."""
    order = {name: i for i, name in enumerate(sweep.optimizers)}

    def place(run: Run) -> tuple[object, ...]:
        trial = run[0]
        sizes = tuple(value for _, value in trial.sizes)
        known = order.get(trial.optimizer, len(order))
        return known, trial.optimizer, sizes, trial.lr, trial.seed, trial.key

    return replace(sweep, runs=tuple(sorted(sweep.runs, key=place)))


def grouped(sweep: Sweep, optimizer: str) -> list[tuple[Sizes, list[Run]]]:
    """An optimizer's runs by sizes. Masses count only where they make a difference to runs."""
    groups: dict[Sizes, list[Run]] = {}
    for run in sweep.runs:
        if run[0].optimizer == optimizer:
            groups.setdefault(run[0].sizes, []).append(run)
    merged: dict[Sizes, list[Run]] = {}
    for sizes, runs in groups.items():
        scales = tuple(pair for pair in sizes if not is_mass(pair[0]))
        before = merged.setdefault(scales, runs)
        if {t.key for t, _ in before} != {t.key for t, _ in runs}:
            return list(groups.items())
    return list(merged.items())


def curve(optimizer: str, sizes: Sizes, runs: Sequence[Run], metric: Metric) -> Curve:
    """The curve of some runs."""
    by_rate = {
        (round(trial.log2_lr, SAME), trial.seed): (trial, outcome) for trial, outcome in runs
    }
    diverged = sum(outcome.status == "diverged" for _, outcome in by_rate.values())
    held: dict[int, frozenset[float]] = {}
    for x, seed in by_rate:
        held[seed] = held.get(seed, frozenset()) | {x}
    seeds, rates = fits.rectangle(held)
    ceiling = max((o.first_loss for _, o in runs if math.isfinite(o.first_loss)), default=math.inf)

    def loss(x: float, seed: int, by: Metric) -> float:
        return by_rate[x, seed][1].loss(by, ceiling)

    def lines(by: Metric) -> dict[int, tuple[tuple[float, float], ...]]:
        if not math.isfinite(ceiling):
            return {}
        return {seed: tuple((x, loss(x, seed, by)) for x in rates) for seed in seeds}

    points = []
    for x in sorted({x for x, _ in by_rate}):
        here = {seed: loss(x, seed, metric) for at, seed in sorted(by_rate) if at == x}
        some = next(run for (at, _), run in by_rate.items() if at == x)
        bad = sum(run[1].status == "diverged" for (at, _), run in by_rate.items() if at == x)
        error = fits.standard_error(list(here.values())) if math.isfinite(ceiling) else None
        average = fits.mean(list(here.values()))
        points.append(Point(some[0].lr, average, error, len(here), bad, here))

    ceilings = {
        seed: min((o.first(ceiling) for (_, s), (_, o) in by_rate.items() if s == seed))
        for seed in seeds
    }
    train, held_out = (
        Loss(points=lines("train"), ceilings=ceilings),
        Loss(points=lines("held_out"), ceilings=ceilings),
    )
    made = Curve(
        optimizer, sizes, None, None, None, "", train, held_out, metric, seeds, len(by_rate),
        diverged, len(by_rate) - len(seeds) * len(rates), {}, tuple(points),
    )  # fmt: skip
    learned = any(
        value < by_rate[x, seed][1].first(ceiling)
        for seed, line in made.metric.points.items()
        for x, value in line
    )
    return _fitted(made, rates, learned)


def _fitted(made: Curve, rates: Sequence[float], learned: bool) -> Curve:
    """The curve with its optimum, if it has one."""
    lines = made.metric.points
    if not learned:
        return replace(made, problem="at no learning rate does the loss fall")
    averages = [fits.mean([line[i][1] for line in lines.values()]) for i in range(len(rates))]
    best = fits.lowest([(x, y) for x, y in zip(rates, averages, strict=True)])
    if len(rates) < FEWEST:
        problem = f"an optimum needs {FEWEST} learning rates or more"
        return _with_losses(replace(made, problem=problem), rates[best])
    if best in (0, len(rates) - 1):
        edge: Edge = "low" if best == 0 else "high"
        problem = f"the best learning rate is the {edge}est that was tried"
        return _with_losses(replace(made, edge=edge, problem=problem), rates[best])
    ceilings = made.metric.ceilings
    found = {seed: fits.optimum(line, ceilings[seed]) for seed, line in lines.items()}
    optima = {seed: one[0] for seed, one in found.items() if one is not None}
    x = fits.mean(list(optima.values()))
    error, loss_error = fits.standard_error(list(optima.values())), None
    if len(lines) == 1:
        ((seed, line),) = lines.items()
        wide, own = fits.wide_vertex(line), fits.optimum(line, ceilings[seed])
        if wide is not None and own is not None:
            error, loss_error = abs(wide[0] - own[0]), abs(wide[1] - own[1])
    made = _with_losses(replace(made, best=x, error=error, by_seed=optima), x)
    if loss_error is None:
        return made
    if made.by == "train":
        return replace(made, train=replace(made.train, error=loss_error))
    return replace(made, held_out=replace(made.held_out, error=loss_error))


def _with_losses(made: Curve, x: float) -> Curve:
    return replace(made, train=_at(made.train, x), held_out=_at(made.held_out, x))


def _at(loss: Loss, x: float) -> Loss:
    """The loss at the curve's own best learning rate."""
    known = {seed: value for seed, value in loss.of_seeds(x).items() if value is not None}
    error = fits.standard_error(list(known.values()))
    return replace(loss, best=loss.at(x), error=error, by_seed=known)
