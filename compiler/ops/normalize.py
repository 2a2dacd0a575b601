"""`MeanSubtract`, `RMSDivide`, the two fused: `LayerNorm`, and `GroupStandardize`."""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any, ClassVar, Self

from modnorm.ops.base import (
    Advice,
    Bond,
    Misfit,
    Op,
    Sharpness,
    amount,
    argument,
    expect_tensor,
)
from modnorm.ops.edges import (
    LARGEST,
    Bound,
    Edge,
    Form,
    Key,
    Matrix,
    Measure,
    between,
    conversion,
    whole,
)
from modnorm.ops.families import AlongAxes, LinearBond
from modnorm.ops.registry import register
from modnorm.ops.shapes import channels_of, image_of, indices, mistaken
from modnorm.ops.text import as_float, copied, number
from modnorm.ops.types import Real, Tensor, Type

if TYPE_CHECKING:
    import torch

USEFUL = 10
"""A bound 1/√eps larger than this says nothing, and is not given."""


@register
@dataclass(frozen=True)
class MeanSubtract(AlongAxes, LinearBond):
    """y = x - mean(x) along an axis or a tuple of axes."""

    name = "MeanSubtract"

    def gains(self, x: Sequence[Edge], type: Type) -> Matrix | str:
        (edge,) = x
        gone = set(indices(self.dim, len(edge.type.shape)))
        count = conversion(edge.type.shape, Measure(tuple(sorted(gone))), LARGEST) ** 2

        def gain(measure: Measure) -> float:
            if gone <= set(measure.axes):
                return 1.0  # a projection, where the RMS is over all that the mean is taken of
            return 2 - 2 / count if measure == LARGEST else 2.0

        return between(*((m, m, gain(m)) for m in edge.tracked))

    def reference(self, x: Any, weight: torch.Tensor | None = None) -> Any:
        return x - x.mean(dim=self.dim, keepdim=True)

    def emit(self, x: Any, type: Type, own: str) -> str:
        return f"centered({x}, {self.dim})"

    def helpers(self) -> tuple[str, ...]:
        return (copied("widened"), copied("centered"))


@dataclass(frozen=True)
class Division(Bond):
    """Division of groups of entries by their root mean square, with eps inside the root."""

    divides_by: ClassVar[str] = "input"
    eps: Real = argument("number", Fraction(1, 10**12))

    def check_eps(self) -> None:
        """Raise a Misfit unless eps may be added to a mean square."""
        if as_float(self.name, "eps", self.eps) < 0:
            raise Misfit(
                f"`eps` of `{self.name}` must be at least 0: it is added to a mean square",
                argument="eps",
                code="E302",
            )

    @property
    def sensitivity(self) -> Real:
        return 1

    @property
    def certified(self) -> Real | str:
        if self.eps > 0:
            bound = math.nextafter(1 / math.sqrt(self.eps), math.inf)
            if bound <= USEFUL:
                return bound
        return f"`{self.name}` divides by the size of its input, which may be as small as 0"

    def _gain(self, least: float) -> float | str:
        """1/√(r² + eps), for groups of size at least r; a reason where that is no bound."""
        divisor = math.hypot(least, math.sqrt(self.eps))
        if not least and divisor * USEFUL < 1:
            tiny = f", and eps = {number(self.eps)} is tiny" if self.eps else ""
            return f"its {self.divides_by} can be 0{tiny}"
        return 1 / divisor if divisor > 1 / sys.float_info.max else math.inf

    def _bend(self, least: float) -> float | str:
        """A bound on the second derivative in a group, for groups of size at least r."""
        square = least**2 + float(self.eps)
        if square <= 1 / sys.float_info.max:
            return f"its {self.divides_by} can be 0"
        return 1.1548 / square  # 2/√3, rounded up; eps is one more entry, which does not move

    def advice(self, x: Sequence[Edge], type: Type) -> tuple[Advice, ...]:
        reason = self.gains(x, type)
        if not isinstance(reason, str):
            return ()
        what = f"`{self.name}` has no bound: {reason}"
        hint = "with `eps = 1` it has sensitivity 1 for every input, with `eps = 0.01` it has 10"
        return (Advice("A607", what, hint),)

    def _divided(self, size: float) -> float:
        """What becomes of a group of a size: r/√(r² + eps)."""
        if not size or math.isinf(size):
            return float(size > 0)
        return size / math.hypot(size, math.sqrt(self.eps))

    @property
    def sharpness(self) -> Sharpness | None:
        return Sharpness(0.0, 0.0, 1.1548)  # 2/√3, rounded up, for an input of size 1

    def absorb(self, scalars: tuple[Real, ...]) -> tuple[Op, Real] | None:
        a = scalars[0]
        try:
            eps = self.eps / (a * a) if isinstance(a, float) else self.eps / Fraction(a * a)
            if (float(eps) == 0) != (self.eps == 0) or math.isinf(eps):
                return None
        except (OverflowError, ZeroDivisionError):
            return None
        return dataclasses.replace(self, eps=eps), 1 if a > 0 else -1

    def degree(self, x: Type) -> int | None:
        return 0


