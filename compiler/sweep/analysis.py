"""What a sweep says: the optimum of each curve, its drift with size, the best masses, warnings."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from modnorm.report.words import plural
from modnorm.sweep import METRICS, TOLERANCE, Metric, fits
from modnorm.sweep.findings import (
    Curve,
    Drift,
    Findings,
    Loss,
    Point,
    Recommendation,
    advised,
    labels,
    scales_of,
    volume,
)
from modnorm.sweep.fits import Verdict
from modnorm.sweep.problems import SweepError
from modnorm.sweep.records import Outcome, Sizes, Sweep, Trial

Run = tuple[Trial, Outcome]
FEWEST = 3
"""Learning rates that a curve needs for an optimum."""
SAME = 9
"""Decimals to which learning rates are told apart, as logarithms."""
FURTHER = 3
"""Doublings that are advised past an end of the learning rates."""
SHOWN = 3
"""Curves that are named in one sentence."""


def found(sweep: Sweep, metric: Metric = "train", tolerance: float = TOLERANCE) -> Findings:
    """What a sweep says, finished or not.

    Raises:
        SweepError: for a size or a learning rate that is no positive number, runs that differ in
            what is varied, a metric that there is not, or a tolerance below 0.
    """
    if metric not in METRICS:
        raise SweepError(f"the metric is train or held_out, not {metric!r}")
    if not (math.isfinite(tolerance) and tolerance >= 0):
        raise SweepError(f"the tolerance of drifts is a number from 0 on, not {tolerance!r}")
    _check(sweep)
    sweep = _normalised(sweep)
    curves: list[Curve] = []
    masses: list[Recommendation] = []
    drifts: list[Drift] = []
    for optimizer in dict.fromkeys(trial.optimizer for trial, _ in sweep.runs):
        groups = _grouped(sweep, optimizer)
        own = _compared([_curve(optimizer, sizes, runs, metric) for sizes, runs in groups])
        good = _masses(own)
        curves += own
        masses += good
        drifts += _drifts(own, good, tolerance)
    findings = Findings(sweep, metric, tolerance, tuple(curves), tuple(drifts), tuple(masses), ())
    return replace(findings, warnings=tuple(_warnings(findings)))


def _check(sweep: Sweep) -> None:
    for trial, _ in sweep.runs:
        names, first = (tuple(name for name, _ in t.sizes) for t in (trial, sweep.runs[0][0]))
        if names != first:
            said = " and the other ".join(f"({', '.join(some)})" for some in (first, names))
            raise SweepError(f"one run has the sizes {said}: they are not of one sweep")
        for name, value in (*trial.sizes, ("the learning rate", trial.lr)):
            sound = isinstance(value, int | float) and not isinstance(value, bool)
            if not sound or not 0 < value < math.inf:
                raise SweepError(f"{name} = {value!r}: only positive numbers can be varied")


def _normalised(sweep: Sweep) -> Sweep:
    """The sweep with its runs in order: optimizer, sizes, learning rate, seed."""
    order = {name: i for i, name in enumerate(sweep.optimizers)}

    def place(run: Run) -> tuple[object, ...]:
        trial = run[0]
        sizes = tuple(value for _, value in trial.sizes)
        known = order.get(trial.optimizer, len(order))
        return known, trial.optimizer, sizes, trial.lr, trial.seed, trial.key

    return replace(sweep, runs=tuple(sorted(sweep.runs, key=place)))


def _grouped(sweep: Sweep, optimizer: str) -> list[tuple[Sizes, list[Run]]]:
    """An optimizer's runs by sizes. Masses count only where they make a difference to runs."""
    groups: dict[Sizes, list[Run]] = {}
    for run in sweep.runs:
        if run[0].optimizer == optimizer:
            groups.setdefault(run[0].sizes, []).append(run)
    merged: dict[Sizes, list[Run]] = {}
    for sizes, runs in groups.items():
        scales = scales_of(sizes)
        before = merged.setdefault(scales, runs)
        if {t.key for t, _ in before} != {t.key for t, _ in runs}:
            return list(groups.items())
    return list(merged.items())


