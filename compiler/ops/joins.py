"""`Add`, its weighted form, and `Select`: operations on tuples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import reduce
from operator import add
from typing import TYPE_CHECKING, Any, Self

from modnorm.diagnostics import did_you_mean
from modnorm.ops.base import LINEAR, Bond, Misfit, Op, argument
from modnorm.ops.edges import (
    Bound,
    Edge,
    Key,
    Matrix,
    Measure,
    product,
    reached,
    slots,
    tracked,
)
from modnorm.ops.families import LinearBond, magnitude
from modnorm.ops.registry import register
from modnorm.ops.shapes import joined, members
from modnorm.ops.text import copied, expression, number, parts, times
from modnorm.ops.types import Real, Tensor, TupleType, Type

if TYPE_CHECKING:
    import torch


@register
@dataclass(frozen=True)
class Add(LinearBond):
    """y = x₁ + x₂ + …, the sum of a tuple's members; sizes that differ stretch from 1 as in torch.

    A tuple's norm is the sum of its members' norms, hence the sensitivity 1. The operators `a + b`
    and `a - b` stand for it.
    """

    name = "Add"
    by_vector = True

    def resolve(self, x: Type) -> tuple[Self, Type]:
        tensors = members(self.name, x, "of values to add")
        return self, joined(self.name, tensors)

    @property
    def joins(self) -> bool:
        return True

    def gains(self, x: Sequence[Edge], type: Type) -> Matrix | str:
        return added(x, (1,) * len(x))

    def sizes(self, x: Sequence[Edge], type: Type) -> list[dict[Measure, Bound]]:
        return bounded(x, (1,) * len(x))

    def absorb(self, scalars: tuple[Real, ...]) -> tuple[Op, Real] | None:
        return (self, 1) if set(scalars) == {1} else (WeightedSum(scalars), 1)

    def reference(self, x: Any, weight: torch.Tensor | None = None) -> Any:
        return reduce(add, x)

    def emit(self, x: Any, type: Type, own: str) -> str:
        assert isinstance(type, TupleType)
        return " + ".join(parts(x, len(type.members)))


@register
@dataclass(frozen=True)
class WeightedSum(Bond):
    """y = c₁·x₁ + c₂·x₂ + …, the sum of a tuple's members with constant coefficients.

    What `Add` becomes when its inputs are scaled, as in a residual block. Its sensitivity is the
    largest |c|.
    """

    name = "WeightedSum"
    by_vector = True
    internal = True

    coefficients: tuple[Real, ...] = ()

    sharpness = LINEAR

    def resolve(self, x: Type) -> tuple[Self, Type]:
        tensors = members(self.name, x, "of values to add")
        if len(tensors) != len(self.coefficients):
            raise Misfit(f"{len(self.coefficients)} coefficients for {len(tensors)} values")
        return self, joined(self.name, tensors)

    @property
    def sensitivity(self) -> Real:
        return max(map(magnitude, self.coefficients))

    @property
    def certified(self) -> Real | str:
        return self.sensitivity

    def at_zero(self, x: Sequence[Edge], type: Type) -> Mapping[Measure, float] | None:
        return {}

    def gains(self, x: Sequence[Edge], type: Type) -> Matrix | str:
        return added(x, self.coefficients)

    def sizes(self, x: Sequence[Edge], type: Type) -> list[dict[Measure, Bound]]:
        return bounded(x, self.coefficients)

    def absorb(self, scalars: tuple[Real, ...]) -> tuple[Op, Real] | None:
        pairs = zip(self.coefficients, scalars, strict=True)
        return WeightedSum(tuple(c * a for c, a in pairs)), 1

    def reference(self, x: Any, weight: torch.Tensor | None = None) -> Any:
        return sum(float(c) * t for c, t in zip(self.coefficients, x, strict=True))

    def emit(self, x: Any, type: Type, own: str) -> str:
        terms = list(zip(self.coefficients, parts(x, len(self.coefficients)), strict=True))
        if self.interpolates:
            (_, a), (c, b) = terms
            return f"lerp({a}, {b}, {number(c)})"
        return _sum(terms)

    @property
    def interpolates(self) -> bool:
        """Whether this is (1 - c)·x₁ + c·x₂ with c between 0 and 1."""
        return len(self.coefficients) == 2 and _is_mean(self.coefficients)

    def helpers(self) -> tuple[str, ...]:
        return (copied("lerp"),) if self.interpolates else ()


def added(x: Sequence[Edge], coefficients: Sequence[Real]) -> Matrix:
    """The gains of a weighted sum: |coefficient| for each member, stretched to the sum's shape.

    Along an axis on which a member is stretched, an RMS and a largest value are the same.
    """
    out = joined("Add", [edge.type for edge in x])
    found: dict[Key, dict[Key, float]] = {}
    for i, (edge, coefficient) in enumerate(zip(x, coefficients, strict=True)):
        for measure in tracked(out):
            own = stretched(measure, edge.type, out)
            if own is not None:
                found.setdefault((i, own), {})[0, measure] = float(magnitude(coefficient))
    return found


def stretched(measure: Measure, member: Tensor, out: Tensor) -> Measure | None:
    """A measure of values joined entry by entry, as one of a member that is stretched to them."""
    before = len(out.shape) - len(member.shape)
    own = tuple(
        axis - before
        for axis in measure.axes
        if axis >= before and member.shape[axis - before] == out.shape[axis]
    )
    if 0 in own and len(member.shape) > 1:
        return None  # the member's batch: its own largest
    return Measure(own)


def bounded(x: Sequence[Edge], coefficients: Sequence[Real]) -> list[dict[Measure, Bound]]:
    """The bounds of a weighted sum: below, one member's less what the others may take away."""
    (found,) = reached(x, added(x, coefficients), [joined("Add", [edge.type for edge in x])])
    sizes = [float(magnitude(c)) for c in coefficients]
    alike = all(edge.type.shape == x[0].type.shape for edge in x)
    for measure, bound in found.items() if alike else ():
        highs = [product(s, edge.high(measure)) for s, edge in zip(sizes, x, strict=True)]
        lows = [s * edge.low(measure) for s, edge in zip(sizes, x, strict=True)]
        left = [low - sum(highs[:i] + highs[i + 1 :]) for i, low in enumerate(lows)]
        found[measure] = Bound(max(0.0, *left), bound.high)
    return [found]


