"""Proved bounds on a formula's values, slopes and second derivatives, by interval arithmetic.

Every piece of the domain gives intervals that hold all of them; pieces in which one may be large
are halved until the bound is close to a size that occurs. Results are rounded outwards. Source:
Moore, Kearfott & Cloud, Introduction to Interval Analysis (SIAM 2009).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from heapq import heappop, heappush
from itertools import pairwise, starmap
from typing import NamedTuple

from modnorm.ops.formula_tree import FUNCTIONS, Apply, Constant, Node, X

PIECES = 600
"""Halvings, at most. What is not close by then is a bound all the same."""
CLOSE = 1.002
"""A bound within this factor of a slope that occurs is good enough."""
ROUNDING = 4 * 2.0**-52
"""Relative rounding of an operation or of a library function, taken to be at most this."""
TINY = 2.0**-1000
MARKS = (1.0, 1024.0)
"""A domain is cut at these, to look more closely at its middle."""
STEPS = 16
"""Sizes of domains that are looked at, for a factor of 2."""
LEVELS = [2.0**2**j for j in range(1, 9)]
"""Domains that are looked at first, each the square of the one before."""


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


class Jet(NamedTuple):
    """What holds all values of a part on a piece, all its slopes and all second derivatives."""

    value: Interval
    slope: Interval
    bend: Interval


class Undefined(Exception):
    """Raised where a part may be undefined somewhere on a piece."""


ZERO, ONE = Interval(0.0, 0.0), Interval(1.0, 1.0)
ANY = Interval(-math.inf, math.inf)


def _out(low: float, high: float) -> Interval:
    """The interval rounded outwards; everything where an end is not a number."""
    if math.isnan(low) or math.isnan(high):
        return ANY
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


def _call(name: str, a: Interval) -> Jet:
    """A function's values, its slopes and its second derivatives."""
    if name in ("log", "sqrt") and (a.low < 0 or (a.low == 0 and name == "log")):
        raise Undefined
    match name:
        case "abs":
            falls, rises = a.low < 0 or a == ZERO, a.high > 0 or a == ZERO
            slope = Interval(-1.0 if falls else 1.0, 1.0 if rises else -1.0)
            corner = a.low <= 0 <= a.high  # at an end of a piece too: no piece sees both sides
            return Jet(Interval(a.least, a.size), slope, ANY if corner else ZERO)
        case "exp":
            image = _rising(math.exp, a)
            return Jet(image, image, image)
        case "log":
            slope = _inverse(a)
            return Jet(_rising(math.log, a), slope, _minus(_square(slope)))
        case "sqrt":
            low, high = math.sqrt(a.low), math.sqrt(a.high)
            slope = _out(0.5 / high if high else math.inf, 0.5 / low if low else math.inf)
            steep = _times(_scaled(-2.0, slope), _square(slope))  # -1/(4·a^(3/2)) = -2·slope³
            return Jet(_out(low, high), slope, steep)
        case "tanh":
            image = _rising(math.tanh, a)
            slope = _hump(lambda x: _safe(math.cosh, x) ** -2, a)
            return Jet(image, slope, _times(_scaled(-2.0, image), slope))
        case "sigmoid":
            image = _rising(FUNCTIONS["sigmoid"], a)
            slope = _hump(lambda x: _safe(math.cosh, x / 2) ** -2 / 4, a)
            return Jet(image, slope, _times(_plus(ONE, _scaled(-2.0, image)), slope))
        case "erf":
            image = _rising(math.erf, a)
            slope = _hump(lambda x: 2 / math.sqrt(math.pi) * math.exp(-x * x), a)
            return Jet(image, slope, _times(_scaled(-2.0, a), slope))
        case "sin" | "cos":
            sine, cosine = _wave(math.sin, math.pi / 2, a), _wave(math.cos, 0.0, a)
            if name == "sin":
                return Jet(sine, cosine, _minus(sine))
            return Jet(cosine, _minus(sine), _minus(cosine))
    raise AssertionError(name)


def _scaled(factor: float, a: Interval) -> Interval:
    return _times(Interval(factor, factor), a)