def _curve(optimizer: str, sizes: Sizes, runs: Sequence[Run], metric: Metric) -> Curve:
    """The curve of some runs, with its optimum if it has one."""
    by_rate = {(round(t.log2_lr, SAME), t.seed): (t, o) for t, o in runs}
    held: dict[int, frozenset[float]] = {}
    for x, seed in by_rate:
        held[seed] = held.get(seed, frozenset()) | {x}
    seeds, rates = fits.rectangle(held)
    ceiling = max((o.first_loss for _, o in runs if math.isfinite(o.first_loss)), default=math.inf)
    known = math.isfinite(ceiling)
    points = []
    for x in sorted({x for x, _ in by_rate}):
        here = {seed: by_rate[at, seed] for at, seed in sorted(by_rate) if at == x}
        losses = {seed: o.loss(metric, ceiling) for seed, (_, o) in here.items()}
        values = list(losses.values())
        error = fits.standard_error(values) if known else None
        bad = sum(o.status == "diverged" for _, o in here.values())
        lr = min(t.lr for t, _ in here.values())
        points.append(Point(lr, fits.mean(values), error, len(here), bad, losses))
    ceilings = {
        seed: min(o.first(ceiling) for (_, s), (_, o) in by_rate.items() if s == seed)
        for seed in seeds
    }

    def lines(by: Metric) -> dict[int, tuple[tuple[float, float], ...]]:
        return {
            seed: tuple((x, by_rate[x, seed][1].loss(by, ceiling)) for x in rates)
            for seed in (seeds if known else ())
        }

    made = {by: Loss(points=lines(by), ceilings=ceilings) for by in METRICS}
    learned = any(
        value < by_rate[x, seed][1].first(ceiling)
        for seed, line in made[metric].points.items()
        for x, value in line
    )
    optimum: dict[str, Any] = {"problem": "at no learning rate does the loss fall"}
    if learned:
        x, error, optimum = _optimum(made[metric], rates)
        made = {by: loss.at(x) for by, loss in made.items()}
        if error is not None:
            made[metric] = replace(made[metric], error=error)
    return Curve(
        optimizer, sizes, train=made["train"], held_out=made["held_out"], by=metric, seeds=seeds,
        runs=len(by_rate), diverged=sum(point.diverged for point in points),
        left_out=len(by_rate) - len(seeds) * len(rates), points=tuple(points), **optimum,
    )  # fmt: skip


def _optimum(loss: Loss, rates: Sequence[float]) -> tuple[float, float | None, dict[str, Any]]:
    """The best log2 learning rate, the error of the loss there, and what a curve says of it.

    Where a curve has no optimum it is the best one that was tried; the error is that of a single
    seed.
    """
    lines = loss.points
    averages = [fits.mean([line[i][1] for line in lines.values()]) for i in range(len(rates))]
    best = fits.lowest([(x, y) for x, y in zip(rates, averages, strict=True)])
    if len(rates) < FEWEST:
        said = {"problem": f"an optimum needs {FEWEST} learning rates or more"}
        return rates[best], None, said
    if best in (0, len(rates) - 1):
        edge = "low" if best == 0 else "high"
        said = {"edge": edge, "problem": f"the best learning rate is the {edge}est that was tried"}
        return rates[best], None, said
    own = {seed: fits.optimum(line, loss.ceilings[seed]) for seed, line in lines.items()}
    optima = {seed: one for seed, one in own.items() if one is not None}
    places = {seed: x for seed, (x, _) in optima.items()}
    x, error = fits.mean(list(places.values())), fits.standard_error(list(places.values()))
    loss_error = None
    if len(lines) == 1:
        ((seed, line),) = lines.items()
        wide = fits.wide_vertex(line)
        if wide is not None and seed in optima:
            error, loss_error = (abs(a - b) for a, b in zip(wide, optima[seed], strict=True))
    return x, loss_error, {"best": x, "error": error, "by_seed": places}


def _compared(curves: Sequence[Curve]) -> list[Curve]:
    """The curves with their losses at the best learning rate of the smallest of equal mass."""
    compared = []
    for one in curves:
        alike = [other for other in curves if other.masses == one.masses]
        x = _smallest(alike).best
        train, held_out = one.train.compared(x), one.held_out.compared(x)
        compared.append(replace(one, train=train, held_out=held_out))
    return compared


def _smallest(curves: Sequence[Curve]) -> Curve:
    """The first of those with the smallest product of sizes."""
    return min(curves, key=lambda one: volume(one.sizes))


# --- masses -----------------------------------------------------------------------------------


def _masses(curves: Sequence[Curve]) -> list[Recommendation]:
    groups: dict[Sizes, list[Curve]] = {}
    for one in curves:
        if one.masses and one.metric.best is not None:
            groups.setdefault(one.scales, []).append(one)
    if not groups or max(map(len, groups.values())) < 2:
        return []
    at_smallest = min(groups, key=volume)
    chosen = min(groups[at_smallest], key=_loss).masses
    return [_recommended(group, chosen, at == at_smallest) for at, group in groups.items()]


def _recommended(group: Sequence[Curve], chosen: Sizes, smallest: bool) -> Recommendation:
    best = min(group, key=_loss)
    good = [one.masses for one in group if one is not best and _as_good(one, best)]
    own = next((one for one in group if one.masses == chosen), None)
    judged = own is not None and not smallest
    return Recommendation(
        optimizer=best.optimizer,
        sizes=best.scales,
        masses=best.masses,
        best=best.best,
        loss=_loss(best),
        error=best.metric.error,
        as_good=tuple(good),
        excess=_loss(own) / _loss(best) - 1 if own is not None and judged else None,
        transfers=chosen in (best.masses, *good) if judged else None,
    )


