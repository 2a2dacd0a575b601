"""`Concat`, `Stack`, `Slice`, `Split`: values put together along an axis, and taken apart."""

from __future__ import annotations

import dataclasses
import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Self

from modnorm.ops.base import LINEAR, Advice, Bond, Misfit, Op, argument, expect_tensor
from modnorm.ops.edges import Bound, Edge, Key, Matrix, Measure, between, product, tracked
from modnorm.ops.families import LinearBond, past, ratio_root
from modnorm.ops.registry import register
from modnorm.ops.shapes import (
    agreed,
    index_of,
    known,
    members,
    mixed,
    new_axis,
    one_axis,
    put_in,
)
from modnorm.ops.text import expression
from modnorm.ops.types import Real, Size, Symbol, Tensor, TupleType, Type, quotient, shifted, total

if TYPE_CHECKING:
    import torch

MOST = 1000
"""Pieces that a value may be split into."""


@dataclass(frozen=True)
class Joining(LinearBond):
    """What puts the members of a tuple side by side along one axis of its output."""

    @abstractmethod
    def _pieces(self, types: Sequence[Tensor]) -> tuple[int, list[Size]]:
        """The axis of the output, from 0, and how many places along it each member fills."""

    def _own(self, measure: Measure, axis: int) -> Measure:
        """A measure of the output as one of a member."""
        return measure

    def _measures(self, x: Sequence[Edge], type: Type) -> dict[Measure, None]:
        out = self.resolve(type)[1]
        assert isinstance(out, Tensor)
        return dict.fromkeys(tracked(out))

    def _shares(self, x: Sequence[Edge]) -> tuple[int, list[float] | None]:
        """The axis, and the root of each member's share of it, where that is known."""
        axis, sizes = self._pieces([edge.type for edge in x])
        found = [n for n in sizes if isinstance(n, int)]
        if len(found) < len(sizes):
            return axis, None
        return axis, [math.sqrt(n / sum(found)) for n in found]

    def gains(self, x: Sequence[Edge], type: Type) -> Matrix | str:
        axis, shares = self._shares(x)
        found: dict[Key, dict[Key, float]] = {}
        for measure in self._measures(x, type):
            own = self._own(measure, axis)
            for i in range(len(x)):
                gain = shares[i] if shares is not None and axis in measure.axes else 1.0
                found.setdefault((i, own), {})[0, measure] = gain
        return found

    def sizes(self, x: Sequence[Edge], type: Type) -> list[dict[Measure, Bound]]:
        """Along the axis squares add up; over the other axes the largest member counts."""
        axis, shares = self._shares(x)
        found = {}
        for measure in self._measures(x, type):
            own = self._own(measure, axis)
            lows, highs = [edge.low(own) for edge in x], [edge.high(own) for edge in x]
            if axis in measure.axes and shares is not None:
                found[measure] = Bound(_joined(lows, shares), _joined(highs, shares))
            else:
                found[measure] = Bound(min(lows), max(highs))
        return [found]

    def cautions(self, x: Type) -> tuple[Advice, ...]:
        assert isinstance(x, TupleType)
        if len(x.members) > 1:
            return ()
        what = f"`{self.label}` of one value joins nothing"
        return (Advice("W609", what, f"give it several: `{self.label} @ (a, b)`"),)

    def reference(self, x: Any, weight: torch.Tensor | None = None) -> Any:
        import torch.nn.functional as F

        axis, sizes = self._pieces([_as_type(t) for t in x])
        placed: list[Any] = []
        start, whole = 0, sum(n for n in sizes if isinstance(n, int))
        for t, n in zip(map(self._laid, x), sizes, strict=True):
            assert isinstance(n, int)
            behind = (0, 0) * (t.ndim - 1 - axis)
            placed.append(F.pad(t, (*behind, start, whole - start - n)))
            start += n
        return sum(placed[1:], placed[0])

    def _laid(self, x: torch.Tensor) -> torch.Tensor:
        """A member with the output's axes."""
        return x


