"""`Formula`: a bond that a file defines by `bond name(x, …) = … on […] sensitivity …`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from modnorm.ops.base import expect_tensor
from modnorm.ops.edges import Edge, Matrix
from modnorm.ops.families import Curve, Entrywise
from modnorm.ops.formula_check import Program, Violation, check, undecided
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
class Formula(Entrywise):
    """y = f(x) for each entry, with the formula f that a `bond` statement gives.

    Its sensitivity is declared with it, and checked numerically when the file is compiled: on the
    whole line, or on the `domain` that the statement names. Nothing keeps entries in that: what is
    proved is proved for those that may come.
    """

    name = "Formula"
    internal = True
    origin = "declared in the file, checked numerically; bounded by interval arithmetic"

    bond: str
    formula: Node
    constants: tuple[tuple[str, Real], ...]
    declared: Real
    domain: tuple[Real, Real] | None = None

    sharpness = None

    @classmethod
    def of(
        cls,
        statement: tree.Bond,
        constants: Mapping[str, Real],
        declared: Real,
        domain: tuple[Real, Real] | None = None,
    ) -> Formula:
        """The bond of a statement, with values for its constants, sensitivity and range.

        Raises:
            BadFormula: if the formula is not elementwise arithmetic on the statement's names.
        """
        formula = build(statement.formula, statement.formals[0].name, constants)
        return cls(statement.name, formula, tuple(constants.items()), declared, domain)

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
        slope = self.most(1, math.inf)
        if math.isfinite(slope):
            return slope
        return f"no bound on its slope was found for inputs of any size{self._outside}"

    def gains(self, x: Sequence[Edge], type: Type) -> Matrix | str:
        found = super().gains(x, type)
        return f"{found}{self._outside}" if isinstance(found, str) else found

    @property
    def _outside(self) -> str:
        """What else there is to say where there is no bound."""
        if self.domain is None:
            return ""
        low, high = map(number, self.domain)
        return f", and values outside of [{low}, {high}], its range, are possible"

    @property
    def meant_for(self) -> tuple[float, float] | None:
        return None if self.domain is None else (float(self.domain[0]), float(self.domain[1]))

    def curve(self) -> Node | None:
        return self.formula

    def known(self) -> Curve:
        start = abs(self.evaluate(0.0))
        return Curve(start if math.isfinite(start) else math.inf)

    def evaluate(self, x: float) -> float:
        """f(x), without torch."""
        return Program(self.formula).value(x)

    def check(self, sensitivity: Real | None = None) -> Violation | None:
        """Where f is steeper than declared, or undefined; None where no such place is found."""
        most = self.declared if sensitivity is None else sensitivity
        return check(self.formula, most, self.meant_for)

    def undecided(self) -> float | None:
        """A slope above the declared one that could not be ruled out; None where all could."""
        return undecided(self.formula, self.declared, self.meant_for)

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

    def emit(self, x: Any, type: Type, own: str) -> str:
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