@dataclass(frozen=True)
class Normalization(Division, AlongAxes):
    """Such a division along an axis or a tuple of axes."""

    def resolve(self, x: Type) -> tuple[Self, Type]:
        self.check_eps()
        return super().resolve(x)

    def _least(self, edge: Edge) -> float:
        """The least size of a group, before eps comes in."""
        return edge.low(self._groups(edge))

    def _groups(self, edge: Edge) -> Measure:
        return Measure(indices(self.dim, len(edge.type.shape)))

    def gains(self, x: Sequence[Edge], type: Type) -> Matrix | str:
        (edge,) = x
        groups, gain = self._groups(edge), self._gain(self._least(edge))
        if isinstance(gain, str):
            return gain
        measures = dict.fromkeys((groups, *edge.tracked))
        return between(*((m, m, gain) for m in measures if set(groups.axes) <= set(m.axes)))

    def curvature(self, x: Sequence[Edge], type: Type) -> Form | str:
        (edge,) = x
        groups, bend = self._groups(edge), self._bend(self._least(edge))
        if isinstance(bend, str):
            return bend
        found: dict[tuple[Key, Key], dict[Key, float]] = {}
        for m in dict.fromkeys((groups, *edge.tracked)):
            if set(groups.axes) <= set(m.axes):
                for pair in (((0, groups), (0, m)), ((0, m), (0, groups))):
                    found.setdefault(pair, {})[0, m] = bend
        return found

    def sizes(self, x: Sequence[Edge], type: Type) -> list[dict[Measure, Bound]]:
        (edge,) = x
        groups = self._groups(edge)
        least, most = self._divided(self._least(edge)), self._divided(edge.high(groups))
        return [{groups: Bound(least, most)}]

    def trailing(self, type: Type) -> str | None:
        """The normalised shape as an expression in `{x}`, where the axes are the last ones."""
        assert isinstance(type, Tensor)
        rank = len(type.shape)
        axes = indices(self.dim, rank)
        if axes != tuple(range(axes[0], rank)):
            return None
        sizes = type.shape[axes[0] :]
        if all(isinstance(s, int) for s in sizes):
            return f"({', '.join(map(str, sizes))}{',' if len(sizes) == 1 else ''})"
        return f"{{x}}.shape[{axes[0] - rank}:]"


@register
@dataclass(frozen=True)
class RMSDivide(Normalization):
    """y = x / √(mean(x²) + eps) along an axis or a tuple of axes: the output has RMS 1.

    `eps` is inside the root, so a zero input gives zero. The declared sensitivity 1 holds where the
    input's RMS is at least 1; at RMS r the true one is 1/√(r² + eps).
    """

    name = "RMSDivide"
    origin = "modula: 1, which holds where the input's RMS is at least 1"

    def fuse(self, before: Op) -> Op | None:
        if isinstance(before, MeanSubtract) and before.dim == self.dim:
            return LayerNorm(self.dim, self.eps)
        return None

    def reference(self, x: Any, weight: torch.Tensor | None = None) -> Any:
        return x / (x.square().mean(dim=self.dim, keepdim=True) + float(self.eps)).sqrt()

    def emit(self, x: Any, type: Type, own: str) -> str:
        shape, eps = self.trailing(type), number(self.eps)
        if shape is not None:
            return f"F.rms_norm({x}, {shape.format(x=x)}, eps={eps})"
        return f"unit_rms({x}, {self.dim}, eps={eps})"

    def helpers(self) -> tuple[str, ...]:
        return (copied("widened"), copied("unit_rms"))


