"""`MeanSubtract`, `RMSDivide`, and the two fused: `LayerNorm`."""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any, ClassVar, Self

from modnorm.ops.base import Advice, Misfit, Op, Sharpness, argument
from modnorm.ops.edges import LARGEST, Bound, Edge, Form, Key, Matrix, Measure, between, conversion
from modnorm.ops.families import AlongAxes, LinearBond
from modnorm.ops.registry import register
from modnorm.ops.shapes import indices
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
class Normalization(AlongAxes):
    """Division by a root mean square with eps inside the root."""

    divides_by: ClassVar[str] = "input"
    eps: Real = argument("number", Fraction(1, 10**12))

    def resolve(self, x: Type) -> tuple[Self, Type]:
        if as_float(self.name, "eps", self.eps) < 0:
            raise Misfit(
                f"`eps` of `{self.name}` must be at least 0: it is added to a mean square",
                argument="eps",
                code="E302",
            )
        return super().resolve(x)

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

    def _least(self, edge: Edge) -> float:
        """The least size of a group, before eps comes in."""
        return edge.low(self._groups(edge))

    def _groups(self, edge: Edge) -> Measure:
        return Measure(indices(self.dim, len(edge.type.shape)))

    def gains(self, x: Sequence[Edge], type: Type) -> Matrix | str:
        (edge,) = x
        groups, least = self._groups(edge), self._least(edge)
        divisor = math.hypot(least, math.sqrt(self.eps))
        if not least and divisor * USEFUL < 1:
            tiny = f", and eps = {number(self.eps)} is tiny" if self.eps else ""
            return f"its {self.divides_by} can be 0{tiny}"
        gain = 1 / divisor if divisor > 1 / sys.float_info.max else math.inf
        measures = dict.fromkeys((groups, *edge.tracked))
        return between(*((m, m, gain) for m in measures if set(groups.axes) <= set(m.axes)))

    def curvature(self, x: Sequence[Edge], type: Type) -> Form | str:
        (edge,) = x
        groups = self._groups(edge)
        square = self._least(edge) ** 2 + float(self.eps)
        if square <= 1 / sys.float_info.max:
            return f"its {self.divides_by} can be 0"
        bend = 1.1548 / square  # 2/√3, rounded up; eps is one more entry, which does not move
        found: dict[tuple[Key, Key], dict[Key, float]] = {}
        for m in dict.fromkeys((groups, *edge.tracked)):
            if set(groups.axes) <= set(m.axes):
                for pair in (((0, groups), (0, m)), ((0, m), (0, groups))):
                    found.setdefault(pair, {})[0, m] = bend
        return found

    def advice(self, x: Sequence[Edge], type: Type) -> tuple[Advice, ...]:
        reason = self.gains(x, type)
        if not isinstance(reason, str):
            return ()
        what = f"`{self.name}` has no bound: {reason}"
        hint = "with `eps = 1` it has sensitivity 1 for every input, with `eps = 0.01` it has 10"
        return (Advice("A607", what, hint),)

    def sizes(self, x: Sequence[Edge], type: Type) -> list[dict[Measure, Bound]]:
        (edge,) = x
        groups = self._groups(edge)
        least, most = self._divided(self._least(edge)), self._divided(edge.high(groups))
        return [{groups: Bound(least, most)}]

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