def _is_mean(coefficients: Sequence[Real]) -> bool:
    """Whether the coefficients are positive and sum to 1, exactly or to a float's rounding."""
    total = sum((Fraction(c) for c in coefficients), Fraction(0))
    exact = not any(isinstance(c, float) for c in coefficients)
    close = total == 1 if exact else abs(total - 1) <= Fraction(1, 2**52)
    return close and min(coefficients) > 0


def _sum(terms: list[tuple[Real, str]]) -> str:
    """A sum of scaled terms, each addition one call."""
    for at, (c, x) in enumerate(terms):
        if c == 1:  # begin with a term that needs no multiplication
            first = x
            del terms[at]
            break
    else:
        c, x = terms.pop(0)
        first = times(c, x)
    for c, x in terms:
        if c in (1, -1):
            first = f"{first} {'+' if c == 1 else '-'} {x}"
        else:
            first = f"torch.add({first}, {x}, alpha={number(c)})"
    return first


@register
@dataclass(frozen=True)
class Select(Bond):
    """y = xᵢ, member i of a tuple, counted from 0, or by its name: `Select("mean")`."""

    name = "Select"
    by_vector = True

    i: int | str = argument("pick")
    at: int | None = field(default=None, kw_only=True)
    """Which member a name is, once the input is known."""

    sensitivity = 1
    certified = 1
    sharpness = LINEAR

    def resolve(self, x: Type) -> tuple[Self, Type]:
        if not isinstance(x, TupleType):
            raise Misfit(
                f"`{self.label}` takes a tuple, but its input is one value {x}",
                hint="leave `Select` out, or give it a tuple such as `(a, b)`; an input of the"
                " model is read by its name",
                code="E402",
            )
        count = len(x.members)
        if isinstance(self.i, str):
            if self.i not in x.names:
                hint = did_you_mean(self.i, x.names)
                if not x.names:
                    hint = "name its members, `(mean = a, logvar = b)`, or count them from 0; an"
                    hint += " input of the model is mentioned by its name alone"
                raise Misfit(
                    f"`Select` asks for member `{self.i}`, which its input does not have: {x}",
                    hint=hint,
                    argument="i",
                )
            at = x.names.index(self.i)
            return replace(self, at=at), x.members[at]
        if self.i >= count:
            raise Misfit(
                f"`{self.label}` asks for member {self.i}, but its input has {count} members: {x}",
                hint=f"members count from 0, so the last is `Select({count - 1})`",
                argument="i",
            )
        return self, x.members[self.i]

    @property
    def _at(self) -> int:
        at = self.i if self.at is None else self.at
        assert isinstance(at, int), "not resolved"
        return at

    def _slots(self, type: Type) -> range:
        """Where the member stands among the input's tensors."""
        assert isinstance(type, TupleType)
        sizes = [len(slots(member)) for member in type.members]
        start = sum(sizes[: self._at])
        return range(start, start + sizes[self._at])

    def at_zero(self, x: Sequence[Edge], type: Type) -> Mapping[Measure, float] | None:
        return {}

    def gains(self, x: Sequence[Edge], type: Type) -> Matrix | str:
        chosen = self._slots(type)
        return {(i, m): {(i - chosen.start, m): 1.0} for i in chosen for m in x[i].tracked}

    def sizes(self, x: Sequence[Edge], type: Type) -> list[dict[Measure, Bound]]:
        return [dict(x[i].bounds) for i in self._slots(type)]

    @property
    def picks(self) -> int | None:
        return self._at

    def absorb(self, scalars: tuple[Real, ...]) -> tuple[Op, Real] | None:
        return self, scalars[self._at]

    def reference(self, x: Any, weight: torch.Tensor | None = None) -> Any:
        return x[self._at]

    def emit(self, x: Any, type: Type, own: str) -> str:
        assert isinstance(type, TupleType)
        return expression(parts(x, len(type.members))[self._at])
