"""`Product`: gating."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import permutations
from operator import mul
from typing import TYPE_CHECKING, Any, Self

from modnorm.ops.base import Advice, Bond, Misfit, Op, Sharpness
from modnorm.ops.edges import (
    LARGEST,
    Bound,
    Edge,
    Form,
    Key,
    Matrix,
    Measure,
    entrywise,
    product,
)
from modnorm.ops.registry import register
from modnorm.ops.shapes import joined, members
from modnorm.ops.text import parts
from modnorm.ops.types import Real, Tensor, TupleType, Type

if TYPE_CHECKING:
    import torch


@register
@dataclass(frozen=True)
class Product(Bond):
    """y = x₁·x₂·…, entry by entry, the product of a tuple's members: gating.

    Declared 1, what members of spread-out entries have. The worst case is the largest entry of the
    other members, which for members of RMS 1 may be √width: bound entries first, as
    `Product @ (Tanh @ a, Tanh @ b)` does, and it is 1.
    """

    name = "Product"
    origin = "typical value; not in modula"

    def resolve(self, x: Type) -> tuple[Self, Type]:
        tensors = members(self.name, x, "of values to multiply")
        if not tensors:
            raise Misfit("`Product` has nothing to multiply: its input is an empty tuple")
        for other in tensors[1:]:
            if other.shape != tensors[0].shape:
                raise Misfit(
                    f"`Product` multiplies values of one shape, but its input has {tensors[0]} and"
                    f" {other}",
                    hint=_mend(tensors[0], other),
                )
        return self, joined(self.name, tensors)

    @property
    def sensitivity(self) -> Real:
        return 1

    @property
    def certified(self) -> Real | str:
        return "it is the largest entry of the other members, which may be √width"

    @property
    def sharpness(self) -> Sharpness | None:
        return Sharpness(0.0, 0.0, 1.0)

    def at_zero(self, x: Sequence[Edge], type: Type) -> Mapping[Measure, float] | None:
        return {}

    def gains(self, x: Sequence[Edge], type: Type) -> Matrix | str:
        return {(i, m): {(0, m): _others(x, i)} for i, edge in enumerate(x) for m in edge.tracked}

    def sizes(self, x: Sequence[Edge], type: Type) -> list[dict[Measure, Bound]]:
        found = {}
        for measure in x[0].tracked:
            ways = (product(edge.high(measure), _others(x, i)) for i, edge in enumerate(x))
            found[measure] = Bound(0.0, min(ways))
        return [found]

    def curvature(self, x: Sequence[Edge], type: Type) -> Form | str:
        found: dict[tuple[Key, Key], dict[Key, float]] = {}
        for i, j in permutations(range(len(x)), 2):
            others = reduce(
                product, (e.high(LARGEST) for k, e in enumerate(x) if k not in (i, j)), 1.0
            )
            found |= {k: dict(row) for k, row in entrywise(x[0], others, i, j).items()}
        return found

    def advice(self, x: Sequence[Edge], type: Type) -> tuple[Advice, ...]:
        most = max(_others(x, i) for i in range(len(x)))
        if most <= 1 + 1e-9:
            return ()
        return (
            Advice(
                "A603",
                f"the bound of a product is the largest entry of its other members, here up to"
                f" {most:.4g}: it grows with the width",
                "bound the entries before it, as `Product @ (Tanh @ a, Tanh @ b)` does",
            ),
        )

    def absorb(self, scalars: tuple[Real, ...]) -> tuple[Op, Real] | None:
        return self, reduce(mul, scalars)

    def reference(self, x: Any, weight: torch.Tensor | None = None) -> Any:
        return reduce(mul, x)

    def emit(self, x: Any, type: Type, own: str) -> str:
        assert isinstance(type, TupleType)
        return " * ".join(parts(x, len(type.members)))


def _mend(a: Tensor, b: Tensor) -> str:
    """What can be done about two shapes that differ."""
    pairs = [(m, n) for m, n in zip(a.shape, b.shape, strict=False) if m != n]
    if a.shape[:-1] == b.shape[:-1] and all(isinstance(size, int) for size in pairs[0]):
        return "bring the members to one size with `Linear`"
    if len(a.shape) == len(b.shape) and all(1 in pair for pair in pairs):
        return "a size of 1 does not stretch in `Product` yet, as it does in `Add`"
    return ""


def _others(x: Sequence[Edge], i: int) -> float:
    """The largest entry of the product of all members but one."""
    return reduce(product, (edge.high(LARGEST) for j, edge in enumerate(x) if j != i), 1.0)