def _joined(sizes: Sequence[float], shares: Sequence[float]) -> float:
    """The RMS over values that fill shares of an axis, of which these are the roots."""
    return math.hypot(*(product(a, b) for a, b in zip(sizes, shares, strict=True)))


def _as_type(x: torch.Tensor) -> Tensor:
    return Tensor("float", tuple(x.shape))


@register
@dataclass(frozen=True)
class Concat(Joining):
    """The members of a tuple one after the other along an axis: (…, n₁), (…, n₂), … → (…, n₁+n₂+…).

    Sizes along the other axes are equal, as in torch.cat. A member fills a share nᵢ/N of the axis:
    in the RMS over that axis a change of it counts √(nᵢ/N), and over other axes 1. Declared 1.
    """

    name = "Concat"
    origin = "proved: √(its share) for each member in the RMS over that axis, 1 over others"

    dim: int = argument("axis", -1)

    @property
    def by_vector(self) -> bool:
        return self.dim == -1

    def resolve(self, x: Type) -> tuple[Self, Type]:
        tensors = members(self.name, x, "of values to join")
        if not tensors:
            raise Misfit("`Concat` has nothing to join: its input is an empty tuple")
        one = tensors[0]
        axis = index_of(self.name, self.dim, one, "dim")
        for other in tensors[1:]:
            if len(other.shape) != len(one.shape):
                raise Misfit(
                    f"`Concat` joins values with as many axes as each other, but its input has"
                    f" {one} and {other}",
                    hint="give the one with fewer an axis of size 1 with `Unsqueeze(dim)`",
                    code="E402",
                )
            clash = _clash(one, other, axis)
            if clash is not None:
                raise Misfit(
                    f"`Concat` along axis {axis} cannot join {one} and {other}: along axis {clash}"
                    f" their sizes {one.shape[clash]} and {other.shape[clash]} clash",
                    hint=_mend(tensors),
                )
        size = total(t.shape[axis] for t in tensors)
        shape = (*one.shape[:axis], size, *one.shape[axis + 1 :])
        out = Tensor("float", shape, None, agreed(tensors))
        return dataclasses.replace(self, dim=one_axis(axis, len(shape))), out

    def cautions(self, x: Type) -> tuple[Advice, ...]:
        found = super().cautions(x)
        assert isinstance(x, TupleType)
        first = x.members[0]
        assert isinstance(first, Tensor)
        return (*found, *mixed(self.label, first, self.dim % len(first.shape)))

    def _pieces(self, types: Sequence[Tensor]) -> tuple[int, list[Size]]:
        axis = self.dim % len(types[0].shape)
        return axis, [t.shape[axis] for t in types]

    def emit(self, x: Any, type: Type, own: str) -> str:
        return f"torch.cat({expression(x)}, dim={self.dim})"


def _clash(one: Tensor, other: Tensor, axis: int) -> int | None:
    """The first other axis along which two values differ."""
    pairs = enumerate(zip(one.shape, other.shape, strict=True))
    return next((i for i, (m, n) in pairs if m != n and i != axis), None)


def _mend(tensors: Sequence[Tensor]) -> str:
    """Along which axis all of them fit, if there is one."""
    one, *others = tensors
    for axis in range(1, len(one.shape)):
        alike = [len(other.shape) == len(one.shape) for other in others]
        if all(alike) and all(_clash(one, other, axis) is None for other in others):
            return f"along axis {axis} they fit: `Concat({axis})`"
    return "bring the members to one size with `Linear`, or join them along another axis"


