"""`MeanSubtract`, `RMSDivide`, and the two fused: `LayerNorm`."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Self

from modnorm.ops.base import Misfit, Op, Sharpness, argument
from modnorm.ops.families import AlongAxes, LinearBond
from modnorm.ops.registry import register
from modnorm.ops.shapes import Axes, indices
from modnorm.ops.text import as_float, number
from modnorm.ops.types import Real, Tensor, Type

if TYPE_CHECKING:
    import torch

USEFUL = 10
"""A bound 1/√eps larger than this says nothing, and is not given."""


def along_channels(dim: Axes, type: Type) -> bool:
    """Whether the axis is the one along which a value's norm is the RMS.

    Of four axes that is axis 1 of an image, or the last of a value split into heads.
    """
    assert isinstance(type, Tensor)
    return dim == -1 or (dim == 1 and len(type.shape) == 4)


@register
@dataclass(frozen=True)
class MeanSubtract(AlongAxes, LinearBond):
    """y = x - mean(x) along an axis or a tuple of axes."""

    name = "MeanSubtract"

    def certified_at(self, high: Any, type: Type) -> Real | str:
        return 1 if along_channels(self.dim, type) else 2

    def reach(self, high: Any, type: Type) -> Any:
        return float(2 - along_channels(self.dim, type)) * high

    def reference(self, x: Any, weight: torch.Tensor | None = None) -> Any:
        return x - x.mean(dim=self.dim, keepdim=True)

    def emit(self, x: Any, type: Type) -> str:
        return f"{x} - {x}.mean(dim={self.dim}, keepdim=True)"


@dataclass(frozen=True)
class Normalization(AlongAxes):
    """Division by a root mean square with eps inside the root."""

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

    def certified_at(self, high: Any, type: Type) -> Real | str:
        if along_channels(self.dim, type):
            return self.certified
        return f"`{self.name}` along {self.dim} divides channels by what other places hold"

    def reach(self, high: Any, type: Type) -> Any:
        return 1.0 if along_channels(self.dim, type) else math.inf

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

    def emit(self, x: Any, type: Type) -> str:
        shape, eps = self.trailing(type), number(self.eps)
        if shape is not None:
            return f"F.rms_norm({x}, {shape.format(x=x)}, eps={eps})"
        return f"{x} * torch.rsqrt({x}.square().mean(dim={self.dim}, keepdim=True) + {eps})"


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

    def reference(self, x: Any, weight: torch.Tensor | None = None) -> Any:
        x = x - x.mean(dim=self.dim, keepdim=True)
        return x / (x.square().mean(dim=self.dim, keepdim=True) + float(self.eps)).sqrt()

    def emit(self, x: Any, type: Type) -> str:
        shape, eps = self.trailing(type), number(self.eps)
        if shape is not None:
            return f"F.layer_norm({x}, {shape.format(x=x)}, eps={eps})"
        mean = f"{x}.mean(dim={self.dim}, keepdim=True)"
        var = f"{x}.var(dim={self.dim}, correction=0, keepdim=True)"
        return f"({x} - {mean}) * torch.rsqrt({var} + {eps})"
