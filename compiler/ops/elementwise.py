"""Elementwise nonlinearities, and softmax."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from modnorm.ops.base import Bond, Misfit, Op, Sharpness, argument, expect_tensor
from modnorm.ops.edges import LARGEST, Bound, Edge, Form, Matrix, Measure, between, conversion
from modnorm.ops.families import Elementwise, magnitude
from modnorm.ops.formula_tree import Apply, Constant, Node, X
from modnorm.ops.registry import register
from modnorm.ops.text import as_float, copied, times
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

    @property
    def sensitivity(self) -> Real:
        return 1

    @property
    def certified(self) -> Real | str:
        return 1

    @property
    def sharpness(self) -> Sharpness | None:
        return None

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

    @property
    def sensitivity(self) -> Real:
        return HALF_POWER

    @property
    def certified(self) -> Real | str:
        return 1

    @property
    def sharpness(self) -> Sharpness | None:
        return None

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

    @property
    def sensitivity(self) -> Real:
        return HALF_POWER

    @property
    def certified(self) -> Real | str:
        return 1.12891

    @property
    def sharpness(self) -> Sharpness | None:
        return Sharpness(0.0, 0.0, 0.797885)  # √(2/π) = 0.79788456…, at 0

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

    @property
    def sensitivity(self) -> Real:
        return 1

    @property
    def certified(self) -> Real | str:
        return 1.09984

    @property
    def sharpness(self) -> Sharpness | None:
        return Sharpness(0.0, 0.0, 0.5)

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

    @property
    def sensitivity(self) -> Real:
        return 1

    @property
    def certified(self) -> Real | str:
        return 1

    @property
    def sharpness(self) -> Sharpness | None:
        return Sharpness(0.0, 0.0, 0.769801)  # 4/(3√3) = 0.76980035…

    def curve(self) -> Node | None:
        return Apply("tanh", (X(),))

    def absorb(self, scalars: tuple[Real, ...]) -> tuple[Op, Real] | None:
        return (self, -1) if scalars[0] == -1 else None

    def reference(self, x: Any, weight: torch.Tensor | None = None) -> Any:
        return 1 - 2 / ((2 * x).exp() + 1)


@register
@dataclass(frozen=True)
class Softmax(Bond):
    """y = exp(s·x) / Σ exp(s·x) along the last axis, with s = `scale`.

    Its sensitivity |s| is from the largest entry of x to the sum of the entries of y, where it is
    attained; from RMS to RMS it is half of that.
    """

    name = "Softmax"

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