@register
@dataclass(frozen=True)
class Stack(Joining):
    """The members of a tuple side by side along a new axis: k of (a, b) → (a, k, b) for `dim` = 1.

    All have one shape; `dim` is where the new axis stands in the output, as in torch.stack. In the
    RMS over that axis a change of one member counts 1/√k, over other axes 1. Declared 1.
    """

    name = "Stack"
    origin = "proved: 1/√k for each of k members in the RMS over the new axis, 1 over others"

    dim: int = argument("axis")

    def resolve(self, x: Type) -> tuple[Self, Type]:
        tensors = members(self.name, x, "of values to stack")
        if not tensors:
            raise Misfit("`Stack` has nothing to stack: its input is an empty tuple")
        one = tensors[0]
        for other in tensors[1:]:
            if other.shape != one.shape:
                raise Misfit(
                    f"`Stack` takes values of one shape, but its input has {one} and {other}",
                    hint="`Concat(dim)` joins values that differ along one axis",
                )
        axis = new_axis(self.name, self.dim, one)
        out = put_in(Tensor("float", one.shape, None, agreed(tensors)), axis, len(tensors))
        return dataclasses.replace(self, dim=one_axis(axis, len(out.shape))), out

    def cautions(self, x: Type) -> tuple[Advice, ...]:
        found = super().cautions(x)
        assert isinstance(x, TupleType)
        first = x.members[0]
        assert isinstance(first, Tensor)
        return (*found, *mixed(self.label, first, self.dim % (len(first.shape) + 1)))

    def _pieces(self, types: Sequence[Tensor]) -> tuple[int, list[Size]]:
        return self.dim % (len(types[0].shape) + 1), [1] * len(types)

    def _own(self, measure: Measure, axis: int) -> Measure:
        return Measure(tuple(a - (a > axis) for a in measure.axes if a != axis))

    def _laid(self, x: torch.Tensor) -> torch.Tensor:
        return x.unsqueeze(self.dim)

    def emit(self, x: Any, type: Type, own: str) -> str:
        return f"torch.stack({expression(x)}, dim={self.dim})"