@register
@dataclass(frozen=True)
class LayerNorm(Normalization):
    """y = (x - mean) / √(var + eps) along an axis or a tuple of axes.

    What `RMSDivide` after `MeanSubtract` along the same axes becomes; the declared sensitivity 1
    holds where the input's standard deviation is at least 1.
    """

    name = "LayerNorm"
    internal = True
    origin = "modula: 1, which holds where the input's standard deviation is at least 1"
    divides_by = "input's deviation"

    def _least(self, edge: Edge) -> float:
        return 0.0  # equal entries have none, however large they are

    def reference(self, x: Any, weight: torch.Tensor | None = None) -> Any:
        x = x - x.mean(dim=self.dim, keepdim=True)
        return x / (x.square().mean(dim=self.dim, keepdim=True) + float(self.eps)).sqrt()

    def emit(self, x: Any, type: Type, own: str) -> str:
        shape, eps = self.trailing(type), number(self.eps)
        if shape is not None:
            return f"layer_normed({x}, {shape.format(x=x)}, eps={eps})"
        return f"unit_rms(centered(widened({x}), {self.dim}), {self.dim}, eps={eps}).to({x}.dtype)"

    def helpers(self) -> tuple[str, ...]:
        functions = ("widened", "centered", "unit_rms", "layer_normed")
        return tuple(map(copied, functions))


@dataclass(frozen=True)
class Grouped(Bond):
    """An operation on each of some groups of channels, with all pixels."""

    groups: int = argument("size")


@register
@dataclass(frozen=True)
class GroupStandardize(Division, Grouped):
    """y = (x - mean) / √(var + eps) for each of `groups` groups of channels with all their pixels,
    of images (batch, channels, h, w), signals (batch, channels, length) or vectors.

    This is torch.nn.GroupNorm without its gain and bias, which `GroupNorm` has. The declared
    sensitivity 1 holds where every group's standard deviation is at least 1.
    """

    name = "GroupStandardize"
    origin = "1, which holds where the deviation of every group is at least 1"
    divides_by = "input's deviation in a group"

    eps: Real = argument("number", Fraction(1, 10**5))

    def resolve(self, x: Type) -> tuple[Self, Type]:
        self.check_eps()
        x = expect_tensor(self.name, x, rank=2)
        channels = channels_of(self.name, x)
        if channels % self.groups:
            raise Misfit(
                f"`{self.name}` cannot cut {channels} channels into {amount(self.groups, 'group')}"
                " of equal size",
                hint=f"choose a number of groups that divides {channels}",
                argument="groups",
            )
        if self._count(x) == 1:
            raise Misfit(
                f"`{self.name}` of groups of one entry gives 0, whatever its input {x} is",
                hint="choose fewer groups, so that each has entries to compare",
                argument="groups",
            )
        return self, image_of(x, channels, *x.shape[2:])

    def _count(self, x: Tensor) -> float:
        """How many entries a group has."""
        assert isinstance(x.shape[1], int)
        return x.shape[1] // self.groups * conversion(x.shape, whole(x), Measure((1,))) ** 2

    def cautions(self, x: Type) -> tuple[Advice, ...]:
        return mistaken(self, x)

    def gains(self, x: Sequence[Edge], type: Type) -> Matrix | str:
        gain, everything = self._gain(0.0), whole(x[0].type)
        return gain if isinstance(gain, str) else between((everything, everything, gain))

    def curvature(self, x: Sequence[Edge], type: Type) -> Form | str:
        # of each group in its RMS; the largest group's is at most √groups times that over all
        bend, everything = self._bend(0.0), (0, whole(x[0].type))
        if isinstance(bend, str):
            return bend
        return {(everything, everything): {everything: bend * math.sqrt(self.groups)}}

    def sizes(self, x: Sequence[Edge], type: Type) -> list[dict[Measure, Bound]]:
        (edge,) = x
        count, most = self._count(edge.type), edge.high(whole(edge.type))
        everything = self._divided(most * math.sqrt(self.groups))
        return [{whole(edge.type): Bound(0.0, everything), LARGEST: Bound(0.0, math.sqrt(count))}]

    def reference(self, x: Any, weight: torch.Tensor | None = None) -> Any:
        y = x.reshape(x.shape[0], self.groups, -1)
        y = y - y.mean(2, keepdim=True)
        return (y / (y.square().mean(2, keepdim=True) + float(self.eps)).sqrt()).view_as(x)

    def emit(self, x: Any, type: Type, own: str) -> str:
        return f"F.group_norm({x}, {self.groups}, eps={number(self.eps)})"
