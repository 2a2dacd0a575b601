"""The declared sensitivity of a formula against its slope: by dual numbers and by differences, and
by interval arithmetic, which a narrow place between the points does not escape.

A dual number (value, slope) carries the derivative along; arithmetic follows IEEE 754, as torch's
does: an overflow is infinite, an undefined result is not a number.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from heapq import nlargest
from itertools import pairwise
from typing import NamedTuple, TypeAlias

from modnorm.ops.formula_bounds import Most, largest, largest_between
from modnorm.ops.formula_tree import FUNCTIONS, Apply, Constant, Node, X
from modnorm.ops.types import Real

Dual: TypeAlias = tuple[float, float]
Domain: TypeAlias = tuple[float, float]
"""From where to where."""
TOLERANCE = 1e-6
"""Relative excess over the declared sensitivity that is put down to rounding."""
DENSE = 100.0
"""Half the width of the range in which a formula must be finite."""
GROWS = 1e-3
"""Relative growth of a slope beyond `DENSE` from which on it is no limit that is approached."""
PIECES = 1200
"""Halvings in the search for a bound by intervals."""
ROUNDS = 6
PEAKS = 6
WIDE = 1e6
"""Half the width of the range in which slopes are compared."""
RULED_OUT = 1.05
"""The interval bound may exceed the declared sensitivity by this factor: it is never
quite sharp, and takes long where it would have to be."""


class Violation(NamedTuple):
    """Where a formula breaks its declared sensitivity; `reason` is a sentence about `x`.

    `slope` is the steepest slope found near 0, or not finite where the formula itself is not;
    `most` is the steepest anywhere. The declared sensitivity `holds` for x up to a size.
    """

    slope: float
    x: float
    reason: str
    most: float = math.nan
    holds: float = 0.0

    @property
    def grows(self) -> bool:
        """Whether the slope goes on growing with the size of x."""
        return self.most > self.slope * (1 + GROWS)


class Program:
    """A formula made ready to be evaluated at many points."""

    def __init__(self, formula: Node) -> None:
        self.domain: list[str] = []
        """What was undefined in the latest evaluation."""
        self._dual = self._compile(formula)

    def __call__(self, x: float) -> Dual:
        """The value and the slope at x."""
        self.domain.clear()
        return self._dual(x)

    def value(self, x: float) -> float:
        return self(x)[0]

    def _compile(self, node: Node) -> Callable[[float], Dual]:
        match node:
            case X():
                return lambda x: (x, 1.0)
            case Constant(value=value):
                constant = (float(value), 0.0)
                return lambda x: constant
            case Apply(function=function, arguments=(argument,)):
                inner = self._compile(argument)
                rule = getattr(self, "_negative" if function == "-" else f"_{function}")
                return lambda x: rule(*inner(x))
            case Apply(function=function, arguments=(first, second)):
                left, right = self._compile(first), self._compile(second)
                both = getattr(self, _BINARY[function])
                return lambda x: both(*left(x), *right(x))
        raise AssertionError(node)

    def _undefined(self, what: str) -> Dual:
        self.domain.append(what)
        return math.nan, math.nan

    # -- operators: value and slope of the left, then of the right operand --------------------

    def _add(self, a: float, da: float, b: float, db: float) -> Dual:
        return a + b, da + db

    def _subtract(self, a: float, da: float, b: float, db: float) -> Dual:
        return a - b, da - db

    def _multiply(self, a: float, da: float, b: float, db: float) -> Dual:
        return a * b, da * b + a * db

    def _divide(self, a: float, da: float, b: float, db: float) -> Dual:
        if b == 0:
            return self._undefined(f"{_short(a)} is divided by 0")
        q = a / b
        return q, (da - q * db) / b

    def _power(self, a: float, da: float, b: float, db: float) -> Dual:
        if math.isfinite(a) and math.isfinite(b):
            if a == 0 and b < 0:
                return self._undefined(f"0 is raised to the power {_short(b)}")
            if a < 0 and b != int(b):
                return self._undefined(f"{_short(a)} is raised to the power {_short(b)}")
        y = _pow(a, b)
        slope = 0.0
        if da:
            slope += b * (_pow(a, b - 1) if a or b >= 1 else math.inf) * da if b else 0.0
        if db:
            slope += y * (math.log(a) if a > 0 else math.nan) * db if a or b <= 0 else 0.0
        return y, slope

    def _min(self, a: float, da: float, b: float, db: float) -> Dual:
        if a != a or b != b:
            return math.nan, math.nan
        return (a, da) if a <= b else (b, db)

    def _max(self, a: float, da: float, b: float, db: float) -> Dual:
        if a != a or b != b:
            return math.nan, math.nan
        return (a, da) if a >= b else (b, db)

    # -- functions ----------------------------------------------------------------------------

    def _negative(self, a: float, da: float) -> Dual:
        return -a, -da

    def _abs(self, a: float, da: float) -> Dual:
        return abs(a), math.copysign(1.0, a) * da

    def _exp(self, a: float, da: float) -> Dual:
        y = _exp(a)
        return y, y * da

    def _log(self, a: float, da: float) -> Dual:
        if a <= 0:
            return self._undefined(f"the logarithm of {_short(a)} is taken")
        return math.log(a), da / a

    def _sqrt(self, a: float, da: float) -> Dual:
        if a < 0:
            return self._undefined(f"the square root of {_short(a)} is taken")
        y = math.sqrt(a)
        return y, da / (2 * y) if y else da * math.inf

    def _tanh(self, a: float, da: float) -> Dual:
        y = math.tanh(a)
        return y, (1 - y * y) * da

    def _sigmoid(self, a: float, da: float) -> Dual:
        y = FUNCTIONS["sigmoid"](a) if a == a else a
        return y, y * (1 - y) * da

    def _erf(self, a: float, da: float) -> Dual:
        return math.erf(a), 2 / math.sqrt(math.pi) * _exp(-a * a) * da

    def _sin(self, a: float, da: float) -> Dual:
        if math.isinf(a):
            return math.nan, math.nan
        return math.sin(a), math.cos(a) * da

    def _cos(self, a: float, da: float) -> Dual:
        if math.isinf(a):
            return math.nan, math.nan
        return math.cos(a), -math.sin(a) * da


_BINARY = {
    "+": "_add",
    "-": "_subtract",
    "*": "_multiply",
    "/": "_divide",
    "**": "_power",
    "min": "_min",
    "max": "_max",
}


def _exp(a: float) -> float:
    try:
        return math.exp(a)
    except OverflowError:
        return math.inf


def _pow(a: float, b: float) -> float:
    try:
        return math.pow(a, b)
    except OverflowError:
        return -math.inf if a < 0 and b % 2 == 1 else math.inf
    except ValueError:  # 0 to a negative power, or a negative number to a broken one
        return math.inf if a == 0 else math.nan


def _short(value: float) -> str:
    return f"{value:.4g}"


def _grid() -> tuple[float, ...]:
    """Points of both signs: even steps out to `DENSE`, powers of 10 near 0 and beyond."""
    even = [i / 32 for i in range(1, 8 * 32)] + [8 + i / 2 for i in range(2 * 92 + 1)]
    inner = [10 ** (-k / 2) for k in range(4, 25)]
    tail = [DENSE * 10 ** (k / 4) for k in range(1, 17)]
    positive = sorted({*even, *inner, *tail})
    return (*(-x for x in reversed(positive)), 0.0, *positive)


GRID = _grid()
RANGE = f"x is tried from {GRID[0]:,.0f} to {GRID[-1]:,.0f}"
OUTWARD = sorted(range(len(GRID)), key=lambda i: abs(GRID[i]))


def _grid_of(domain: Domain | None) -> tuple[tuple[float, ...], list[int], str]:
    """The points that are tried, in which order, and in words which they are."""
    if domain is None:
        return GRID, OUTWARD, RANGE
    low, high = domain
    width = high - low
    near = [width * 10 ** (-k / 2) for k in range(5, 25)]
    points = {low, high, *(low + width * (i / 512) for i in range(1, 512))}
    points |= {low + d for d in near} | {high - d for d in near}
    grid = tuple(sorted(x for x in {*points, *GRID} if low <= x <= high))
    order = sorted(range(len(grid)), key=lambda i: abs(grid[i]))
    return grid, order, f"x is tried from {_short(low)} to {_short(high)}"


def check(formula: Node, sensitivity: Real, domain: Domain | None = None) -> Violation | None:
    """The worst violation of a declared sensitivity, or None where none was found.

    Slopes are sampled from -10⁶ to 10⁶, densely up to ±100, and refined around the steepest places;
    where that finds none, intervals may. Beyond ±100 a formula may overflow, but must be defined.
    With a `domain` all of that is done in it alone, and the formula is finite there.
    """
    grid, order, tried = _grid_of(domain)
    program = Program(formula)
    values = [0.0] * len(grid)
    slopes = [0.0] * len(grid)
    for i in order:
        x = grid[i]
        values[i], slope = program(x)
        if math.isfinite(values[i]):
            slopes[i] = _steepness(program, x, slope)
            if x == 0 and not math.isfinite(slope):  # inputs of exactly 0 are common
                return Violation(math.inf, x, "at x = 0 its gradient is not finite")
        elif program.domain or domain is not None or abs(x) <= DENSE:
            reason = program.domain[0] if program.domain else "the result is not finite"
            return Violation(math.nan, x, f"at x = {_short(x)}, {reason}")
    found = list(zip(slopes, grid, strict=True))
    # a secant shows a steep place that lies between two points
    places = [(s, i - 1, i + 1) for i, s in enumerate(slopes)]
    for i, ((x0, x1), (y0, y1)) in enumerate(zip(pairwise(grid), pairwise(values), strict=True)):
        places.append((abs(y1 - y0) / (x1 - x0), i, i + 1))
    for _, i, j in nlargest(PEAKS, places):
        found.append(_refine(program, grid[max(i, 0)], grid[min(j, len(grid) - 1)]))
    most = float(sensitivity) * (1 + TOLERANCE)
    if not any(slope > most for slope, _ in found):
        found += _between(formula, sensitivity, most, domain)
    if not any(slope > most for slope, _ in found):
        return None
    breaks = min(abs(x) for slope, x in found if slope > most)
    holds = max((abs(x) for _, x in found if abs(x) < breaks), default=0.0)
    near = [f for f in found if domain is not None or abs(f[1]) <= max(breaks, DENSE)]
    worst, at = max(near, key=lambda f: (f[0], -abs(f[1])))
    digits = next(d for d in (4, 6, 9, 12, 17) if abs(float(f"{at:.{d}g}") - at) <= 1e-6 * abs(at))
    reason = f"at x = {at:.{digits}g} its slope is {worst:.6g} ({tried})"
    return Violation(worst, at, reason, max(slope for slope, _ in found), holds)


def _between(
    formula: Node, sensitivity: Real, most: float, domain: Domain | None
) -> list[tuple[float, float]]:
    """Slopes above `most` that intervals find between the points, the steepest last, and where."""
    wide = ((-DENSE, DENSE, PIECES), (-WIDE, WIDE, PIECES // 16))
    for low, high, pieces in wide if domain is None else ((*domain, PIECES),):
        first = _steepest(formula, (low, high), float(sensitivity) * RULED_OUT, pieces)
        if first.known > most:
            on = _steepest(formula, (low, high), 0.0, pieces)
            return [(found.known, found.x) for found in (first, on)]
    return []


def _steepest(formula: Node, domain: Domain, enough: float, pieces: int) -> Most:
    low, high = domain
    if low == -high:
        return largest(formula, high, 1, enough, pieces)
    return largest_between(formula, low, high, 1, enough, pieces)


def undecided(formula: Node, sensitivity: Real, domain: Domain | None = None) -> float | None:
    """The slope up to ±100, or in a domain, that cannot be ruled out, where it is above the
    declared sensitivity."""
    enough = float(sensitivity) * RULED_OUT
    bound = _steepest(formula, domain or (-DENSE, DENSE), enough, PIECES).bound
    return bound if bound > enough else None


def _steepness(program: Program, x: float, slope: float) -> float:
    """|slope|, or, where rounding or a kink leaves none, the steeper of two differences."""
    if math.isfinite(slope):
        return abs(slope)
    step = 1e-4 * max(1.0, abs(x))
    here = program.value(x)
    sides = [abs(program.value(x + s) - here) / step for s in (step, -step)]
    return max((s for s in sides if math.isfinite(s)), default=0.0)


def _refine(program: Program, low: float, high: float) -> tuple[float, float]:
    """The steepest slope found by narrowing an interval, and where."""
    worst, at = 0.0, low
    first, last = low, high
    for _ in range(ROUNDS):
        step = (high - low) / 16
        for k in range(17):
            x = low + k * step
            value, slope = program(x)
            steep = _steepness(program, x, slope) if math.isfinite(value) else 0.0
            if steep > worst:
                worst, at = steep, x
        low, high = max(first, at - step), min(last, at + step)
    return worst, at
