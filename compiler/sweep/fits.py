"""Optima of loss curves, and how they drift with size: the arithmetic, on plain numbers.

A learning rate is given by its logarithm to base 2 everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean, stdev
from typing import Literal

Verdict = Literal["transfers", "drifts", "unclear"]
Points = Sequence[tuple[float, float]]
"""log2 of the learning rate and loss, with rising rates."""

SURE = 2.0
"""Errors by which a drift has to be away from the tolerance before there is a verdict."""
WIDE = 5
"""Points of the least-squares parabola that a single seed's optimum is compared with."""


def mean(values: Sequence[float]) -> float:
    """The mean, whatever the order of the values."""
    return fmean(sorted(values))


def standard_error(values: Sequence[float]) -> float | None:
    """Of the mean; None for fewer than two values."""
    return stdev(sorted(values)) / math.sqrt(len(values)) if len(values) > 1 else None


# --- one curve ------------------------------------------------------------------------------


def lowest(points: Points) -> int:
    """Where the loss is lowest; at the lowest learning rate of several that are equally good."""
    return min(range(len(points)), key=lambda i: points[i][1])


def vertex(three: Points) -> tuple[float, float] | None:
    """The lowest point of the parabola through three points; None if it has none.

    It is sought between the outer two, and at one of them if it lies beyond.
    """
    (x0, y0), (x1, y1), (x2, _) = three
    left, bend = (y1 - y0) / (x1 - x0), _bend(three)
    if not bend > 0:
        return None
    # Newton's form: y0 + left·(x − x0) + bend·(x − x0)·(x − x1)
    x = min(max((x0 + x1) / 2 - left / bend / 2, x0), x2)
    return x, y0 + left * (x - x0) + bend * (x - x0) * (x - x1)


def optimum(points: Points, ceiling: float = math.inf) -> tuple[float, float] | None:
    """Learning rate and loss at the vertex of the parabola through the best point's neighbours.

    None for fewer than three points, or where the loss is the same at all of them. A best point
    that is an end takes the parabola of the last three there; where that has no vertex, or one of
    the three is at the ceiling and says no more than that nothing was learned, the point itself is
    the optimum.
    """
    if len(points) < 3 or len({y for _, y in points}) == 1:
        return None
    best = lowest(points)
    middle = min(max(best, 1), len(points) - 2)
    three = points[middle - 1 : middle + 2]
    return (vertex(three) if _below(three, ceiling) else None) or points[best]


