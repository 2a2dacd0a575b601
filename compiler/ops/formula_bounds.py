"""A proved bound on the slope of a formula, by interval arithmetic.

Every piece of the domain gives an interval that holds all values and one that holds all slopes;
pieces in which the slope may be large are halved until the bound is close to a slope that occurs.
Results are rounded outwards. Source: Moore, Kearfott & Cloud, Introduction to Interval Analysis
(SIAM 2009).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from heapq import heappop, heappush
from itertools import pairwise
from typing import NamedTuple

from modnorm.ops.formula_tree import FUNCTIONS, Apply, Constant, Node, X

PIECES = 600
"""Evaluations, at most. What is not close by then is a bound all the same."""
CLOSE = 1.002
"""A bound within this factor of a slope that occurs is good enough."""
ROUNDING = 4 * 2.0**-52
"""Relative rounding of an operation or of a library function, taken to be at most this."""
TINY = 2.0**-1000
FAR = 1024.0
"""An unbounded domain is cut here, to look more closely at its middle."""


class Interval(NamedTuple):
    low: float
    high: float

    @property
    def size(self) -> float:
        """The largest absolute value."""
        return max(abs(self.low), abs(self.high))

    @property
    def least(self) -> float:
        """The smallest absolute value."""
        return 0.0 if self.low <= 0 <= self.high else min(abs(self.low), abs(self.high))


class Both(NamedTuple):
    """What holds all values of a part on a piece, and all its slopes."""

    value: Interval
    slope: Interval


class Undefined(Exception):
    """Raised where a part may be undefined somewhere on a piece."""


ZERO, ONE = Interval(0.0, 0.0), Interval(1.0, 1.0)


def _out(low: float, high: float) -> Interval:
    """The interval rounded outwards; everything where an end is not a number."""
    if math.isnan(low) or math.isnan(high):
        return Interval(-math.inf, math.inf)
    low, high = min(low, high), max(low, high)  # a library's rounding is not monotone
    if math.isfinite(low):
        low -= abs(low) * ROUNDING + TINY
    if math.isfinite(high):
        high += abs(high) * ROUNDING + TINY
    return Interval(low, high)


def _plus(a: Interval, b: Interval) -> Interval:
    return _out(a.low + b.low, a.high + b.high)


def _minus(a: Interval) -> Interval:
    return Interval(-a.high, -a.low)


def _times(a: Interval, b: Interval) -> Interval:
    if a == ONE or b == ZERO:
        return b
    if b == ONE or a == ZERO:
        return a
    ends = [x * y if x and y else 0.0 for x in a for y in b]
    return _out(min(ends), max(ends))


def _inverse(a: Interval) -> Interval:
    if a.low <= 0 <= a.high:
        raise Undefined
    return _out(1 / a.high, 1 / a.low)


def _rising(function: Callable[[float], float], a: Interval) -> Interval:
    """The image under a function that rises."""
    return _out(_safe(function, a.low), _safe(function, a.high))


def _safe(function: Callable[[float], float], x: float) -> float:
    try:
        return function(x)
    except OverflowError:
        return math.inf


def _hump(top: Callable[[float], float], a: Interval) -> Interval:
    """The image under an even function that falls away from 0."""
    return _out(top(a.size), top(a.least))


def _wave(function: Callable[[float], float], peak: float, a: Interval) -> Interval:
    """The image under a sine of period 2π with a maximum at `peak`."""
    if not a.high - a.low < 2 * math.pi or a.size > 1e6:
        return Interval(-1.0, 1.0)
    ends = [function(a.low), function(a.high)]
    for at, value in ((peak, 1.0), (peak + math.pi, -1.0)):
        turn = math.ceil((a.low - at) / (2 * math.pi) - 1e-6)  # one that only nearly lies inside
        if at + turn * 2 * math.pi <= a.high + 1e-6:
            ends.append(value)
    return _out(min(ends), max(ends))


def _call(name: str, a: Interval) -> Both:
    """A function's values and its slopes."""
    if name in ("log", "sqrt") and (a.low < 0 or (a.low == 0 and name == "log")):
        raise Undefined
    match name:
        case "abs":
            falls, rises = a.low < 0 or a == ZERO, a.high > 0 or a == ZERO
            slope = Interval(-1.0 if falls else 1.0, 1.0 if rises else -1.0)
            return Both(Interval(a.least, a.size), slope)
        case "exp":
            image = _rising(math.exp, a)
            return Both(image, image)
        case "log":
            return Both(_rising(math.log, a), _inverse(a))
        case "sqrt":
            low, high = math.sqrt(a.low), math.sqrt(a.high)
            return Both(
                _out(low, high),
                _out(0.5 / high if high else math.inf, 0.5 / low if low else math.inf),
            )
        case "tanh":
            image = _rising(math.tanh, a)
            return Both(image, _hump(lambda x: _safe(math.cosh, x) ** -2, a))
        case "sigmoid":
            image = _rising(FUNCTIONS["sigmoid"], a)
            return Both(image, _hump(lambda x: _safe(math.cosh, x / 2) ** -2 / 4, a))
        case "erf":
            image = _rising(math.erf, a)
            return Both(image, _hump(lambda x: 2 / math.sqrt(math.pi) * math.exp(-x * x), a))
        case "sin":
            return Both(_wave(math.sin, math.pi / 2, a), _wave(math.cos, 0.0, a))
        case "cos":
            return Both(_wave(math.cos, 0.0, a), _minus(_wave(math.sin, math.pi / 2, a)))
    raise AssertionError(name)