@register
@dataclass(frozen=True)
class Slice(LinearBond):
    """Entries from `start` up to `end`, without it, along an axis: (…, n) → (…, end - start).

    Negative numbers count from the end, as in Python; without `end` it goes on to the last entry.
    What lies beyond the axis is an error, and not cut off. Declared 1, what entries of one size
    have; in the RMS over that axis n of N entries may hold all of a value, which is √(N/n).
    """

    name = "Slice"
    origin = "typical value, for entries of one size; in the worst case n of N have √(N/n)"

    start: int = argument("integer")
    end: int | None = argument("integer", None)
    dim: int = argument("axis", -1)
    stretch: Real | str = field(default="it depends on how many entries there are", kw_only=True)
    """The certified value, once the input is known."""

    @property
    def by_vector(self) -> bool:
        return self.dim == -1

    def resolve(self, x: Type) -> tuple[Self, Type]:
        x = expect_tensor(self.name, x, rank=1, dtype="any")
        axis = index_of(self.name, self.dim, x, "dim")
        size = x.shape[axis]
        length = self._length(x, axis)
        shape = (*x.shape[:axis], length, *x.shape[axis + 1 :])
        out = Tensor(x.dtype, shape, x.bound, x.roles)
        return dataclasses.replace(
            self, dim=one_axis(axis, len(shape)), stretch=_stretch(x, axis, size, length)
        ), out

    def _length(self, x: Tensor, axis: int) -> Size:
        """How many entries are taken, or a Misfit where they are not there."""
        size = x.shape[axis]
        start, end = self.start, self.end
        if isinstance(size, int):
            self._inside(x, axis, size)
            first, last = (n if n >= 0 else n + size for n in (start, size if end is None else end))
            length: Size = last - first
        elif end is None:
            length = shifted(size, -start) if start >= 0 else -start
        elif (start < 0) == (end < 0):
            length = end - start
        elif start >= 0:
            length = shifted(size, end - start)
        else:
            what = f"the size of axis {axis}"
            length = end - start - known(self.name, x, axis, what)
        if isinstance(length, int) and length < 1:
            raise Misfit(
                f"`Slice` from {start} to {'the end' if end is None else end} of axis {axis} of {x}"
                " has no entries",
                hint="`end` is exclusive, as in Python: `Slice(0, 2)` takes two entries",
                argument="start" if end is None else "end",
            )
        return length

    def _inside(self, x: Tensor, axis: int, size: int) -> None:
        for name, place, least, most in (
            ("start", self.start, -size, size - 1),
            ("end", self.end, -size, size),
        ):
            if place is not None and not least <= place <= most:
                raise Misfit(
                    f"`{name}` of `Slice` is {place}, but axis {axis} of {x} has {size} entries",
                    hint="leave `end` out to go on to the last entry"
                    if name == "end"
                    else f"places go from {least} to {most}",
                    argument=name,
                )

    def cautions(self, x: Type) -> tuple[Advice, ...]:
        out = self.resolve(x)[1]
        if out != x:
            return ()
        what = f"`Slice` takes all of axis {self.dim} of {x}: it gives back its input"
        return (Advice("W609", what, "leave it out"),)

    @property
    def certified(self) -> Real | str:
        return self.stretch

    @property
    def is_identity(self) -> bool:
        return self.start == 0 and self.end is None

    def gains(self, x: Sequence[Edge], type: Type) -> Matrix | str:
        (edge,) = x
        return between(*((m, m, c) for m, c in self._factors(edge, type)))

    def _factors(self, edge: Edge, type: Type) -> list[tuple[Measure, float]]:
        """How far each measure may rise, where that is known."""
        assert isinstance(type, Tensor)
        axis = self.dim % len(type.shape)
        size, length = type.shape[axis], self._length(type, axis)
        measures = dict.fromkeys((*edge.tracked, *edge.bounds))
        return [(m, c) for m in measures if math.isfinite(c := _part(m, axis, size, length))]

    def sizes(self, x: Sequence[Edge], type: Type) -> list[dict[Measure, Bound]]:
        (edge,) = x
        assert isinstance(type, Tensor)
        found = {}
        for m, c in self._factors(edge, type):
            kept = c == 1 and not (m.total and type.dtype == "float")
            low = edge.low(m) if kept else 0.0
            found[m] = Bound(low, product(edge.high(m), c))
        return [found]

    def reference(self, x: Any, weight: torch.Tensor | None = None) -> Any:
        import torch

        index = torch.arange(x.shape[self.dim])[self.start : self.end]
        return x.index_select(self.dim, index)

    def emit(self, x: Any, type: Type, own: str) -> str:
        assert isinstance(type, Tensor)
        rank, axis = len(type.shape), self.dim % len(type.shape)
        size, start, end = type.shape[axis], self.start, self.end
        if isinstance(size, int):
            cut = f"{start or ''}:{'' if end is None else end}"
            if axis == rank - 1 and axis > 1:
                return f"{x}[..., {cut}]"
            return f"{x}[{':, ' * axis}{cut}]"
        # narrow raises an error where there are fewer entries
        length = str(self._length(type, axis))
        if isinstance(self._length(type, axis), Symbol):
            length = f"{x}.shape[{self.dim}] - {start - (end or 0)}"
        return f"{x}.narrow({self.dim}, {start}, {length})"


def _part(measure: Measure, axis: int, size: Size, length: Size) -> float:
    """How far a measure may rise where `length` of `size` entries along an axis are left."""
    if measure.total or axis not in measure.axes or size == length:
        return 1.0
    if isinstance(size, int) and isinstance(length, int):
        return math.sqrt(size / length)
    return math.inf


def _stretch(x: Tensor, axis: int, size: Size, length: Size) -> Real | str:
    """That of the measure in which a value is spoken of, exact where it can be."""
    if x.dtype == "int" or axis != x.channels or size == length:
        return 1
    if isinstance(size, int) and isinstance(length, int):
        return ratio_root(Fraction(size, length))
    return "it depends on a size that is known only when the model runs"