def wide_vertex(points: Points) -> tuple[float, float] | None:
    """The lowest point of the least-squares parabola through the `WIDE` points about the best one.

    None where there are not so many, or where it has none among them.
    """
    if len(points) < WIDE:
        return None
    first = min(max(lowest(points) - WIDE // 2, 0), len(points) - WIDE)
    near = points[first : first + WIDE]
    origin = near[WIDE // 2][0]
    rows = [(1.0, x - origin, (x - origin) ** 2) for x, _ in near]
    solved = least_squares(rows, [y for _, y in near])
    if solved is None or not solved[0][2] > 0:
        return None
    offset, slope, bend = solved[0]
    x = -slope / bend / 2
    if not near[0][0] <= x + origin <= near[-1][0]:
        return None
    return x + origin, offset + slope * x + bend * x * x


def interpolated(points: Points, x: float, ceiling: float = math.inf) -> float | None:
    """The loss at a learning rate; None outside of the learning rates of the points.

    Between two points it lies on a parabola through these and one neighbour: of the two there are
    the one that bends less (the ENO choice: Harten, Engquist, Osher & Chakravarthy 1987), so that a
    cliff behind one point does not pull the curve down before it; one with a point at the ceiling
    is not taken. Only next to the best point may it leave the range between the two points. It is
    exact for a parabola.
    """
    slack = 1e-9
    if not points or not points[0][0] - slack <= x <= points[-1][0] + slack:
        return None
    if len(points) == 1:
        return points[0][1]
    i = next((i for i in range(len(points) - 1) if x <= points[i + 1][0]), len(points) - 2)
    (x0, y0), (x1, y1) = points[i], points[i + 1]
    near = [points[k - 1 : k + 2] for k in (i, i + 1) if 0 < k < len(points) - 1]
    bends = [_bend(three) for three in near if _below(three, ceiling)]
    bend = min(bends, key=abs, default=0.0)
    value = y0 + (y1 - y0) / (x1 - x0) * (x - x0) + bend * (x - x0) * (x - x1)
    best = lowest(points)
    if best in (i, i + 1) and 0 < best < len(points) - 1:
        return value
    return min(max(value, min(y0, y1)), max(y0, y1))


def _below(three: Points, ceiling: float) -> bool:
    return all(y < ceiling for _, y in three)


def _bend(three: Points) -> float:
    """The coefficient of the square in the parabola through three points."""
    (x0, y0), (x1, y1), (x2, y2) = three
    return ((y2 - y1) / (x2 - x1) - (y1 - y0) / (x1 - x0)) / (x2 - x0)


def rectangle(held: Mapping[int, frozenset[float]]) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """Seeds, and learning rates for which each of these has a run: as many runs as there can be.

    Seeds with more runs come first, so that one that has hardly begun takes nothing from others.
    """
    order = sorted(held, key=lambda seed: (-len(held[seed]), seed))
    best: tuple[tuple[int, ...], frozenset[float]] = (), frozenset()
    for count in range(1, len(order) + 1):
        shared = frozenset.intersection(*(held[seed] for seed in order[:count]))
        if count * len(shared) >= len(best[0]) * len(best[1]):
            best = tuple(order[:count]), shared
    return tuple(sorted(best[0])), tuple(sorted(best[1]))


# --- drift ----------------------------------------------------------------------------------


def least_squares(
    rows: Sequence[Sequence[float]], ys: Sequence[float]
) -> tuple[list[float], list[list[float]]] | None:
    """Coefficients of the columns, and the inverse of rowsᵀ·rows; None where they are dependent.

    Gauss-Jordan elimination of the normal equations with pivots; the columns are few.
    """
    size = len(rows[0])
    scale = [math.sqrt(math.fsum(row[i] ** 2 for row in rows)) for i in range(size)]
    if not all(scale):
        return None
    unit = [[value / s for value, s in zip(row, scale, strict=True)] for row in rows]
    work = [
        [math.fsum(row[i] * row[j] for row in unit) for j in range(size)]
        + [float(i == j) for j in range(size)]
        for i in range(size)
    ]
    for i in range(size):
        pivot = max(range(i, size), key=lambda k: abs(work[k][i]))
        if abs(work[pivot][i]) < 1e-10:
            return None
        work[i], work[pivot] = work[pivot], work[i]
        work[i] = [value / work[i][i] for value in work[i]]
        for k in range(size):
            if k != i:
                work[k] = [a - work[k][i] * b for a, b in zip(work[k], work[i], strict=True)]
    inverse = [[work[i][size + j] / scale[i] / scale[j] for j in range(size)] for i in range(size)]
    moments = [math.fsum(row[i] * y for row, y in zip(rows, ys, strict=True)) for i in range(size)]
    found = [math.fsum(a * b for a, b in zip(line, moments, strict=True)) for line in inverse]
    return found, inverse


def slopes(
    places: Sequence[Sequence[float]], optima: Sequence[Mapping[int, float]]
) -> list[tuple[float, float | None]] | None:
    """Drift along each axis with its error, by least squares over all axes at once.

    places: of each curve, log2 of its sizes; optima: of each curve, its optimum by seed. The slopes
    are those of the means over seeds. The error is the larger of the standard error over the
    regressions of single seeds, and the standard error that the scatter of the mean optima about
    the plane gives; None where there is neither. Returns None where the axes cannot be told apart.
    """
    centre = [mean(column) for column in zip(*places, strict=True)]
    rows = [[1.0, *(v - c for v, c in zip(place, centre, strict=True))] for place in places]
    means = [mean(list(by_seed.values())) for by_seed in optima]
    solved = least_squares(rows, means) if len(rows) >= len(rows[0]) else None
    if solved is None:
        return None
    found, inverse = solved
    errors: list[list[float]] = [[] for _ in found]
    shared = sorted(frozenset.intersection(*(frozenset(by_seed) for by_seed in optima)))
    if len(shared) > 1:
        each = [least_squares(rows, [by_seed[seed] for by_seed in optima]) for seed in shared]
        for i, own in enumerate(errors):
            error = standard_error([one[0][i] for one in each if one is not None])
            own += [] if error is None else [error]
    free = len(rows) - len(found)
    if free:
        fitted = [math.fsum(a * b for a, b in zip(row, found, strict=True)) for row in rows]
        rest = math.fsum((y - f) ** 2 for y, f in zip(means, fitted, strict=True)) / free
        for i, own in enumerate(errors):
            own.append(math.sqrt(max(rest * inverse[i][i], 0.0)))
    return [(found[i], max(errors[i], default=None)) for i in range(1, len(found))]


def verdict(drift: float, error: float | None, tolerance: float) -> Verdict:
    """Whether a drift is within the tolerance; unclear if not by `SURE` errors, or without one."""
    if error is None or abs(abs(drift) - tolerance) < SURE * error:
        return "unclear"
    return "transfers" if abs(drift) <= tolerance else "drifts"