def _power(a: Interval, exponent: float) -> Both:
    """aⁿ for a constant n, and its slope n·aⁿ⁻¹."""
    return Both(
        _raised(a, exponent), _times(Interval(exponent, exponent), _raised(a, exponent - 1))
    )


def _raised(a: Interval, exponent: float) -> Interval:
    if exponent == 0:
        return ONE
    if exponent < 0:
        return _inverse(_raised(a, -exponent))
    whole = exponent == int(exponent)
    if a.low < 0 and not whole:
        raise Undefined

    def power(x: float) -> float:
        try:
            return x ** int(exponent) if whole else x**exponent
        except OverflowError:
            return -math.inf if x < 0 and exponent % 2 else math.inf

    ends = (power(a.low), power(a.high))
    if whole and exponent % 2 == 0:
        return _out(0.0 if a.low <= 0 <= a.high else min(ends), max(ends))
    return _out(*ends)


def bounds(node: Node, x: Interval) -> Both:
    """What holds all values and all slopes of a formula on a piece.

    Raises:
        Undefined: if it may be undefined there.
    """
    match node:
        case X():
            return Both(x, ONE)
        case Constant(value=value):
            return Both(_out(float(value), float(value)), ZERO)
        case Apply(function="-", arguments=(argument,)):
            inner = bounds(argument, x)
            return Both(_minus(inner.value), _minus(inner.slope))
        case Apply(function=name, arguments=(argument,)):
            inner = bounds(argument, x)
            image, slope = _call(name, inner.value)
            return Both(image, _times(slope, inner.slope))
        case Apply(function="**", arguments=(base, Constant(value=exponent))):
            inner = bounds(base, x)
            image, slope = _power(inner.value, float(exponent))
            return Both(image, _times(slope, inner.slope))
        case Apply(function=name, arguments=(first, second)):
            return _pair(name, bounds(first, x), bounds(second, x))
    raise AssertionError(node)


def _pair(name: str, a: Both, b: Both) -> Both:
    match name:
        case "+":
            return Both(_plus(a.value, b.value), _plus(a.slope, b.slope))
        case "-":
            return Both(_plus(a.value, _minus(b.value)), _plus(a.slope, _minus(b.slope)))
        case "*":
            slope = _plus(_times(a.slope, b.value), _times(a.value, b.slope))
            return Both(_times(a.value, b.value), slope)
        case "/":
            inverse = _inverse(b.value)
            down = Both(inverse, _minus(_times(_times(inverse, inverse), b.slope)))
            return _pair("*", a, down)
        case "**":
            exponent = _pair("*", b, Both(*_chain("log", a)))
            return Both(*_chain("exp", exponent))
        case "min" | "max":
            return _extreme(name, a, b)
    raise AssertionError(name)


def _chain(name: str, a: Both) -> Both:
    image, slope = _call(name, a.value)
    return Both(image, _times(slope, a.slope))


def _extreme(name: str, a: Both, b: Both) -> Both:
    """The smaller or the larger of two: its slope is that of either, where it is not clear."""
    if name == "min":
        a, b = b, a  # now `b` is chosen where it is the smaller
        if a.value.low > b.value.high:
            return b
        if b.value.low > a.value.high:
            return a
        value = Interval(min(a.value.low, b.value.low), min(a.value.high, b.value.high))
    else:
        if a.value.low > b.value.high:
            return a
        if b.value.low > a.value.high:
            return b
        value = Interval(max(a.value.low, b.value.low), max(a.value.high, b.value.high))
    slope = Interval(min(a.slope.low, b.slope.low), max(a.slope.high, b.slope.high))
    return Both(value, slope)


@lru_cache(maxsize=256)
def steepest(formula: Node, high: float) -> float:
    """A proved bound on |f'| for |x| ≤ high, which may be infinite; infinite where there is none.

    A formula that is not smooth has the bound of the slopes on both sides.
    """
    pieces: list[tuple[float, Interval]] = []
    known = 0.0  # a slope that occurs

    def look(piece: Interval) -> None:
        try:
            size = bounds(formula, piece).slope.size
        except Undefined:
            size = math.inf
        heappush(pieces, (-size, piece))

    ends = [-high, -1.0, 0.0, 1.0, high] if high > 1 else [-high, 0.0, high]
    if math.isinf(high):
        ends = [-high, -FAR, *ends[1:-1], FAR, high]
    for low, top in pairwise(ends):
        look(Interval(low, top))
    for _ in range(PIECES):
        worst, piece = pieces[0]
        middle = _middle(piece)
        if middle is None or -worst <= known * CLOSE:
            break
        known = max(known, _slope_at(formula, middle))
        if -worst <= known * CLOSE:
            break
        heappop(pieces)
        look(Interval(piece.low, middle))
        look(Interval(middle, piece.high))
    return -pieces[0][0]


def _middle(piece: Interval) -> float | None:
    """Where to halve a piece; None where it cannot be."""
    if math.isinf(piece.low) or math.isinf(piece.high):
        end = piece.high if math.isinf(piece.low) else piece.low
        return 2 * end if abs(end) < 1e150 else None
    middle = piece.low / 2 + piece.high / 2
    return middle if piece.low < middle < piece.high else None


def _slope_at(formula: Node, x: float) -> float:
    """The least that the slope at a point can be, in absolute value."""
    try:
        low, high = bounds(formula, Interval(x, x)).slope
    except Undefined:
        return 0.0
    return Interval(low, high).least
