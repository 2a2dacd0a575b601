"""`Identity`, `Mul` and `Shift`: nothing, multiplication by a constant, and addition of one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Self

from modnorm.ops.base import LINEAR, Bond, Misfit, Op, Sharpness, argument, expect_tensor
from modnorm.ops.edges import (
    LARGEST,
    Bound,
    Edge,
    Matrix,
    Measure,
    conversion,
    each_measure,
    product,
    slots,
)
from modnorm.ops.families import LinearBond, magnitude, past
from modnorm.ops.registry import register
from modnorm.ops.shapes import each, map_each
from modnorm.ops.text import as_float, expression, number, times
from modnorm.ops.types import Real, TupleType, Type

if TYPE_CHECKING:
    import torch


@register
@dataclass(frozen=True)
class Identity(LinearBond):
    """y = x, for one value or a tuple."""

    name = "Identity"
    by_vector = True

    def resolve(self, x: Type) -> tuple[Self, Type]:
        return self, x

    @property
    def is_identity(self) -> bool:
        return True

    def gains(self, x: Sequence[Edge], type: Type) -> Matrix | str:
        return each_measure(x)

    def sizes(self, x: Sequence[Edge], type: Type) -> list[dict[Measure, Bound]]:
        return [dict(edge.bounds) for edge in x]

    def reference(self, x: Any, weight: torch.Tensor | None = None) -> Any:
        return x

    def emit(self, x: Any, type: Type, own: str) -> str:
        return expression(x)


@dataclass(frozen=True)
class Assumption(Identity):
    """Nothing, where a part begins whose sensitivity is assumed to be `factor` times its own."""

    name = "Assumption"
    internal = True

    factor: Real = 1

    @property
    def sensitivity(self) -> Real:
        return self.factor


@register
@dataclass(frozen=True)
class Mul(Bond):
    """y = a·x, for one value or each member of a tuple.

    Its sensitivity is |a|, exactly. The operators `2 * m`, `m * 2`, `m / 2` and `-m` stand for it.
    """

    name = "Mul"
    by_vector = True

    a: Real = argument("number")

    sharpness = LINEAR

    def resolve(self, x: Type) -> tuple[Self, Type]:
        as_float(self.name, "a", self.a)
        odd = [t for t in slots(x) if t.dtype != "float"] if isinstance(x, TupleType) else []
        if odd:
            raise Misfit(
                f"`Mul` multiplies each member of a tuple, but one of its input is {odd[0]}: {x}",
                hint="`f * a` and `f / a` scale all that f is given: scale what it gives, `a * f`,"
                " or give a mask by its name, `Attention(mask = pad) / 3 @ (q, k, v)`",
                code="E402",
            )
        return self, each(self.name, x, lambda t: t)

    @property
    def sensitivity(self) -> Real:
        return magnitude(self.a)

    @property
    def certified(self) -> Real | str:
        return magnitude(self.a)

    def at_zero(self, x: Sequence[Edge], type: Type) -> Mapping[Measure, float] | None:
        return {}

    def gains(self, x: Sequence[Edge], type: Type) -> Matrix | str:
        return each_measure(x, float(self.sensitivity))

    def sizes(self, x: Sequence[Edge], type: Type) -> list[dict[Measure, Bound]]:
        a = float(self.sensitivity)
        return [{m: Bound(a * b.low, product(a, b.high)) for m, b in e.bounds.items()} for e in x]

    @property
    def is_identity(self) -> bool:
        return self.a == 1

    @property
    def scalar(self) -> Real | None:
        return self.a

    def absorb(self, scalars: tuple[Real, ...]) -> tuple[Op, Real] | None:
        return past(self, scalars)

    def reference(self, x: Any, weight: torch.Tensor | None = None) -> Any:
        return map_each(lambda t: float(self.a) * t, x)

    def emit(self, x: Any, type: Type, own: str) -> str:
        return expression(map_each(lambda e: times(self.a, e), x))


@register
@dataclass(frozen=True)
class Shift(Bond):
    """y = x + a, a constant added to each entry.

    Its sensitivity is 1, exactly. The operators `1 + m`, `m + 1`, `m - 1` and `1 - m`, which is
    `1 + -1 * m`, stand for it.
    """

    name = "Shift"
    by_vector = True

    a: Real = argument("number")
    factor: Real = field(default=1, kw_only=True)
    """What x is multiplied by first: a factor that stood before."""

    def resolve(self, x: Type) -> tuple[Self, Type]:
        as_float(self.name, "a", self.a)
        return self, expect_tensor(self.name, x)

    @property
    def sensitivity(self) -> Real:
        return magnitude(self.factor)

    @property
    def certified(self) -> Real | str:
        return self.sensitivity

    @property
    def sharpness(self) -> Sharpness | None:
        return LINEAR

    @property
    def is_identity(self) -> bool:
        return self.a == 0 and self.factor == 1

    def _start(self, edge: Edge, measure: Measure) -> float:
        """The norm of the constant."""
        shape = edge.type.shape
        return product(float(magnitude(self.a)), conversion(shape, LARGEST, measure))

    def at_zero(self, x: Sequence[Edge], type: Type) -> Mapping[Measure, float] | None:
        return {m: self._start(x[0], m) for m in x[0].tracked}

    def gains(self, x: Sequence[Edge], type: Type) -> Matrix | str:
        return each_measure(x, float(self.sensitivity))

    def sizes(self, x: Sequence[Edge], type: Type) -> list[dict[Measure, Bound]]:
        """One of the two may take away from the other: the norm of a constant is its size."""
        (edge,), c = x, float(self.sensitivity)
        found = {}
        for m in dict.fromkeys((*edge.tracked, *edge.bounds)):
            start, low, high = self._start(edge, m), c * edge.low(m), product(c, edge.high(m))
            least = 0.0 if m.total else max(0.0, low - start, start - high)
            found[m] = Bound(least, start + high)
        return [found]

    def absorb(self, scalars: tuple[Real, ...]) -> tuple[Op, Real] | None:
        return replace(self, factor=self.factor * scalars[0]), 1

    def reference(self, x: Any, weight: torch.Tensor | None = None) -> Any:
        return float(self.factor) * x + float(self.a)

    def emit(self, x: Any, type: Type, own: str) -> str:
        if self.factor == -1:
            return f"{number(self.a)} - {x}"
        sign, size = ("-", -self.a) if self.a < 0 else ("+", self.a)
        return f"{times(self.factor, x)} {sign} {number(size)}"
