"""Which curves a picture shows, and what part of their losses."""

from __future__ import annotations

import math
from collections.abc import Sequence

from modnorm.sweep import tables
from modnorm.sweep.curves import Curve, is_mass
from modnorm.sweep.findings import Findings
from modnorm.sweep.records import Sizes

HEADROOM = 0.55
"""How much of the range from the best loss to the one before the first step is shown, at most."""


def rows(findings: Findings) -> list[tuple[str, dict[str, list[Curve]]]]:
    """For each varied param, a row: its name, and by optimizer the curves in which it alone varies.

    The others have the values of the smallest model, or those at which most curves are, where the
    smallest was not varied along all params.
    """
    found = []
    names = tables.optimizers(findings)
    for axis in dict.fromkeys(name for one in findings.curves for name, _ in one.sizes):
        by_optimizer = {
            name: line(findings.of(name), axis, findings.advised(name)) for name in names
        }
        if any(len(own) > 1 for own in by_optimizer.values()):
            found.append((axis, by_optimizer))
    return found or [("", {name: list(findings.of(name)) for name in names})]


def lines(curves: Sequence[Curve], axis: str, masses: Sizes = ()) -> list[list[Curve]]:
    """The curves along an axis, a list for each setting of the others; the one to show first.

    That is the setting with most curves, and of several the one with these masses at the smallest
    sizes.
    """
    groups: dict[Sizes, list[Curve]] = {}
    for one in curves:
        if axis in dict(one.sizes):
            rest = tuple(pair for pair in one.sizes if pair[0] != axis)
            groups.setdefault(rest, []).append(one)

    def place(rest: Sizes) -> tuple[int, int, float]:
        other = sum(pair not in masses for pair in rest if is_mass(pair[0]))
        return -len(groups[rest]), other, math.prod(v for name, v in rest if not is_mass(name))

    return [
        sorted(groups[rest], key=lambda one: dict(one.sizes)[axis])
        for rest in sorted(groups, key=place)
    ]


def line(curves: Sequence[Curve], axis: str, masses: Sizes = ()) -> list[Curve]:
    """The curves along an axis that are shown; the smallest, where none varies it."""
    found = lines(curves, axis, masses)
    return found[0] if found else list(curves[:1])


def window(curves: Sequence[Curve]) -> tuple[float, float]:
    """The losses to show: from the lowest on, past the optima's surroundings, not the diverged.

    A curve's surroundings are its losses up to two doublings of the learning rate from its best.
    """
    finite = [p for one in curves for p in one.points if math.isfinite(p.loss)]
    if not finite:
        return 0.0, 1.0
    low, top = min(p.loss for p in finite), max(p.loss for p in finite)
    near = []
    for one in curves:
        points = [p for p in one.points if math.isfinite(p.loss)]
        if points:
            best = min(points, key=lambda p: p.loss)
            around = [p.loss for p in points if abs(p.log2_lr - best.log2_lr) <= 2.01]
            near.append(max(around))
            near.append(best.loss)
    near.sort()
    typical = near[int(0.75 * (len(near) - 1))]
    best_losses = [min(p.loss for p in c.points) for c in curves if c.points]
    worst_best = max(value for value in best_losses if math.isfinite(value))
    high = min(max(typical, worst_best), low + HEADROOM * (top - low))
    high = max(high, worst_best)
    room = max(high - low, 1e-3 * max(abs(low), 1e-9))
    return low - 0.08 * room, high + 0.12 * room
