"""`Formula`: a bond that a file defines by `bond name(x, …) = … sensitivity …`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from modnorm.ops.base import Bond, Sharpness, expect_tensor
from modnorm.ops.edges import LARGEST, Bound, Edge, Matrix, Measure, each_measure, product
from modnorm.ops.formula_bounds import steepest
from modnorm.ops.formula_check import Program, Violation, check
from modnorm.ops.formula_tree import Apply, Constant, Node, X, build
from modnorm.ops.text import number
from modnorm.ops.types import Real, Type
from modnorm.syntax import tree

if TYPE_CHECKING:
    import torch

SUM, PRODUCT, SIGN, POWER, ATOM = range(5)
"""How tightly the parts of an expression bind."""

LEVEL = {"+": SUM, "-": SUM, "*": PRODUCT, "/": PRODUCT}


@dataclass(frozen=True)
class Formula(Bond):
    """y = f(x) for each entry, with the formula f that a `bond` statement gives.

    Its sensitivity is declared with it, and checked numerically when the file is compiled.
    """

    name = "Formula"
    internal = True
    origin = "declared in the file, checked numerically; bounded by interval arithmetic"

    bond: str
    formula: Node
    constants: tuple[tuple[str, Real], ...]
    declared: Real

    @classmethod
    def of(cls, statement: tree.Bond, constants: Mapping[str, Real], declared: Real) -> Formula:
        """The bond of a statement, with values for its constants and its sensitivity.

        Raises:
            BadFormula: if the formula is not elementwise arithmetic on the statement's names.
        """
        formula = build(statement.formula, statement.formals[0].name, constants)
        return cls(statement.name, formula, tuple(constants.items()), declared)

    @property
    def label(self) -> str:
        return self.bond

    def resolve(self, x: Type) -> tuple[Self, Type]:
        return self, expect_tensor(self.bond, x)

    @property
    def sensitivity(self) -> Real:
        return self.declared

    @property
    def certified(self) -> Real | str:
        return self.steepest(math.inf)

    def steepest(self, high: float) -> float | str:
        """A proved bound on the slope for entries of size at most `high`, or why there is none."""
        if 0 < high < 1e300:  # of a few sizes, so that equal ones are looked at once
            high = max(high, 2 ** (math.ceil(8 * math.log2(high)) / 8))
        bound = steepest(self.formula, high)
        if math.isfinite(bound):
            return bound
        where = f"for inputs up to {high:.4g}" if math.isfinite(high) else "for inputs of any size"
        return f"no bound on its slope was found {where}"

    def gains(self, x: Sequence[Edge], type: Type) -> Matrix | str:
        bound = self.steepest(x[0].high(LARGEST))
        return bound if isinstance(bound, str) else each_measure(x, bound)

    def sizes(self, x: Sequence[Edge], type: Type) -> list[dict[Measure, Bound]]:
        bound, offset = self.steepest(x[0].high(LARGEST)), abs(self.evaluate(0.0))
        if isinstance(bound, str) or not math.isfinite(offset):
            return [{}]
        return [{m: Bound(0.0, offset + product(bound, x[0].high(m))) for m in x[0].tracked}]

    @property
    def sharpness(self) -> Sharpness | None:
        return None

    def evaluate(self, x: float) -> float:
        """f(x), without torch."""
        return Program(self.formula).value(x)

    def check(self, sensitivity: Real | None = None) -> Violation | None:
        """Where f is steeper than declared, or undefined; None where no such place is found."""
        return check(self.formula, self.declared if sensitivity is None else sensitivity)

    def reference(self, x: Any, weight: torch.Tensor | None = None) -> Any:
        import torch

        def value(node: Node) -> torch.Tensor:
            match node:
                case X():
                    return x  # type: ignore[no-any-return]
                case Constant(value=constant):
                    return torch.full_like(x, float(constant))
                case Apply(function="-", arguments=(argument,)):
                    return -value(argument)
            assert isinstance(node, Apply)
            operators: dict[str, Callable[..., torch.Tensor]] = {
                "+": torch.add,
                "-": torch.sub,
                "*": torch.mul,
                "/": torch.div,
                "**": torch.pow,
                "min": torch.minimum,
                "max": torch.maximum,
            }
            function = operators.get(node.function) or getattr(torch, node.function)
            result: torch.Tensor = function(*map(value, node.arguments))
            return result

        return value(self.formula)

    def emit(self, x: Any, type: Type) -> str:
        if isinstance(self.formula, Constant):
            return f"torch.full_like({x}, {number(self.formula.value)})"
        return _text(self.formula, str(x))[0]


def _text(node: Node, x: str) -> tuple[str, int]:
    """An expression and how tightly it binds."""
    match node:
        case X():
            return x, ATOM
        case Constant(value=value):
            text = number(value)
            return text, SIGN if text.startswith("-") else PRODUCT if "/" in text else ATOM
        case Apply(function="-", arguments=(argument,)):
            return f"-{_inside(argument, x, SIGN)}", SIGN
        case Apply(function="**", arguments=(base, exponent)):
            return f"{_inside(base, x, ATOM)} ** {_inside(exponent, x, SIGN)}", POWER
        case Apply(function=function, arguments=(left, right)) if function in LEVEL:
            level = LEVEL[function]
            # the right operand of `-` and `/` must bind tighter; so it stays as it was written
            text = f"{_inside(left, x, level)} {function} {_inside(right, x, level + 1)}"
            return text, level
        case Apply(function="min" | "max" as function, arguments=(first, second)):
            return _extreme(function, first, second, x), ATOM
        case Apply(function=function, arguments=(argument,)):
            return f"torch.{function}({_text(argument, x)[0]})", ATOM
    raise AssertionError(node)


def _inside(node: Node, x: str, level: int) -> str:
    text, own = _text(node, x)
    return text if own >= level else f"({text})"


def _extreme(function: str, first: Node, second: Node, x: str) -> str:
    if not isinstance(second, Constant):
        return f"torch.{function}imum({_text(first, x)[0]}, {_text(second, x)[0]})"
    bound = "max" if function == "min" else "min"
    limits = {bound: second.value}
    match first:
        case Apply(function="min" | "max" as other, arguments=(inner, Constant(value=limit))):
            # the outer limit wins where the two cross; clamp's upper one does
            if other != function and (function == "min" or limit >= second.value):
                limits = {"min": limit, "max": limit} | limits
                first = inner
    text = ", ".join(f"{name}={number(limits[name])}" for name in ("min", "max") if name in limits)
    return f"torch.clamp({_text(first, x)[0]}, {text})"
