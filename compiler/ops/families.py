"""What families of bonds have in common."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, ClassVar, NamedTuple, Self

from modnorm.ops.base import LINEAR, Bond, Op, Sharpness, argument, expect_tensor
from modnorm.ops.edges import (
    LARGEST,
    Bound,
    Edge,
    Form,
    Matrix,
    Measure,
    each_measure,
    entrywise,
    product,
)
from modnorm.ops.formula_bounds import bound
from modnorm.ops.formula_tree import Node
from modnorm.ops.shapes import Axes, axes
from modnorm.ops.types import Real, Size, Symbol, Type


def root(size: Size) -> Real | str:
    """√size rounded up, exact where it is whole; a reason where the size is not known."""
    if isinstance(size, Symbol):
        return f"it depends on `{size}`, which is known only when the model runs"
    whole = math.isqrt(size)
    return whole if whole * whole == size else math.nextafter(math.sqrt(size), math.inf)


def ratio_root(ratio: Fraction) -> Real:
    """The root of a ratio rounded up, exact where it can be."""
    top, bottom = math.isqrt(ratio.numerator), math.isqrt(ratio.denominator)
    if (top * top, bottom * bottom) == (ratio.numerator, ratio.denominator):
        return top if bottom == 1 else Fraction(top, bottom)
    return math.nextafter(math.sqrt(ratio), math.inf)


def magnitude(value: Real) -> Real:
    """The absolute value of a number."""
    return value if value >= 0 else -value


@dataclass(frozen=True)
class IgnoresInput(Op):
    """An operation whose output does not depend on its input: nothing before it can learn."""

    is_value = True

    @property
    def sensitivity(self) -> Real:
        return 0

    @property
    def certified(self) -> Real | str:
        return 0

    @property
    def sharpness(self) -> Sharpness | None:
        return LINEAR

    def gains(self, x: Sequence[Edge], type: Type) -> Matrix | str:
        return {}

    def absorb(self, scalars: tuple[Real, ...]) -> tuple[Op, Real] | None:
        return self, 1


@dataclass(frozen=True)
class LinearBond(Bond):
    """A linear map of Lipschitz constant 1 in the norms that values are spoken of in."""

    @property
    def sensitivity(self) -> Real:
        return 1

    @property
    def certified(self) -> Real | str:
        return 1

    @property
    def sharpness(self) -> Sharpness | None:
        return LINEAR

    def at_zero(self, x: Sequence[Edge], type: Type) -> Mapping[Measure, float] | None:
        return {}

    def absorb(self, scalars: tuple[Real, ...]) -> tuple[Op, Real] | None:
        return past(self, scalars)


def past(op: Op, scalars: tuple[Real, ...]) -> tuple[Op, Real] | None:
    """Scalars of the inputs behind a linear operation, where they are one and the same."""
    return (op, scalars[0]) if len(set(scalars)) == 1 else None


@dataclass(frozen=True)
class Entrywise(Bond):
    """A function of each entry. What is proved of it follows from its formula, where it has one."""

    by_vector = True

    def curve(self) -> Node | None:
        """The function as a formula in X."""
        return None

    def known(self) -> Curve:
        """What is known of |f(0)|, |f|, |f'| and |f''|, whatever the input is."""
        return Curve()

    def most(self, order: int, high: float) -> float:
        """A bound on |f|, |f'| or |f''| (order 0, 1, 2) for entries of size at most `high`."""
        known, formula = self.known()[order + 1], self.curve()
        return known if formula is None else min(known, bound(formula, high, order))

    def at_zero(self, x: Sequence[Edge], type: Type) -> Mapping[Measure, float] | None:
        return dict.fromkeys(x[0].tracked, self.known().start)

    def gains(self, x: Sequence[Edge], type: Type) -> Matrix | str:
        high = x[0].high(LARGEST)
        slope = self.most(1, high)
        if math.isfinite(slope):
            return each_measure(x, slope)
        where = f"for inputs up to {high:.4g}" if math.isfinite(high) else "for inputs of any size"
        return f"no bound on its slope was found {where}"

    def sizes(self, x: Sequence[Edge], type: Type) -> list[dict[Measure, Bound]]:
        (edge,) = x
        value, slope = (self.most(order, edge.high(LARGEST)) for order in (0, 1))
        start = self.known().start
        highs = {m: start + product(slope, edge.high(m)) for m in edge.tracked}
        return [{m: Bound(0.0, min(high, value)) for m, high in highs.items()}]

    def curvature(self, x: Sequence[Edge], type: Type) -> Form | str:
        bend = self.most(2, x[0].high(LARGEST))
        if not math.isfinite(bend):
            return "it is not smooth, or no bound on its second derivative was found"
        return entrywise(x[0], bend)


class Curve(NamedTuple):
    """|f(0)|, and bounds on |f|, |f'| and |f''|; infinite where there is none."""

    start: float = 0.0
    value: float = math.inf
    slope: float = math.inf
    bend: float = math.inf


@dataclass(frozen=True)
class Called(Entrywise):
    """A function of each entry that torch has.

    Its γ is sup |f''|, where the norm is the largest entry.
    """

    call: ClassVar[str]
    """The torch function."""

    def resolve(self, x: Type) -> tuple[Self, Type]:
        return self, expect_tensor(self.name, x)

    def known(self) -> Curve:
        slope, sharp = self.certified, self.sharpness
        return Curve(
            slope=math.inf if isinstance(slope, str) else float(slope),
            bend=math.inf if sharp is None else sharp.gamma,
        )

    def gains(self, x: Sequence[Edge], type: Type) -> Matrix | str:
        found, reason = super().gains(x, type), self.certified
        return reason if isinstance(found, str) and isinstance(reason, str) else found

    def emit(self, x: Any, type: Type, own: str) -> str:
        return f"{self.call}({x})"


@dataclass(frozen=True)
class Elementwise(Called):
    """One with |f(x)| ≤ |x|."""

    def sizes(self, x: Sequence[Edge], type: Type) -> list[dict[Measure, Bound]]:
        (found,) = super().sizes(x, type)
        return [{m: Bound(b.low, min(b.high, x[0].high(m))) for m, b in found.items()}]


@dataclass(frozen=True)
class AlongAxes(Bond):
    """An operation along one axis or several, that keeps the shape."""

    dim: Axes = argument("axes", -1)

    def resolve(self, x: Type) -> tuple[Self, Type]:
        x = expect_tensor(self.name, x)
        return dataclasses.replace(self, dim=axes(self.name, self.dim, x)), x

    @property
    def by_vector(self) -> bool:
        return self.dim == -1
