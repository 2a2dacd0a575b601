"""Pieces of the generated file's Python: numbers, tuples, copied functions."""

from __future__ import annotations

import ast
import math
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

from modnorm.ops.base import Misfit
from modnorm.ops.types import Real

EXACT = 2**53
"""Whole numbers up to here are exact as floats."""


def number(value: Real) -> str:
    """A Python literal or quotient of literals that evaluates to the float nearest to the value.

    It binds at least as tightly as a product's first factor: `1/3 * x` is meant.
    """
    nearest = float(value)
    if nearest.is_integer() and abs(nearest) <= EXACT:
        return str(int(nearest))
    decimal = repr(nearest)
    exact = Fraction(value)
    quotient = f"{exact.numerator}/{exact.denominator}"
    if len(decimal) > 7 and len(quotient) < len(decimal):
        return quotient
    return decimal


def times(factor: Real, x: str) -> str:
    """The product of a constant and an atomic expression."""
    if factor == 1:
        return x
    return f"-{x}" if factor == -1 else f"{number(factor)} * {x}"


def expression(x: Any) -> str:
    """An expression, or a tuple of them, as text."""
    if isinstance(x, tuple):
        inner = ", ".join(map(expression, x))
        return f"({inner},)" if len(x) == 1 else f"({inner})"
    return str(x)


def parts(x: Any, count: int) -> tuple[Any, ...]:
    """The expressions of a tuple's members."""
    return x if isinstance(x, tuple) else tuple(f"{x}[{i}]" for i in range(count))


def quoted(text: str) -> str:
    """A text as it stands between the quotes of a docstring."""
    text = text.replace("\\", "\\\\").replace('"""', '\\"\\"\\"')
    shown = (c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text)
    return "".join(shown) + (" " if text.endswith('"') else "")


def as_float(op: str, argument: str, value: Real) -> float:
    """The number as a float.

    Raises:
        Misfit: if it overflows, or is not 0 and underflows to 0.
    """
    try:
        nearest = float(value)
    except OverflowError:
        nearest = math.inf
    if math.isinf(nearest) or (nearest == 0) != (value == 0):
        size = "large" if nearest else "small"
        raise Misfit(
            f"`{argument}` of `{op}` is too {size} for a float", argument=argument, code="E305"
        )
    return nearest


def copied(name: str) -> str:
    """The source of a function or class of `modnorm.ops.runtime`, which itself is not imported."""
    return _definitions()[name]


@cache
def _definitions() -> dict[str, str]:
    text = Path(__file__).with_name("runtime.py").read_text("utf-8")
    lines = text.splitlines()
    found: dict[str, str] = {}
    for node in ast.parse(text).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
            found[node.name] = "\n".join(lines[first - 1 : node.end_lineno])
    return found
