"""`Flatten`, `Reshape`, `Transpose`, `Squeeze`, `Unsqueeze`: the same entries under other axes."""

from __future__ import annotations

import dataclasses
import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

from modnorm.ops.base import Misfit, Op, argument, expect_tensor
from modnorm.ops.edges import (
    ONE_HOT,
    Bound,
    Edge,
    Matrix,
    Measure,
    between,
    conversion,
    natural,
    tracked,
)
from modnorm.ops.families import LinearBond
from modnorm.ops.registry import register
from modnorm.ops.shapes import index_of, new_axis, one_axis, put_in
from modnorm.ops.types import Real, Role, Size, Symbol, Tensor, Type, product, quotient

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Rearrangement(LinearBond):
    """The same entries under other axes: a measure of the input is one of the output, or is not."""

    stretch: float = field(default=1, kw_only=True)
    """From the measure in which the input is spoken of to that of the output; infinite where it
    depends on a size that is known only when the model runs."""

    @abstractmethod
    def _out(self, x: Tensor) -> Tensor:
        """The type of the output, or a Misfit."""

    @abstractmethod
    def _renamed(self, measure: Measure, x: Tensor) -> Measure | None:
        """A measure of an input as one of the output, if it is one."""

    @abstractmethod
    def _kept(self, x: Tensor) -> Self:
        """This operation, with its axes in the one way in which they are kept."""

    def resolve(self, x: Type) -> tuple[Self, Type]:
        x = expect_tensor(self.name, x, rank=1, dtype="any")
        out = self._out(x)
        source, target = natural(x), natural(out)
        ways = [
            conversion(x.shape, source, m) * conversion(out.shape, n, target)
            for m in dict.fromkeys((source, *tracked(x)))
            if (n := self._renamed(m, x)) is not None
        ]
        most = min(ways)
        if not most.is_integer() and math.isfinite(most):
            most = math.nextafter(most, math.inf)
        return dataclasses.replace(self._kept(x), stretch=most), out

    @property
    def certified(self) -> Real | str:
        if math.isinf(self.stretch):
            return "it depends on a size that is known only when the model runs"
        return self.stretch

    def _pairs(self, edge: Edge) -> list[tuple[Measure, Measure]]:
        measures = dict.fromkeys((*edge.tracked, *edge.bounds))
        found = ((m, self._renamed(m, edge.type)) for m in measures)
        return [(m, n) for m, n in found if n is not None]

    def gains(self, x: Sequence[Edge], type: Type) -> Matrix | str:
        return between(*((m, n, 1.0) for m, n in self._pairs(x[0])))

    def sizes(self, x: Sequence[Edge], type: Type) -> list[dict[Measure, Bound]]:
        (edge,) = x
        return [{n: Bound(edge.low(m), edge.high(m)) for m, n in self._pairs(edge)}]


@register
@dataclass(frozen=True)
class Transpose(Rearrangement):
    """Axes `a` and `b` in each other's place, by default the last two: (…, n, d) → (…, d, n).

    What an axis counts goes with it: what were channels are channels still, and values are measured
    over them. A `Linear` behind it works along the axis that is then the last.
    """

    name = "Transpose"

    a: int = argument("axis", -2)
    b: int = argument("axis", -1)

    def _axes(self, x: Tensor) -> list[int]:
        """The axes of the input in the order in which the output has them."""
        expect_tensor(self.name, x, rank=2, dtype="any")
        a, b = (index_of(self.name, getattr(self, name), x, name) for name in ("a", "b"))
        if a == b:
            raise Misfit(f"`Transpose` names axis {a} of {x} twice", argument="b")
        order = list(range(len(x.shape)))
        order[a], order[b] = b, a
        return order

    def _out(self, x: Tensor) -> Tensor:
        order = self._axes(x)
        shape, roles = tuple(x.shape[i] for i in order), tuple(x.roles[i] for i in order)
        return Tensor(x.dtype, shape, x.bound, roles)

    def _kept(self, x: Tensor) -> Self:
        a, b = sorted(i % len(x.shape) for i in (self.a, self.b))
        return dataclasses.replace(self, a=a - len(x.shape), b=b - len(x.shape))

    def _renamed(self, measure: Measure, x: Tensor) -> Measure | None:
        if measure == ONE_HOT:
            return measure
        order = self._axes(x)
        return Measure(tuple(sorted(order.index(a) for a in measure.axes)), measure.total)

    def fuse(self, before: Op) -> Op | None:
        from modnorm.ops.scalars import Identity

        same = isinstance(before, Transpose) and (before.a, before.b) == (self.a, self.b)
        return Identity() if same else None

    def reference(self, x: Any, weight: torch.Tensor | None = None) -> Any:
        order = list(range(x.ndim))
        order[self.a], order[self.b] = order[self.b], order[self.a]
        return x.permute(order)

    def emit(self, x: Any, type: Type, own: str) -> str:
        return f"{x}.transpose({self.a}, {self.b})"


