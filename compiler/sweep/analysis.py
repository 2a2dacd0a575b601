"""What a sweep says: the optimum of each curve, its drift with size, and the best masses."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from modnorm.sweep import METRICS, TOLERANCE, Metric, fits
from modnorm.sweep.advice import warnings
from modnorm.sweep.curves import Curve, curve, grouped, is_mass, normalised
from modnorm.sweep.findings import Drift, Findings, Recommendation, advised, volume
from modnorm.sweep.fits import Verdict
from modnorm.sweep.problems import SweepError
from modnorm.sweep.records import Sizes, Sweep


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
    sweep = normalised(sweep)
    curves: list[Curve] = []
    for optimizer in dict.fromkeys(trial.optimizer for trial, _ in sweep.runs):
        groups = grouped(sweep, optimizer)
        own = [curve(optimizer, sizes, runs, metric) for sizes, runs in groups]
        curves += _compared(own)
    masses = [r for o in dict.fromkeys(c.optimizer for c in curves) for r in _masses(curves, o)]
    drifts = [
        drift
        for optimizer in dict.fromkeys(c.optimizer for c in curves)
        for drift in _drifts(curves, optimizer, masses, tolerance)
    ]
    findings = Findings(sweep, metric, tolerance, tuple(curves), tuple(drifts), tuple(masses), ())
    return replace(findings, warnings=tuple(warnings(findings)))


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


# --- losses at the learning rate of the smallest ----------------------------------------------


def _split(sizes: Sizes) -> tuple[Sizes, Sizes]:
    """The scales of a curve, and its masses."""
    scales = tuple(pair for pair in sizes if not is_mass(pair[0]))
    return scales, tuple(pair for pair in sizes if is_mass(pair[0]))


def _smallest(curves: Sequence[Curve]) -> Curve:
    """The first of those with the smallest product of sizes."""
    return min(curves, key=lambda one: volume(one.sizes))


def _compared(curves: Sequence[Curve]) -> list[Curve]:
    """The curves with their losses at the best learning rate of the smallest of equal mass."""
    compared = []
    for one in curves:
        alike = [other for other in curves if _split(other.sizes)[1] == _split(one.sizes)[1]]
        compared.append(one.at(_smallest(alike).best))
    return compared


# --- masses -----------------------------------------------------------------------------------


def _masses(curves: Sequence[Curve], optimizer: str) -> list[Recommendation]:
    groups: dict[Sizes, list[Curve]] = {}
    for one in curves:
        scales, masses = _split(one.sizes)
        if one.optimizer == optimizer and masses and one.metric.best is not None:
            groups.setdefault(scales, []).append(one)
    if not groups or max(map(len, groups.values())) < 2:
        return []
    at_smallest = min(groups, key=volume)
    chosen = _split(min(groups[at_smallest], key=_loss).sizes)[1]
    return [_recommended(group, chosen, at == at_smallest) for at, group in groups.items()]


def _recommended(group: Sequence[Curve], chosen: Sizes, smallest: bool) -> Recommendation:
    best = min(group, key=_loss)
    scales, masses = _split(best.sizes)
    good = [_split(one.sizes)[1] for one in group if one is not best and _as_good(one, best)]
    own = next((one for one in group if _split(one.sizes)[1] == chosen), None)
    judged = own is not None and not smallest
    return Recommendation(
        optimizer=best.optimizer,
        sizes=scales,
        masses=masses,
        best=best.best,
        loss=_loss(best),
        error=best.metric.error,
        as_good=tuple(good),
        excess=_loss(own) / _loss(best) - 1 if own is not None and judged else None,
        transfers=chosen in (masses, *good) if judged else None,
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
    curves: Sequence[Curve], optimizer: str, masses: Sequence[Recommendation], tolerance: float
) -> list[Drift]:
    own = [one for one in curves if one.optimizer == optimizer]
    at_mass = advised([r for r in masses if r.optimizer == optimizer])
    at_mass = at_mass or _split(_smallest(own).sizes)[1]
    own = [one for one in own if _split(one.sizes)[1] == at_mass]
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
            Drift(optimizer, axis, value, error, verdict, len(used), left_out, at_mass, reason)
        )
    return drifts


def _varied(curves: Sequence[Curve]) -> list[str]:
    """The params, masses left out, of which curves have different values."""
    values: dict[str, set[float]] = {}
    for one in curves:
        for name, value in _split(one.sizes)[0]:
            values.setdefault(name, set()).add(value)
    return [name for name, seen in values.items() if len(seen) > 1]
