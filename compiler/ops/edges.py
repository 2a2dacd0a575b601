"""What is proved about a value on its way from one operation to the next.

A *measure* is a norm of a tensor: the RMS over some of its axes, the largest over the others. The
letters of the literature are measures:

    R   over everything of an example          P   over channels, the largest of tokens or pixels
    H   over a head's channels                 I   the largest entry (over no axis)
    L1  the sum along the last axis, the largest of the others

Over the first axis of several every measure takes the largest: it is the batch, or may be. Which
axes count channels, heads and pixels is said by their roles. A tuple's norm is the sum of its
members' norms.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from modnorm.ops.types import Size, Tensor, TupleType, Type

if TYPE_CHECKING:
    import torch


class Measure(NamedTuple):
    """The RMS over `axes` (from 0, sorted), the largest over the others; with `total` the sum."""

    axes: tuple[int, ...]
    total: bool = False

    def of(self, x: torch.Tensor) -> torch.Tensor:
        """The norm of a tensor: a scalar tensor."""
        if self.total:
            return x.abs().sum(self.axes).amax()
        if not self.axes:
            return x.abs().amax()
        return x.square().mean(self.axes).amax().sqrt()


LARGEST = Measure(())
"""I: the largest entry."""
ONE_HOT = Measure((-1,), True)
"""The measure of integers, and of what is true or false: the sum of the one-hot vectors that they
stand for. It has no `of`."""


class Bound(NamedTuple):
    """Every group's norm is at least `low`, and at most `high`."""

    low: float
    high: float


Key: TypeAlias = tuple[int, Measure]
"""A slot (a tensor of a value: 0, or the place in a tuple's flattened members), and a measure."""
Matrix: TypeAlias = Mapping[Key, Mapping[Key, float]]
"""How far an output moves, in each of its measures, when an input moves by 1 in one of its own.

A slot of the input without a row has no influence.
"""
Form: TypeAlias = Mapping[tuple[Key, Key], Mapping[Key, float]]
"""How far an output's derivative in the input moves when the input does: for moves of two inputs
by 1, each in one of its own measures, in each measure of the output. Of one pair of slots the
measures are alternatives; pairs are summed, (i, j) and (j, i) for i ≠ j too.
"""
Bounds: TypeAlias = Mapping[Measure, Bound]


def whole(type: Tensor) -> Measure:
    """R: the RMS over everything but the first of several axes."""
    rank = len(type.shape)
    return Measure(tuple(range(1 if rank > 1 else 0, rank)))


@cache
def tracked(type: Tensor) -> tuple[Measure, ...]:
    """The measures in which values of a type are followed.

    Operations work along the last axis, and along the third last, where heads stand and the
    channels of images.
    """
    if type.dtype != "float":
        return (ONE_HOT,)
    everything = whole(type).axes
    last, third = everything[-1:], everything[-3:-2]
    found = [(), last, everything, third, third + last, natural(type).axes]
    return tuple(map(Measure, dict.fromkeys(found)))


@cache
def conversion(shape: tuple[Size, ...], source: Measure, target: Measure) -> float:
    """The least c with `target` ≤ c · `source` for all values of a shape; infinite if unknown."""
    if source == target:
        return 1.0
    if source == ONE_HOT or target == ONE_HOT:
        return math.inf
    if source.total or target.total:
        return _through_sum(shape, source, target)
    return math.sqrt(_count(shape, set(source.axes).difference(target.axes)))


def _through_sum(shape: tuple[Size, ...], source: Measure, target: Measure) -> float:
    last = Measure((len(shape) - 1,))
    width = _count(shape, last.axes)
    if target.total:
        return width * conversion(shape, source, last)
    if set(last.axes) <= set(target.axes) and math.isfinite(width):
        return 1 / math.sqrt(width)
    return 1.0


def _count(shape: tuple[Size, ...], axes: Iterable[int]) -> float:
    total = 1.0
    for axis in axes:
        size = shape[axis]
        if not isinstance(size, int):
            return math.inf
        total *= size
    return total


LEAST = 5e-324
"""The least positive float."""


@dataclass(frozen=True)
class Edge:
    """A tensor value: its type, and the bounds on its norms.

    `complete`: no bound follows from the others that is better than the one that stands there.
    """

    type: Tensor
    bounds: Bounds = field(default_factory=dict)
    complete: bool = False

    def completed(self) -> Edge:
        """The same, with the bounds that follow for every measure."""
        known = list(self.bounds.values())
        bounds: dict[Measure, Bound] = {}
        for measure, lows, highs in _implied(self.type, tuple(self.bounds)):
            low = max([known[i].low for i in lows], default=0.0)
            high = min([product(known[i].high, c) for i, c in highs], default=math.inf)
            bounds[measure] = Bound(low, high)
        return Edge(self.type, bounds, True)

    def rebounded(self, bounds: Bounds) -> Edge:
        """A value of the same kind with other bounds."""
        return Edge(self.type, bounds).completed()

    def high(self, measure: Measure) -> float:
        """The least upper bound that follows for a measure; infinite where none does."""
        if self.complete and measure in self.bounds:
            return self.bounds[measure].high
        shape = self.type.shape
        return min(
            (product(b.high, conversion(shape, m, measure)) for m, b in self.bounds.items()),
            default=math.inf,
        )

    def low(self, measure: Measure) -> float:
        """The largest lower bound that follows; 0 where none does."""
        if self.complete and measure in self.bounds:
            return self.bounds[measure].low
        return max((b.low for m, b in self.bounds.items() if below(m, measure)), default=0.0)

    @property
    def last(self) -> Measure:
        """The RMS along the last axis."""
        return Measure((len(self.type.shape) - 1,))

    @property
    def tracked(self) -> tuple[Measure, ...]:
        return tracked(self.type)