def blocks(x: Sequence[Size], y: Sequence[Size]) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """The least groups of axes that a reshaping keeps apart, of the input and of the output."""
    found: list[tuple[tuple[int, ...], tuple[int, ...]]] = []
    i = j = 0
    while i < len(x) and j < len(y):
        ends = (
            (k, n)
            for k in range(i + 1, len(x) + 1)
            for n in range(j + 1, len(y) + 1)
            if product(x[:k]) == product(y[:n])
        )
        k, n = next(ends, (len(x), len(y)))
        found.append((tuple(range(i, k)), tuple(range(j, n))))
        i, j = k, n
    # axes of size 1 may be left at the end
    left, right = found.pop() if found else ((), ())
    found.append(((*left, *range(i, len(x))), (*right, *range(j, len(y)))))
    return found


@dataclass(frozen=True)
class Regrouping(Rearrangement):
    """What joins axes that lie beside each other, or cuts them, and moves nothing."""

    def _renamed(self, measure: Measure, x: Tensor) -> Measure | None:
        if measure == ONE_HOT:
            return measure
        y = self._out(x)
        axes: list[int] = []
        for ins, outs in blocks(x.shape, y.shape):
            wide = {i for i in ins if x.shape[i] != 1} or set(ins)
            if wide <= set(measure.axes):
                axes += outs
            elif wide & set(measure.axes):
                return None
        if measure.total and axes != [len(y.shape) - 1]:
            return None
        return Measure(tuple(axes), measure.total)


def regrouped(x: Tensor, shape: tuple[Size, ...]) -> Tensor:
    """A value under other axes; an axis that is the same has its role still.

    Where channels are among axes that are joined or cut, the last of what they become counts
    channels. What is joined of other axes are places.
    """
    roles: list[Role] = ["other"] * len(shape)
    for ins, outs in blocks(x.shape, shape):
        before = [i for i in ins if x.shape[i] != 1] or list(ins)
        after = [j for j in outs if shape[j] != 1] or list(outs)
        if len(after) == len(before) == 1:
            roles[after[0]] = x.roles[before[0]]
        elif "channel" in {x.roles[i] for i in before}:
            roles[after[-1]] = "channel"
    return Tensor(x.dtype, shape, x.bound, tuple(roles))


@register
@dataclass(frozen=True)
class Flatten(Regrouping):
    """All axes from `start_dim` on become one: (batch, a, b, …) → (batch, a·b·…).

    `Flatten(2)` makes places of an image's pixels: (batch, c, h, w) → (batch, c, h·w).
    """

    name = "Flatten"

    start_dim: int = argument("axis", 1)

    def _out(self, x: Tensor) -> Tensor:
        expect_tensor(self.name, x, rank=2, dtype="any")
        start = index_of(self.name, self.start_dim, x, "start_dim")
        out = regrouped(x, (*x.shape[:start], product(x.shape[start:])))
        if "channel" in out.roles:
            return out
        return dataclasses.replace(out, roles=(*out.roles[:-1], "channel"))

    def _kept(self, x: Tensor) -> Self:
        return dataclasses.replace(self, start_dim=self.start_dim % len(x.shape))

    def reference(self, x: Any, weight: torch.Tensor | None = None) -> Any:
        start = self.start_dim % x.ndim
        return x.reshape(*x.shape[:start], math.prod(x.shape[start:]))

    def emit(self, x: Any, type: Type, own: str) -> str:
        return f"{x}.flatten({self.start_dim})"