def _square(a: Interval) -> Interval:
    return _raised(a, 2.0)


def _power(a: Interval, exponent: float) -> Jet:
    """aⁿ for a constant n, its slope n·aⁿ⁻¹ and its second derivative."""
    try:
        second = exponent * (exponent - 1)
        bend = _scaled(second, _raised(a, exponent - 2)) if second else ZERO
    except Undefined:
        bend = ANY  # at 0, where the slope may be well defined
    return Jet(_raised(a, exponent), _scaled(exponent, _raised(a, exponent - 1)), bend)


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


def bounds(node: Node, x: Interval) -> Jet:
    """What holds all values, slopes and second derivatives of a formula on a piece.

    Raises:
        Undefined: if it may be undefined there.
    """
    match node:
        case X():
            return Jet(x, ONE, ZERO)
        case Constant(value=value):
            return Jet(_out(float(value), float(value)), ZERO, ZERO)
        case Apply(function="-", arguments=(argument,)):
            return _negative(bounds(argument, x))
        case Apply(function=name, arguments=(argument,)):
            return _chain(name, bounds(argument, x))
        case Apply(function="**", arguments=(base, Constant(value=exponent))):
            inner = bounds(base, x)
            return _through(_power(inner.value, float(exponent)), inner)
        case Apply(function=name, arguments=(first, second)):
            return _pair(name, bounds(first, x), bounds(second, x))
    raise AssertionError(node)


def _negative(a: Jet) -> Jet:
    return Jet(*map(_minus, a))


def _pair(name: str, a: Jet, b: Jet) -> Jet:
    match name:
        case "+":
            return Jet(*map(_plus, a, b))
        case "-":
            return Jet(*map(_plus, a, _negative(b)))
        case "*":
            slope = _plus(_times(a.slope, b.value), _times(a.value, b.slope))
            outer = _plus(_times(a.bend, b.value), _times(a.value, b.bend))
            bend = _plus(outer, _scaled(2.0, _times(a.slope, b.slope)))
            return Jet(_times(a.value, b.value), slope, bend)
        case "/":
            inverse = _inverse(b.value)
            square = _times(inverse, inverse)
            third = _scaled(2.0, _times(square, inverse))
            return _pair("*", a, _through(Jet(inverse, _minus(square), third), b))
        case "**":
            return _chain("exp", _pair("*", b, _chain("log", a)))
        case "min" | "max":
            return _extreme(name, a, b)
    raise AssertionError(name)


def _chain(name: str, a: Jet) -> Jet:
    return _through(_call(name, a.value), a)


def _through(f: Jet, a: Jet) -> Jet:
    """The chain rule: `f` is what a function does to the values of `a`."""
    if a.slope == ONE and a.bend == ZERO:
        return f
    bend = _plus(_times(f.bend, _square(a.slope)), _times(f.slope, a.bend))
    return Jet(f.value, _times(f.slope, a.slope), bend)


def _extreme(name: str, a: Jet, b: Jet) -> Jet:
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
    return Jet(value, slope, ANY)


class Most(NamedTuple):
    """How large a derivative can be: at most `bound`; at `x` it is at least `known`."""

    bound: float
    known: float
    x: float


def bound(formula: Node, high: float, order: int) -> float:
    """A proved bound on |f|, |f'| or |f''| (order 0, 1, 2) for |x| ≤ high, which may be infinite.

    A formula that is not smooth has the bound of the slopes on both sides, and none on |f''|.
    """
    if not 0 < high < 1e300:
        return largest(formula, high, order).bound
    steps = 1 / 32  # huge sizes are of fewer kinds
    if high <= LEVELS[-1]:
        steps = STEPS
        most = largest(formula, next(level for level in LEVELS if level >= high), order)
        if abs(most.x) <= high and most.bound <= most.known * CLOSE:
            return most.bound  # the largest far around is inside: its neighbours need no search
    # of a few sizes, so that equal ones are looked at once
    high = max(high, 2 ** min(math.ceil(steps * math.log2(high)) / steps, 1000))
    return largest(formula, high, order).bound