def _loss(one: Curve) -> float:
    return math.inf if one.metric.best is None else one.metric.best


def _as_good(one: Curve, best: Curve) -> bool:
    """Whether a loss is within two errors of the best; those of the same seeds are compared."""
    shared = sorted(one.metric.by_seed.keys() & best.metric.by_seed.keys())
    apart = [one.metric.by_seed[seed] - best.metric.by_seed[seed] for seed in shared]
    error = fits.standard_error(apart)
    if error is not None:
        return fits.mean(apart) <= fits.SURE * error
    errors = (one.metric.error, best.metric.error)
    known = [error for error in errors if error is not None]
    return _loss(one) - _loss(best) <= fits.SURE * math.hypot(*known)


# --- drifts -----------------------------------------------------------------------------------


def _drifts(
    curves: Sequence[Curve], masses: Sequence[Recommendation], tolerance: float
) -> list[Drift]:
    at_mass = advised(masses) or _smallest(curves).masses
    own = [one for one in curves if one.masses == at_mass]
    axes = _varied(own)
    if not axes:
        return []
    used = [one for one in own if one.best is not None]
    solvable = _varied(used)
    solved = None
    if solvable:
        places = [[math.log2(dict(one.sizes)[axis]) for axis in solvable] for one in used]
        solved = fits.slopes(places, [one.by_seed for one in used])
    left_out = len(own) - len(used)
    drifts = []
    for axis in axes:
        value, error, reason = None, None, ""
        if axis not in solvable:
            reason = "fewer than two sizes have an optimum"
        elif solved is None:
            reason = "the sizes were varied together, and do not tell the params apart"
        else:
            value, error = solved[solvable.index(axis)]
        verdict: Verdict = "unclear"
        if value is not None:
            verdict = fits.verdict(value, error, tolerance)
            if left_out and verdict == "transfers":
                verdict = "unclear"
        drifts.append(
            Drift(
                own[0].optimizer, axis, value, error, verdict, len(used), left_out, at_mass, reason
            )
        )
    return drifts


def _varied(curves: Sequence[Curve]) -> list[str]:
    """The params, masses left out, of which curves have different values."""
    values: dict[str, set[float]] = {}
    for one in curves:
        for name, value in one.scales:
            values.setdefault(name, set()).add(value)
    return [name for name, seen in values.items() if len(seen) > 1]


# --- warnings ---------------------------------------------------------------------------------


def _warnings(findings: Findings) -> Iterator[str]:
    """What is missing, cut off or left out."""
    missing = findings.sweep.missing
    if missing:
        verb = "is" if missing == 1 else "are"
        yield f"{plural(missing, 'run')} {verb} missing: the same command goes on with them"
    for optimizer in dict.fromkeys(one.optimizer for one in findings.curves):
        own = findings.of(optimizer)
        for edge in ("low", "high"):
            if cut := [one for one in own if one.edge == edge]:
                yield _edge(optimizer, cut, edge == "low")
        for problem in dict.fromkeys(one.problem for one in own if not one.edge):
            if problem:
                alike = [one for one in own if one.problem == problem]
                yield f"{_named(optimizer, alike)}: no optimum, as {problem}"
        if uneven := [one for one in own if one.left_out]:
            left = sum(one.left_out for one in uneven)
            yield (
                f"{_named(optimizer, uneven)}: not every seed has a run at every learning rate;"
                f" {plural(left, 'run')} left out of the fit"
            )
    yield from _of_drifts(findings)


def _of_drifts(findings: Findings) -> Iterator[str]:
    seen: set[str] = set()
    for drift in findings.drifts:
        if drift.value is None:
            yield f"{drift.optimizer}, {drift.axis}: no drift, as {drift.reason}"
            continue
        if drift.left_out and drift.optimizer not in seen:
            seen.add(drift.optimizer)
            yield (
                f"{drift.optimizer}: its drifts leave out {plural(drift.left_out, 'curve')} without"
                " an optimum, and may be larger"
            )
        if drift.error is None:
            yield (
                f"{drift.optimizer}, {drift.axis}: without an error of the drift there is no"
                " verdict: add seeds (--seeds) or sizes (--vary)"
            )


def _edge(optimizer: str, cut: list[Curve], low: bool) -> str:
    tried = [point.log2_lr for one in cut for point in one.points]
    if low:
        last = math.ceil(min(tried))
        first, what = last - FURTHER, "lowest"
    else:
        first = math.floor(max(tried))
        last, what = first + FURTHER, "highest"
    return (
        f"{_named(optimizer, cut)}: the best learning rate is the {what} that was tried; the"
        f" optimum lies beyond, so add 2^{first}..2^{last} to --lr, or raise --extend"
    )


def _named(optimizer: str, curves: list[Curve]) -> str:
    names = [labels(one.sizes) for one in curves]
    shown = "; ".join(name for name in names[:SHOWN] if name)
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{optimizer} at {shown}{more}" if shown else optimizer