@register
@dataclass(frozen=True)
class Reshape(Regrouping):
    """The entries of each example under other axes: (batch, …) → (batch, sizes…).

    The first axis is kept, and `sizes` are those behind it, where torch's reshape has all; one may
    be -1 and is what is left: `Reshape(8, -1)`. Where channels are cut, as by `SplitHeads`, one
    part may hold all of a vector: its norm is up to √parts times that of the whole.
    """

    name = "Reshape"

    sizes_: tuple[int, ...] = argument("sizes")

    def _out(self, x: Tensor) -> Tensor:
        return regrouped(x, (x.shape[0], *self._sizes(x)))

    def _sizes(self, x: Tensor) -> tuple[Size, ...]:
        """The sizes behind the first axis, or a Misfit where there are more or fewer entries."""
        sizes, count = self.sizes_, product(x.shape[1:])
        if sizes.count(-1) > 1:
            raise Misfit(
                f"`Reshape` has -1 for {sizes.count(-1)} sizes",
                hint="only one can be inferred from the others",
                argument="sizes",
                code="E302",
            )
        given = math.prod(size for size in sizes if size != -1)
        shown = ", ".join(map(str, sizes))
        if -1 not in sizes:
            if given == count:
                return sizes
            hint = "give one of them as -1: it is what is left"
            if isinstance(count, Symbol):
                hint += f", here a multiple of `{'*'.join(count.names)}`"
            if given == product(x.shape):
                hint = "the first axis, the batch, is kept: leave its size out"
        else:
            left = quotient(count, given)
            if left is not None:
                return tuple(left if size == -1 else size for size in sizes)
            hint = f"choose sizes whose product divides {count}"
        raise Misfit(
            f"`Reshape({shown})` takes {given}{' × …' if -1 in sizes else ''} entries an example,"
            f" but its input {x} has {count}",
            hint=hint,
            argument="sizes",
        )

    def _kept(self, x: Tensor) -> Self:
        return self

    def fuse(self, before: Op) -> Op | None:
        same = isinstance(before, Reshape) and -1 not in self.sizes_
        return dataclasses.replace(self, stretch=1) if same else None

    def reference(self, x: Any, weight: torch.Tensor | None = None) -> Any:
        if not self.sizes_:
            return x.flatten()
        return x.reshape(x.shape[0], 1, -1).unflatten(2, self.sizes_).flatten(0, 1)

    def emit(self, x: Any, type: Type, own: str) -> str:
        assert isinstance(type, Tensor)
        left = (-1 if isinstance(size, Symbol) else size for size in self._sizes(type))
        return f"{x}.reshape({', '.join(map(str, (f'{x}.shape[0]', *left)))})"


@register
@dataclass(frozen=True)
class Squeeze(Regrouping):
    """The value without axis `dim`, which has size 1: (batch, 1, d) → (batch, d) for `dim` = 1.

    Torch leaves a value as it is where the axis is longer; here that is an error.
    """

    name = "Squeeze"

    dim: int = argument("axis")

    def _out(self, x: Tensor) -> Tensor:
        axis = index_of(self.name, self.dim, x, "dim")
        if x.shape[axis] != 1:
            raise Misfit(
                f"`Squeeze` takes away an axis of size 1, but axis {axis} of {x} is"
                f" `{x.shape[axis]}`",
                hint=f"one entry of it is `Slice(0, 1, {self.dim})`, their mean `Mean({self.dim})`",
                argument="dim",
            )
        shape = (*x.shape[:axis], *x.shape[axis + 1 :])
        return Tensor(x.dtype, shape, x.bound, (*x.roles[:axis], *x.roles[axis + 1 :]))

    def _kept(self, x: Tensor) -> Self:
        return dataclasses.replace(self, dim=one_axis(self.dim % len(x.shape), len(x.shape)))

    def fuse(self, before: Op) -> Op | None:
        from modnorm.ops.scalars import Identity

        same = isinstance(before, Unsqueeze) and before.dim == self.dim
        return Identity() if same else None

    def reference(self, x: Any, weight: torch.Tensor | None = None) -> Any:
        return x.select(self.dim, 0)

    def emit(self, x: Any, type: Type, own: str) -> str:
        return f"{x}.squeeze({self.dim})"


@register
@dataclass(frozen=True)
class Unsqueeze(Regrouping):
    """The value with a new axis of size 1 in place `dim` of the output: (batch, d) → (batch, 1, d).

    That is for `dim` = 1.
    """

    name = "Unsqueeze"

    dim: int = argument("axis")

    def _out(self, x: Tensor) -> Tensor:
        return put_in(x, new_axis(self.name, self.dim, x), 1)

    def _kept(self, x: Tensor) -> Self:
        rank = len(x.shape) + 1
        return dataclasses.replace(self, dim=one_axis(self.dim % rank, rank))

    def along(self, x: Type) -> tuple[int, ...]:
        return (self.dim % (len(x.shape) + 1),) if isinstance(x, Tensor) else ()

    def reference(self, x: Any, weight: torch.Tensor | None = None) -> Any:
        import torch

        return torch.stack([x], self.dim)

    def emit(self, x: Any, type: Type, own: str) -> str:
        return f"{x}.unsqueeze({self.dim})"