@lru_cache(maxsize=1024)
def largest(
    formula: Node, high: float, order: int = 1, enough: float = 0.0, pieces: int = PIECES
) -> Most:
    """A proved bound on |f|, |f'| or |f''| (order 0, 1, 2) for |x| ≤ high.

    With `enough` it is looked for until it is at most that, or until more than that occurs.
    `pieces` is the number of halvings, at most.
    """
    inside = max((mark for mark in MARKS if mark < high), default=0.0)
    found, most, at = _begun(formula, order, inside)
    left = list(found)
    for x in (-high, high):
        here = _point(formula, x)
        if here is not None and here[order].least > most:
            most, at = here[order].least, x
    for piece in (Interval(-high, -inside), Interval(inside, high)):
        heappush(left, (-_size(formula, piece, order)[0], piece))
    return _halved(formula, left, Most(math.inf, most, at), order, enough, pieces)


@lru_cache(maxsize=256)
def largest_between(
    formula: Node, low: float, high: float, order: int, enough: float, pieces: int
) -> Most:
    """The same for low ≤ x ≤ high, both finite."""
    ends = ((here[order].least, x) for x in (low, high) if (here := _point(formula, x)) is not None)
    most, at = max(ends, default=(0.0, low))
    piece = Interval(low, high)
    left = [(-_size(formula, piece, order)[0], piece)]
    return _halved(formula, left, Most(math.inf, most, at), order, enough, pieces)


def _halved(
    formula: Node,
    left: list[tuple[float, Interval]],
    found: Most,
    order: int,
    enough: float,
    pieces: int,
) -> Most:
    """Halve the piece in which most may be, again and again: `left` is the heap of all of them."""
    _, most, at = found
    for _ in range(pieces):
        worst, piece = left[0]
        middle = _middle(piece)
        near = enough if enough else most * CLOSE
        if middle is None or -worst <= near or most > enough > 0:
            break
        heappop(left)
        for half in (Interval(piece.low, middle), Interval(middle, piece.high)):
            size, known = _size(formula, half, order)
            heappush(left, (-size, half))
            if known > most:
                most, at = known, half.low / 2 + half.high / 2
    return Most(-left[0][0], most, at)


@lru_cache(maxsize=256)
def _begun(
    formula: Node, order: int, high: float
) -> tuple[list[tuple[float, Interval]], float, float]:
    """The pieces inside of a mark with their sizes as a heap, a size that occurs, and where."""
    ends = sorted({side * mark for mark in MARKS if mark <= high for side in (-1, 1)} | {0.0})
    left: list[tuple[float, Interval]] = []
    most, at = 0.0, 0.0
    for x in ends:
        here = _point(formula, x)
        if here is not None and here[order].least > most:
            most, at = here[order].least, x
    for piece in starmap(Interval, pairwise(ends)):
        heappush(left, (-_size(formula, piece, order)[0], piece))
    return left, most, at


def _size(formula: Node, piece: Interval, order: int) -> tuple[float, float]:
    """A bound on a piece, and a size in its middle. The next derivative may give a better bound."""
    middle = piece.low / 2 + piece.high / 2
    here = _point(formula, middle)
    known = 0.0 if here is None else here[order].least
    try:
        jet = bounds(formula, piece)
    except Undefined:
        return math.inf, known
    size = jet[order].size
    if here is not None and order < 2 and size > known:
        far = max(middle - piece.low, piece.high - middle) * jet[order + 1].size
        size = min(size, (here[order].size + far) * (1 + ROUNDING))
    return size, known


def _point(formula: Node, x: float) -> Jet | None:
    if not math.isfinite(x):
        return None
    try:
        return bounds(formula, Interval(x, x))
    except Undefined:
        return None


def _middle(piece: Interval) -> float | None:
    """Where to halve a piece; None where it cannot be."""
    if math.isinf(piece.low) or math.isinf(piece.high):
        end = piece.high if math.isinf(piece.low) else piece.low
        return 2 * end if abs(end) < 1e150 else None
    middle = piece.low / 2 + piece.high / 2
    return middle if piece.low < middle < piece.high else None
