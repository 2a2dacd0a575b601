"""Arithmetic of the language: exact rationals until `sqrt` or `log2`, and always bounded."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction

from modnorm.ops.types import Real

MAX_BITS = 4096
"""Longest numerator or denominator of an exact number."""
LONG = f"the result is an exact number of more than {MAX_BITS} bits"


class Impossible(Exception):
    """Arithmetic that has no result, or none within bounds; the message says why."""


def checked(value: Real) -> Real:
    """The value in its simplest form: whole numbers as int.

    Raises:
        Impossible: if it is not finite, or an exact number too long.
    """
    if isinstance(value, float):
        if not math.isfinite(value):
            raise Impossible("the result is not finite")
        return value
    if isinstance(value, Fraction) and value.denominator == 1:
        value = value.numerator
    bits = max(abs(value.numerator).bit_length(), value.denominator.bit_length())
    if bits > MAX_BITS:
        raise Impossible(LONG)
    return value


def _as_float(value: Real) -> float:
    try:
        return float(value)
    except OverflowError:
        raise Impossible("the number is too large for a float") from None


def fits_float(value: Real) -> bool:
    """Whether a float can hold a number: it neither overflows nor underflows to 0."""
    try:
        nearest = float(value)
    except OverflowError:
        return False
    return math.isfinite(nearest) and (nearest == 0) == (value == 0)


def arithmetic(operator: str, a: Real, b: Real) -> Real:
    """`a operator b` for one of `+ - * / **`.

    Raises:
        Impossible: for division by zero, a complex power, or a result out of bounds.
    """
    if isinstance(a, float) or isinstance(b, float):
        a, b = _as_float(a), _as_float(b)
    try:
        match operator:
            case "+":
                return checked(a + b)
            case "-":
                return checked(a - b)
            case "*":
                return checked(a * b)
            case "/":
                if b == 0:
                    raise Impossible("division by zero")
                return checked(a / b if isinstance(a, float) else Fraction(a) / Fraction(b))
            case "**":
                return power(a, b)
    except OverflowError:
        raise Impossible("the result is too large") from None
    raise AssertionError(operator)


def power(a: Real, b: Real) -> Real:
    """a to the power b, exact for whole b.

    Raises:
        Impossible: where there is no real result, or it is out of bounds.
    """
    if a == 0 and b < 0:
        raise Impossible("0 has no negative power")
    if not isinstance(b, float) and Fraction(b).denominator == 1 and not isinstance(a, float):
        bits = max(abs(a.numerator).bit_length(), a.denominator.bit_length()) - 1
        if bits * abs(int(b)) > MAX_BITS + 64:
            raise Impossible(LONG)
        return checked(Fraction(a) ** int(b))
    if a < 0 and b != int(b):
        raise Impossible(f"{show(a)} is negative and has no power {show(b)}")
    return checked(_as_float(a) ** _as_float(b))


def _sqrt(a: Real) -> Real:
    if a < 0:
        raise Impossible(f"{show(a)} is negative and has no square root")
    return checked(math.sqrt(_as_float(a)))


def _log2(a: Real) -> Real:
    if a <= 0:
        raise Impossible(f"{show(a)} is not positive and has no logarithm")
    return checked(math.log2(_as_float(a)))


FUNCTIONS: dict[str, tuple[Callable[..., Real], int, int | None]] = {
    "sqrt": (_sqrt, 1, 1),
    "log2": (_log2, 1, 1),
    "floor": (lambda a: math.floor(a), 1, 1),
    "ceil": (lambda a: math.ceil(a), 1, 1),
    "min": (lambda *a: min(a), 1, None),
    "max": (lambda *a: max(a), 1, None),
}
"""Functions on numbers: the function, fewest and most arguments (None: any number)."""


def written(value: object) -> str:
    """A number for a message about what was written: 8.5, not 17/2."""
    if isinstance(value, Fraction) and (value * 1000).denominator == 1 and value**2 < 10**12:
        return str(float(value))
    return show(value)


def _rounded(value: int | Fraction) -> str:
    """A long number in a few digits, also beyond the range of floats."""
    if fits_float(value):
        return f"{float(value):.6g}"
    bits = value.numerator.bit_length() - value.denominator.bit_length()
    return f"about {'-' if value < 0 else ''}1e{round(bits * math.log10(2)):+d}"


def show(value: object) -> str:
    """A number as a person would write it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Fraction):
        bits = value.numerator.bit_length() + value.denominator.bit_length()
        if bits > 100:
            return _rounded(value)
        return f"{value.numerator}/{value.denominator}"
    if isinstance(value, int) and abs(value) >= 10**15:
        return _rounded(value)
    if isinstance(value, float):
        return f"{value:.6g}"
    return str(value)
