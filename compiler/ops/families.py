"""What families of bonds have in common."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from modnorm.ops.base import LINEAR, Bond, Op, Sharpness, argument, expect_tensor
from modnorm.ops.edges import Bound, Edge, Matrix, Measure, each_measure
from modnorm.ops.shapes import Axes, axes
from modnorm.ops.types import Real, Size, Symbol, Tensor, Type


def root(size: Size) -> Real | str:
    """√size rounded up, exact where it is whole; a reason where the size is not known."""
    if isinstance(size, Symbol):
        return f"it depends on `{size}`, which is known only when the model runs"
    whole = math.isqrt(size)
    return whole if whole * whole == size else math.nextafter(math.sqrt(size), math.inf)


def magnitude(value: Real) -> Real:
    """The absolute value of a number."""
    return value if value >= 0 else -value


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

    def absorb(self, scalars: tuple[Real, ...]) -> tuple[Op, Real] | None:
        return (self, scalars[0]) if len(set(scalars)) == 1 else None


@dataclass(frozen=True)
class Elementwise(Bond):
    """A function of each entry with |f(x)| ≤ |x|.

    Its γ is sup |f''|, where the norm is the largest entry.
    """

    call: ClassVar[str]
    """The torch function."""

    def resolve(self, x: Type) -> tuple[Self, Type]:
        return self, expect_tensor(self.name, x)

    def gains(self, x: Sequence[Edge], type: Type) -> Matrix | str:
        bound = self.certified
        return bound if isinstance(bound, str) else each_measure(x, float(bound))

    def sizes(self, x: Sequence[Edge], type: Type) -> list[dict[Measure, Bound]]:
        # |f(x)| ≤ |x| for every function here
        return [{m: Bound(0.0, x[0].high(m)) for m in x[0].tracked}]

    def emit(self, x: Any, type: Type) -> str:
        return f"{self.call}({x})"


@dataclass(frozen=True)
class AlongAxes(Bond):
    """An operation along one axis or several, that keeps the shape."""

    dim: Axes = argument("axes", -1)

    def resolve(self, x: Type) -> tuple[Self, Type]:
        x = expect_tensor(self.name, x)
        return dataclasses.replace(self, dim=axes(self.name, self.dim, x)), Tensor("float", x.shape)