def below(one: Measure, other: Measure) -> bool:
    """Whether the other measure of a value is never less than the first of each of its groups."""
    return not one.total and not other.total and set(one.axes) <= set(other.axes)


@cache
def _implied(
    type: Tensor, known: tuple[Measure, ...]
) -> tuple[tuple[Measure, tuple[int, ...], tuple[tuple[int, float], ...]], ...]:
    """For each measure those of `known` that bound it: from below, and from above with factors."""
    return tuple(
        (
            measure,
            tuple(i for i, m in enumerate(known) if below(m, measure)),
            tuple((i, conversion(type.shape, m, measure)) for i, m in enumerate(known)),
        )
        for measure in dict.fromkeys((*known, *tracked(type)))
    )


def natural(type: Tensor, *, by_image: bool = False) -> Measure:
    """The measure in which a value is spoken of: P, or H; R with `by_image`, for an image."""
    if type.dtype != "float":
        return ONE_HOT
    if not type.shape:
        return LARGEST
    return whole(type) if by_image and type.is_image else Measure((type.channels,))


def letter(measure: Measure, type: Tensor) -> str:
    """The letter of a measure: R, P, H, I or L1; the axes where it has none."""
    if measure.total:
        return "L1"
    if not measure.axes:
        return "I"
    heads, vector = type.axis("head"), (type.channels,)
    if heads is not None and measure.axes in (vector, (heads, *vector)):
        return "H" if measure.axes == vector else "P"
    if measure == whole(type):
        return "R"
    return "P" if measure.axes == vector else f"RMS over {measure.axes}"


def slots(type: Type) -> tuple[Tensor, ...]:
    """The tensors of a value, a tuple's members flattened."""
    if isinstance(type, TupleType):
        return tuple(t for member in type.members for t in slots(member))
    return (type,)


def each_measure(x: Sequence[Edge], factor: float = 1.0) -> dict[Key, dict[Key, float]]:
    """Every slot to the same slot, by the same factor in every measure."""
    return {(i, m): {(i, m): factor} for i, edge in enumerate(x) for m in edge.tracked}


def between(*pairs: tuple[Measure, Measure, float]) -> dict[Key, dict[Key, float]]:
    """One tensor to one tensor: (measure of the input, measure of the output, gain)."""
    found: dict[Key, dict[Key, float]] = {}
    for source, target, gain in pairs:
        found.setdefault((0, source), {})[0, target] = gain
    return found


def entrywise(edge: Edge, bend: float, i: int = 0, j: int = 0) -> Form:
    """Of a product of two moves, entry by entry: one of them counts by its largest entry."""
    found: dict[tuple[Key, Key], dict[Key, float]] = {}
    for m in edge.tracked:
        for pair in (((i, LARGEST), (j, m)), ((i, m), (j, LARGEST))):
            found.setdefault(pair, {})[0, m] = bend
    return found


def reached(x: Sequence[Edge], gains: Matrix, out: Sequence[Tensor]) -> list[dict[Measure, Bound]]:
    """Upper bounds on the outputs of an operation that maps zero to zero, from its gains."""
    parts: dict[int, dict[Key, float]] = {}
    for (i, measure), row in gains.items():
        lower(parts.setdefault(i, {}), row, x[i].high(measure))
    found: list[dict[Measure, Bound]] = [{} for _ in out]
    for (j, measure), high in summed(list(parts.values()), out).items():
        found[j][measure] = Bound(0.0, high)
    return found


def lower(best: dict[Key, float], row: Mapping[Key, float], factor: float) -> None:
    """Take over the entries of a row, times a factor, where they are smaller."""
    for key, gain in row.items():
        value = product(gain, factor)
        if value < best.get(key, math.inf) or key not in best:
            best[key] = value


def summed(parts: Sequence[Mapping[Key, float]], types: Sequence[Tensor]) -> dict[Key, float]:
    """The sum of several rows: each is known in some measures, from which the others follow."""
    if len(parts) == 1:
        return dict(parts[0])
    keys = dict.fromkeys(key for part in parts for key in part)
    return {key: sum(moved(part, key, types) for part in parts) for key in keys}


def moved(
    row: Mapping[Key, float], key: Key, types: Sequence[Tensor], default: float = 0.0
) -> float:
    """How far a tensor moves in any measure, for one row; `default` where it is not reached."""
    slot, measure = key
    shape = types[slot].shape
    moves = [
        product(gain, conversion(shape, m, measure)) for (j, m), gain in row.items() if j == slot
    ]
    return min(moves, default=default)


def product(a: float, b: float) -> float:
    """a·b, where 0 times infinity is 0, and only that is 0."""
    return max(a * b, LEAST) if a and b else 0.0
