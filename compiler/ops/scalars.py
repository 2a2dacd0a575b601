"""`Identity` and `Mul`: nothing, and multiplication by a constant."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from modnorm.ops.base import LINEAR, Bond, Op, argument
from modnorm.ops.edges import Bound, Edge, Matrix, Measure, each_measure, product
from modnorm.ops.families import LinearBond, magnitude, past
from modnorm.ops.registry import register
from modnorm.ops.shapes import each, map_each
from modnorm.ops.text import as_float, expression, times
from modnorm.ops.types import Real, Type

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
