"""The formula of a bond as a tree of its own: constants folded, names resolved."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import TypeAlias

from modnorm.diagnostics import Span, did_you_mean
from modnorm.ops.types import Real
from modnorm.syntax import tree


@dataclass(frozen=True)
class X:
    """The tensor."""


@dataclass(frozen=True)
class Constant:
    value: Real


@dataclass(frozen=True)
class Apply:
    """A function or an operator applied; at least one argument depends on the tensor."""

    function: str
    arguments: tuple[Node, ...]


Node: TypeAlias = X | Constant | Apply


class BadFormula(Exception):
    """A formula that cannot be: the message says why, the span where."""

    def __init__(self, message: str, span: Span, *, code: str = "E302", hint: str = "") -> None:
        super().__init__(message)
        self.message, self.span, self.code, self.hint = message, span, code, hint


FUNCTIONS: dict[str, Callable[[float], float]] = {
    "abs": abs,
    "exp": math.exp,
    "log": math.log,
    "sqrt": math.sqrt,
    "tanh": math.tanh,
    "sigmoid": lambda a: 1 / (1 + math.exp(-a)) if a >= 0 else math.exp(a) / (1 + math.exp(a)),
    "erf": math.erf,
    "sin": math.sin,
    "cos": math.cos,
}
"""Functions of one argument."""

OPERATORS = ("+", "-", "*", "/", "**")
KNOWN = (*FUNCTIONS, "min", "max")
MAX_BITS = 1024
"""Exact constants longer than this continue as floats."""


def build(expr: tree.Expr, tensor: str, constants: Mapping[str, Real]) -> Node:
    """The tree of a formula in which `tensor` names the tensor.

    Raises:
        BadFormula: for an unknown name, a function that is not elementwise arithmetic, or constant
            arithmetic without a result.
    """
    match expr:
        case tree.Number(value=value):
            return _constant(value, expr.span)
        case tree.Name(text=name):
            if name == tensor:
                return X()
            if name in constants:
                return _constant(constants[name], expr.span)
            raise BadFormula(
                f"`{name}` is neither the tensor `{tensor}` nor a constant of this bond",
                expr.span,
                code="E201",
                hint=did_you_mean(name, [tensor, *constants])
                or "a bond's formula uses its own arguments only",
            )
        case tree.Unary(operator="-" | "+" as operator, operand=operand):
            inner = build(operand, tensor, constants)
            return inner if operator == "+" else _apply("-", (inner,), expr.span)
        case tree.Binary(operator=operator, left=left, right=right) if operator in OPERATORS:
            pair = (build(left, tensor, constants), build(right, tensor, constants))
            return _apply(operator, pair, expr.span)
        case tree.Call():
            return _call(expr, tensor, constants)
    raise BadFormula(
        "a bond's formula is arithmetic on its tensor, entry by entry",
        expr.span,
        hint=f"it may use + - * / ** and {' '.join(KNOWN)}",
    )


def _constant(value: Real, span: Span) -> Constant:
    try:
        return Constant(_finite(value))
    except OverflowError:
        raise BadFormula("this constant is too large for a float", span, code="E303") from None


def _call(call: tree.Call, tensor: str, constants: Mapping[str, Real]) -> Node:
    name = call.function.text
    if name not in KNOWN:
        raise BadFormula(
            f"a bond's formula cannot use `{name}`",
            call.function.span,
            code="E201",
            hint=did_you_mean(name, KNOWN) or f"it may use {' '.join(KNOWN)}",
        )
    for argument in call.arguments:
        if argument.name is not None:
            raise BadFormula(f"`{name}` has no named arguments", argument.span, code="E301")
    count = len(call.arguments)
    if count == 0 or (name in FUNCTIONS and count != 1):
        wanted = "one argument" if name in FUNCTIONS else "at least one argument"
        raise BadFormula(
            f"`{name}` takes {wanted}, but here are {count or 'none'}", call.span, code="E301"
        )
    arguments = tuple(build(a.value, tensor, constants) for a in call.arguments)
    if name in ("min", "max"):
        return _extreme(name, arguments)
    return _apply(name, arguments, call.span)


def _extreme(name: str, arguments: tuple[Node, ...]) -> Node:
    """`min` or `max` as pairs, all constants in one."""
    choose = min if name == "min" else max
    constants = [a.value for a in arguments if isinstance(a, Constant)]
    folded: Node | None = Constant(choose(constants)) if constants else None
    result: Node | None = None
    for argument in arguments:
        if isinstance(argument, Constant):
            continue
        result = argument if result is None else Apply(name, (result, argument))
    if result is None or folded is None:
        last = result or folded
        assert last is not None
        return last
    return Apply(name, (result, folded))


def _apply(function: str, arguments: tuple[Node, ...], span: Span) -> Node:
    values = [a.value for a in arguments if isinstance(a, Constant)]
    if len(values) < len(arguments):
        if function == "/" and values == [0] and isinstance(arguments[1], Constant):
            raise BadFormula("division by zero", span, code="E303")
        return Apply(function, arguments)
    try:
        value = fold(function, *values)
    except (ArithmeticError, ValueError) as error:
        message = "this constant is no real number"
        if isinstance(error, ZeroDivisionError):
            message = "division by zero"
        elif isinstance(error, OverflowError):
            message = "this constant is too large for a float"
        raise BadFormula(message, span, code="E303") from None
    return Constant(value)


def fold(function: str, *values: Real) -> Real:
    """Constant arithmetic, exact where that is short.

    Raises:
        ArithmeticError, ValueError: where there is no finite real result.
    """
    if function in FUNCTIONS and function != "abs":
        return _finite(FUNCTIONS[function](float(values[0])))
    if any(isinstance(v, float) for v in values):
        values = tuple(float(v) for v in values)
    a = values[0]
    if function == "abs":
        return a if a >= 0 else -a
    if len(values) == 1:
        return -a
    b = values[1]
    if function == "**":
        return _power(a, b)
    if function == "/":
        return _finite(a / b if isinstance(a, float) else Fraction(a) / Fraction(b))
    return _finite(a + b if function == "+" else a - b if function == "-" else a * b)


def _power(a: Real, b: Real) -> Real:
    if not isinstance(a, float) and not isinstance(b, float) and Fraction(b).denominator == 1:
        bits = max(abs(a.numerator).bit_length(), a.denominator.bit_length())
        if bits * (b if b >= 0 else -b) <= MAX_BITS:
            return _finite(Fraction(a) ** int(b))
    return _finite(math.pow(a, b))


def _finite(value: Real) -> Real:
    if isinstance(value, float):
        if not math.isfinite(value):
            raise OverflowError
        return value
    if max(value.numerator.bit_length(), value.denominator.bit_length()) > MAX_BITS:
        return _finite(float(value))
    return value
