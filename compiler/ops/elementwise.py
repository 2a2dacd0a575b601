"""Elementwise nonlinearities, and softmax."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Self

from modnorm.ops.base import Bond, Misfit, Op, Sharpness, argument, expect_tensor
from modnorm.ops.edges import (
    LARGEST,
    Bound,
    Edge,
    Form,
    Matrix,
    Measure,
    between,
    conversion,
    product,
)
from modnorm.ops.families import Called, Curve, Elementwise, magnitude
from modnorm.ops.formula_tree import Apply, Constant, Node, X
from modnorm.ops.registry import register
from modnorm.ops.shapes import index_of, one_axis
from modnorm.ops.text import as_float, copied, number, times
from modnorm.ops.types import Real, Type

if TYPE_CHECKING:
    import torch

HALF_POWER = 2**-0.5
"""1/√2: the RMS of relu(g) and of its slope for a gaussian g."""


@register
@dataclass(frozen=True)
class Abs(Elementwise):
    """y = |x|, entry by entry."""

    name = "Abs"
    call = "torch.abs"

    sensitivity = 1
    certified = 1
    sharpness = None

    def sizes(self, x: Sequence[Edge], type: Type) -> list[dict[Measure, Bound]]:
        return [dict(x[0].bounds)]

    def absorb(self, scalars: tuple[Real, ...]) -> tuple[Op, Real] | None:
        return self, magnitude(scalars[0])

    def reference(self, x: Any, weight: torch.Tensor | None = None) -> Any:
        return x.maximum(-x)


@register
@dataclass(frozen=True)
class ReLU(Elementwise):
    """y = max(x, 0), entry by entry.

    The declared sensitivity 1/√2 is what a symmetric random input meets on average; the worst case
    is 1.
    """

    name = "ReLU"
    call = "F.relu"
    origin = "modula's PyTorch release: 1/√2, the RMS slope over a symmetric random input"

    sensitivity = HALF_POWER
    certified = 1
    sharpness = None

    def absorb(self, scalars: tuple[Real, ...]) -> tuple[Op, Real] | None:
        return (self, scalars[0]) if scalars[0] > 0 else None

    def reference(self, x: Any, weight: torch.Tensor | None = None) -> Any:
        return x * (x > 0)


@register
@dataclass(frozen=True)
class GELU(Elementwise):
    """y = x·Φ(x), with the exact normal distribution function Φ (erf, not its tanh approximation).

    The declared sensitivity 1/√2 is ReLU's, carried over; a standard normal input meets 0.675 on
    average, and the worst case is Φ(√2) + √2·φ(√2) = 1.1289.
    """

    name = "GELU"
    call = "F.gelu"
    origin = "modula's PyTorch release: 1/√2, as for ReLU"

    sensitivity = HALF_POWER
    certified = 1.12891
    sharpness = Sharpness(0.0, 0.0, 0.797885)  # √(2/π) = 0.79788456…, at 0

    def curve(self) -> Node | None:
        normal = Apply("erf", (Apply("*", (Constant(HALF_POWER), X())),))
        return Apply("*", (X(), Apply("*", (Constant(0.5), Apply("+", (Constant(1), normal))))))

    def reference(self, x: Any, weight: torch.Tensor | None = None) -> Any:
        return x * (1 + (x / 2**0.5).erf()) / 2


@register
@dataclass(frozen=True)
class SiLU(Elementwise):
    """y = x·sigmoid(x), entry by entry.

    The declared sensitivity is 1; a standard normal input meets 0.616 on average, and the worst
    case is 1.0998.
    """

    name = "SiLU"
    call = "F.silu"
    origin = "typical value, rounded to 1; not in modula"

    sensitivity = 1
    certified = 1.09984
    sharpness = Sharpness(0.0, 0.0, 0.5)

    def curve(self) -> Node | None:
        return Apply("*", (X(), Apply("sigmoid", (X(),))))

    def reference(self, x: Any, weight: torch.Tensor | None = None) -> Any:
        return x / (1 + (-x).exp())


@register
@dataclass(frozen=True)
class Tanh(Elementwise):
    """y = tanh(x), entry by entry."""

    name = "Tanh"
    call = "torch.tanh"

    sensitivity = 1
    certified = 1
    sharpness = Sharpness(0.0, 0.0, 0.769801)  # 4/(3√3) = 0.76980035…

    def curve(self) -> Node | None:
        return Apply("tanh", (X(),))

    def absorb(self, scalars: tuple[Real, ...]) -> tuple[Op, Real] | None:
        return (self, -1) if scalars[0] == -1 else None

    def reference(self, x: Any, weight: torch.Tensor | None = None) -> Any:
        return 1 - 2 / ((2 * x).exp() + 1)


@register
@dataclass(frozen=True)
class Sigmoid(Called):
    """y = 1 / (1 + exp(-x)), entry by entry."""

    name = "Sigmoid"
    call = "torch.sigmoid"
    origin = "proved: the slope at 0"

    sensitivity = Fraction(1, 4)
    certified = Fraction(1, 4)
    sharpness = Sharpness(0.0, 0.0, 0.0962251)  # 1/(6√3) = 0.09622504…

    def curve(self) -> Node | None:
        return Apply("sigmoid", (X(),))

    def known(self) -> Curve:
        return super().known()._replace(start=0.5, value=1.0)

    def reference(self, x: Any, weight: torch.Tensor | None = None) -> Any:
        return (1 + (x / 2).tanh()) / 2


@register
@dataclass(frozen=True)
class Softplus(Called):
    """y = log(1 + exp(x)), entry by entry: a smooth ReLU.

    The declared sensitivity is 1, its slope far above 0; a standard normal input meets 0.542.
    """

    name = "Softplus"
    call = "F.softplus"
    origin = "proved: the slope far above 0"

    sensitivity = 1
    certified = 1
    sharpness = Sharpness(0.0, 0.0, 0.25)

    def curve(self) -> Node | None:
        size = Apply("abs", (X(),))
        tail = Apply("exp", (Apply("*", (Constant(-1), size)),))
        positive = Apply("max", (X(), Constant(0)))
        return Apply("+", (positive, Apply("log", (Apply("+", (Constant(1), tail)),))))

    def known(self) -> Curve:
        return super().known()._replace(start=math.nextafter(math.log(2), 1))

    def reference(self, x: Any, weight: torch.Tensor | None = None) -> Any:
        return x.relu() + (-x.abs()).exp().log1p()


@register
@dataclass(frozen=True)
class Exp(Called):
    """y = exp(x), entry by entry.

    Its slope is its value, which has no bound: what is certified is that of the largest entry that
    the input may have. Declared 1, the slope at 0.
    """

    name = "Exp"
    call = "torch.exp"
    origin = "the slope at 0"

    sensitivity = 1
    certified = "its slope is its value, which has no bound where the input has none"
    sharpness = Sharpness(0.0, 0.0, 1.0)  # at 0

    def curve(self) -> Node | None:
        return Apply("exp", (X(),))

    def known(self) -> Curve:
        return Curve(start=1.0)

    def reference(self, x: Any, weight: torch.Tensor | None = None) -> Any:
        return x.expm1() + 1


@register
@dataclass(frozen=True)
class ReLU2(Elementwise):
    """y = max(x, 0)², entry by entry.

    Its slope 2·max(x, 0) has no bound: what is certified is that of the largest entry that the
    input may have. Declared √2, the RMS slope that a standard normal input meets.

    Source: So et al. 2021 (arXiv 2109.08668).
    """

    name = "ReLU2"
    origin = "typical value: √2, the RMS slope over a standard normal input"

    sensitivity = 2**0.5
    certified = "its slope is twice the input, which may have no bound"
    sharpness = Sharpness(0.0, 0.0, 2.0)

    def most(self, order: int, high: float) -> float:
        return (product(high, high), product(2.0, high), 2.0)[order]

    def sizes(self, x: Sequence[Edge], type: Type) -> list[dict[Measure, Bound]]:
        (edge,) = x
        largest = edge.high(LARGEST)
        return [{m: Bound(0.0, product(largest, edge.high(m))) for m in edge.tracked}]

    def absorb(self, scalars: tuple[Real, ...]) -> tuple[Op, Real] | None:
        (a,) = scalars
        try:
            square = a * a
            known = float(square) not in (0.0, math.inf)
        except OverflowError:
            return None
        return (self, square) if a > 0 and known else None

    def reference(self, x: Any, weight: torch.Tensor | None = None) -> Any:
        return x.square() * (x > 0)

    def emit(self, x: Any, type: Type, own: str) -> str:
        return f"F.relu({x}).square()"


@register
@dataclass(frozen=True)
class Softcap(Elementwise):
    """y = c·tanh(x/c), entry by entry: entries stay between -c and c.

    As for logits: `Softcap(30) @ readout`. The sensitivity 1 is the slope at 0, the largest.
    """

    name = "Softcap"

    c: Real = argument("number")

    sensitivity = 1
    certified = 1

    def resolve(self, x: Type) -> tuple[Self, Type]:
        if as_float(self.name, "c", self.c) <= 0:
            raise Misfit(
                "`c` of `Softcap` must be positive: it is the largest entry",
                hint="such as `Softcap(30)`",
                argument="c",
                code="E302",
            )
        return super().resolve(x)

    @property
    def sharpness(self) -> Sharpness | None:
        return Sharpness(0.0, 0.0, 0.769801 / float(self.c))  # that of tanh

    def curve(self) -> Node | None:
        c = float(self.c)
        return Apply("*", (Constant(c), Apply("tanh", (Apply("*", (Constant(1 / c), X())),))))

    def known(self) -> Curve:
        return super().known()._replace(value=float(self.c))

    def absorb(self, scalars: tuple[Real, ...]) -> tuple[Op, Real] | None:
        a = magnitude(scalars[0])
        try:
            c = self.c / a if isinstance(a, float) else self.c / Fraction(a)
            if not 1e-300 < float(c) < 1e300:
                return None
        except (OverflowError, ZeroDivisionError):
            return None
        return Softcap(c), scalars[0]

    def reference(self, x: Any, weight: torch.Tensor | None = None) -> Any:
        c = float(self.c)
        return c * (1 - 2 / ((2 * x / c).exp() + 1))

    def emit(self, x: Any, type: Type, own: str) -> str:
        c = number(self.c)
        inside = f"{x} / ({c})" if "/" in c else f"{x} / {c}"
        return times(self.c, f"torch.tanh({x if self.c == 1 else inside})")


@register
@dataclass(frozen=True)
class Softmax(Bond):
    """y = exp(s·x) / Σ exp(s·x) along the last axis, with s = `scale`.

    Its sensitivity |s| is from the largest entry of x to the sum of the entries of y, where it is
    attained; from RMS to RMS it is half of that.
    """

    name = "Softmax"
    by_vector = True

    scale: Real = argument("number", 1)

    def resolve(self, x: Type) -> tuple[Self, Type]:
        x = expect_tensor(self.name, x, rank=1)
        if as_float(self.name, "scale", self.scale) == 0:
            raise Misfit(
                "`Softmax` with scale 0 does not depend on its input",
                hint="give `scale` a positive number",
                argument="scale",
                code="E306",
            )
        return self, x

    @property
    def sensitivity(self) -> Real:
        return magnitude(self.scale)

    @property
    def certified(self) -> Real | str:
        return magnitude(self.scale)

    def gains(self, x: Sequence[Edge], type: Type) -> Matrix | str:
        s, last = abs(float(self.scale)), x[0].last
        return between(
            (LARGEST, Measure(last.axes, True), s), (LARGEST, LARGEST, s / 2), (last, last, s / 2)
        )

    def sizes(self, x: Sequence[Edge], type: Type) -> list[dict[Measure, Bound]]:
        last = x[0].last  # positive entries that sum to 1
        share = 1 / conversion(x[0].type.shape, last, LARGEST) ** 2  # 0 where it is not known
        return [
            {
                Measure(last.axes, True): Bound(0.0, 1.0),
                last: Bound(share, math.sqrt(share) if share else 1.0),
                LARGEST: Bound(0.0, 1.0),
            }
        ]

    def curvature(self, x: Sequence[Edge], type: Type) -> Form | str:
        largest, total = (0, LARGEST), (0, Measure(x[0].last.axes, True))
        return {(largest, largest): {total: float(self.scale) ** 2}}

    @property
    def sharpness(self) -> Sharpness | None:
        return Sharpness(0.0, 0.0, float(self.scale) * float(self.scale))

    def absorb(self, scalars: tuple[Real, ...]) -> tuple[Op, Real] | None:
        return Softmax(self.scale * scalars[0]), 1

    def reference(self, x: Any, weight: torch.Tensor | None = None) -> Any:
        x = float(self.scale) * x
        e = (x - x.amax(-1, keepdim=True)).exp()
        return e / e.sum(-1, keepdim=True)

    def emit(self, x: Any, type: Type, own: str) -> str:
        if self.scale == 1:
            return f"F.softmax({x}, dim=-1)"
        return f"F.softmax({times(self.scale, f'widened({x})')}, dim=-1).to({x}.dtype)"

    def helpers(self) -> tuple[str, ...]:
        return () if self.scale == 1 else (copied("widened"),)


@register
@dataclass(frozen=True)
class LogSoftmax(Bond):
    """y = x - log Σ exp(x) along an axis, by default the last: logarithms of shares that sum to 1.

    Its sensitivity is less than 2 in the largest entry, and up to √n in the RMS over n entries.
    Declared 1. A cross-entropy loss takes logits, and needs none before it.
    """

    name = "LogSoftmax"
    origin = "typical value; in the largest entry less than 2"

    dim: int = argument("axis", -1)

    @property
    def by_vector(self) -> bool:
        return self.dim == -1

    sensitivity = 1
    certified = 2
    sharpness = Sharpness(0.0, 0.0, 1.0)

    def resolve(self, x: Type) -> tuple[Self, Type]:
        x = expect_tensor(self.name, x, rank=1)
        axis = index_of(self.name, self.dim, x, "dim")
        return dataclasses.replace(self, dim=one_axis(axis, len(x.shape))), x

    def _count(self, x: Sequence[Edge]) -> float:
        """The number of entries along the axis; infinite where it is not known."""
        shape = x[0].type.shape
        return conversion(shape, Measure((self.dim % len(shape),)), LARGEST) ** 2

    def gains(self, x: Sequence[Edge], type: Type) -> Matrix | str:
        """The derivative is I - 1pᵀ, whose largest singular value is √n·|p|."""
        (edge,) = x
        n, axis = self._count(x), self.dim % len(edge.type.shape)
        # p is at most that of an entry at one end of the range, the others at the other end
        spread = _exp(-2 * edge.high(LARGEST))
        most = 1 / (1 + (n - 1) * spread) if math.isfinite(n) and spread else 1.0
        pairs = [(LARGEST, LARGEST, 2.0)]
        if math.isfinite(n):
            stretch = math.sqrt(n * most) * (1 + 1e-12)
            pairs += [(m, m, stretch) for m in edge.tracked if axis in m.axes]
        return between(*pairs)

    def at_zero(self, x: Sequence[Edge], type: Type) -> Mapping[Measure, float] | None:
        n = self._count(x)
        return dict.fromkeys(x[0].tracked, math.log(n)) if math.isfinite(n) else None

    def sizes(self, x: Sequence[Edge], type: Type) -> list[dict[Measure, Bound]]:
        """No entry is above 0, and none further below than the range and log n."""
        n = self._count(x)
        high = 2 * x[0].high(LARGEST) + math.log(n) if math.isfinite(n) else math.inf
        return [{LARGEST: Bound(0.0, high)}]

    def curvature(self, x: Sequence[Edge], type: Type) -> Form | str:
        """The second derivative is a covariance, which is the same for all entries."""
        largest = (0, LARGEST)
        return {(largest, largest): {largest: 1.0}}

    def reference(self, x: Any, weight: torch.Tensor | None = None) -> Any:
        x = x - x.amax(self.dim, keepdim=True)
        return x - x.exp().sum(self.dim, keepdim=True).log()

    def emit(self, x: Any, type: Type, own: str) -> str:
        return f"F.log_softmax({x}, dim={self.dim})"


def _exp(x: float) -> float:
    return math.exp(x) if x > -700 else 0.0