@register
@dataclass(frozen=True)
class Split(Bond):
    """A tuple of `count` equal pieces along an axis: (…, count·n) → count values (…, n).

    `Select(i)` takes one, and `Split(2) >> Product` multiplies two halves; `count` is the number of
    pieces, as in torch.chunk, not their size. A tuple's norm is the sum of its members' norms, so
    `count` is declared, for pieces of the same size. One of them may hold all of a vector, which is
    √count in the RMS over that axis.
    """

    name = "Split"
    origin = "typical value: the sum of the norms of pieces of one size"

    count: int = argument("size")
    dim: int = argument("axis", -1)
    across: bool = field(default=True, kw_only=True)
    """Whether it is channels that are split."""

    sharpness = LINEAR

    @property
    def by_vector(self) -> bool:
        return self.dim == -1

    def resolve(self, x: Type) -> tuple[Self, Type]:
        x = expect_tensor(self.name, x, rank=1)
        axis = index_of(self.name, self.dim, x, "dim")
        size, count = x.shape[axis], self.count
        if count > MOST:
            raise Misfit(
                f"`Split` makes {count:,} values; at most {MOST:,} are allowed",
                hint="`count` is the number of pieces, not their size",
                argument="count",
                code="E305",
            )
        piece = quotient(size, count)
        if piece is None:
            raise Misfit(
                f"`Split` cannot cut axis {axis} of {x} into {count} equal pieces",
                hint="give the size a number in the `input` declaration"
                if isinstance(size, Symbol)
                else f"choose a number of pieces that divides {size}, or take pieces of other"
                " sizes with `Slice(start, end)`",
                argument="count",
            )
        shape = (*x.shape[:axis], piece, *x.shape[axis + 1 :])
        one = Tensor("float", shape, None, x.roles)
        dim = one_axis(axis, len(shape))
        across = axis == x.channels
        return dataclasses.replace(self, dim=dim, across=across), TupleType((one,) * count)

    def cautions(self, x: Type) -> tuple[Advice, ...]:
        if self.count > 1:
            return ()
        what = "`Split(1)` gives a tuple of one value: its input"
        return (Advice("W609", what, "`count` is the number of pieces"),)

    @property
    def sensitivity(self) -> Real:
        return self.count

    @property
    def certified(self) -> Real | str:
        """Of each piece another vector may be the one that it holds all of."""
        return ratio_root(Fraction(self.count**3)) if self.across else self.count

    def at_zero(self, x: Sequence[Edge], type: Type) -> Mapping[Measure, float] | None:
        return {}

    def absorb(self, scalars: tuple[Real, ...]) -> tuple[Op, Real] | None:
        return past(self, scalars)

    def _factors(self, edge: Edge) -> dict[Measure, float]:
        axis = self.dim % len(edge.type.shape)
        measures = dict.fromkeys((*edge.tracked, *edge.bounds))
        return {m: _part(m, axis, self.count, 1) for m in measures}

    def gains(self, x: Sequence[Edge], type: Type) -> Matrix | str:
        pieces = range(self.count)
        factors = self._factors(x[0])
        return {(0, m): {(j, m): c for j in pieces} for m, c in factors.items()}

    def sizes(self, x: Sequence[Edge], type: Type) -> list[dict[Measure, Bound]]:
        (edge,) = x
        found = {
            m: Bound(0.0 if c != 1 or m.total else edge.low(m), product(edge.high(m), c))
            for m, c in self._factors(edge).items()
        }
        return [dict(found) for _ in range(self.count)]

    def reference(self, x: Any, weight: torch.Tensor | None = None) -> Any:
        size = x.shape[self.dim] // self.count
        return tuple(x.narrow(self.dim, i * size, size) for i in range(self.count))

    def emit(self, x: Any, type: Type, own: str) -> str:
        return f"{x}.chunk({self.count}, dim={self.dim})"
