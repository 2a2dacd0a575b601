"""`Mean`, `AvgPool` and `MaxPool`."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from modnorm.ops.base import Advice, Bond, Misfit, Op, Sharpness, argument, expect_tensor
from modnorm.ops.edges import LARGEST, Edge, Matrix, Measure, between
from modnorm.ops.families import LinearBond
from modnorm.ops.registry import register
from modnorm.ops.shapes import Axes, axes, image, indices
from modnorm.ops.types import Real, Size, Symbol, Tensor, Type, quotient

if TYPE_CHECKING:
    import torch


@register
@dataclass(frozen=True)
class Mean(LinearBond):
    """The mean along an axis or a tuple of axes, which are gone in the output."""

    name = "Mean"

    dim: Axes = argument("axes")

    def resolve(self, x: Type) -> tuple[Self, Type]:
        x = expect_tensor(self.name, x)
        dim = axes(self.name, self.dim, x)
        gone = indices(dim, len(x.shape))
        shape = tuple(size for axis, size in enumerate(x.shape) if axis not in gone)
        return dataclasses.replace(self, dim=dim), Tensor("float", shape)

    def gains(self, x: Sequence[Edge], type: Type) -> Matrix | str:
        rank = len(x[0].type.shape)
        gone = indices(self.dim, rank)
        kept = [axis for axis in range(rank) if axis not in gone]
        pairs = []
        for measure in x[0].tracked:  # a mean is at most the RMS, and at most the largest
            left = (kept.index(axis) for axis in measure.axes if axis not in gone)
            pairs.append((measure, Measure(tuple(left)), 1.0))
        return between(*pairs)

    def reference(self, x: Any, weight: torch.Tensor | None = None) -> Any:
        for axis in reversed(indices(self.dim, x.ndim)):
            x = x.sum(axis) / x.shape[axis]
        return x

    def emit(self, x: Any, type: Type) -> str:
        return f"{x}.mean(dim={self.dim})"


@register
@dataclass(frozen=True)
class AvgPool(LinearBond):
    """Averages over `size` × `size` windows that cover an image (batch, channels, h, w).

    Where `size` does not divide h and w the windows overlap, as in torch's adaptive pooling. The
    sensitivity 1 is in the norm that takes the largest pixel; measured by the RMS over all pixels,
    overlapping windows exceed it slightly (1.06 from 3 to 2).
    """

    name = "AvgPool"

    size: int = argument("size", 1)

    def resolve(self, x: Type) -> tuple[Self, Type]:
        batch, channels, *_ = image(self.name, x).shape
        return self, Tensor("float", (batch, channels, self.size, self.size))

    def gains(self, x: Sequence[Edge], type: Type) -> Matrix | str:
        assert isinstance(type, Tensor)
        pixel, whole = Measure((1,)), Measure((1, 2, 3))
        pairs = [(pixel, pixel, 1.0), (LARGEST, LARGEST, 1.0)]
        if all(quotient(size, self.size) is not None for size in type.shape[2:]):
            pairs.append((whole, whole, 1.0))
        return between(*pairs)

    def reference(self, x: Any, weight: torch.Tensor | None = None) -> Any:
        import torch

        for axis in (2, 3):
            n = x.shape[axis]
            windows = [
                x.narrow(axis, start, end - start).mean(axis)
                for i in range(self.size)
                for start, end in [(i * n // self.size, -(-(i + 1) * n // self.size))]
            ]
            x = torch.stack(windows, axis)
        return x

    def emit(self, x: Any, type: Type) -> str:
        return f"F.adaptive_avg_pool2d({x}, {self.size})"


@register
@dataclass(frozen=True)
class MaxPool(Bond):
    """The largest entry of each `size` × `size` window of an image (batch, channels, h, w).

    The windows do not overlap; what is left at the edges is dropped. Declared 1, which holds for
    the largest entry; in the RMS over channels, different channels may pick different pixels, which
    costs up to `size`.
    """

    name = "MaxPool"
    origin = "typical value; not in modula"

    size: int = argument("size", 2)

    def resolve(self, x: Type) -> tuple[Self, Type]:
        batch, channels, *sides = image(self.name, x).shape
        small = next((s for s in sides if isinstance(s, int) and s < self.size), None)
        if small is not None:
            raise Misfit(
                f"`MaxPool` takes windows of {self.size} × {self.size} pixels, more than its input"
                f" {x} has",
                argument="size",
            )
        return self, Tensor("float", (batch, channels, *(_whole(s, self.size) for s in sides)))

    @property
    def sensitivity(self) -> Real:
        return 1

    @property
    def certified(self) -> Real | str:
        return self.size

    @property
    def sharpness(self) -> Sharpness | None:
        return None

    def gains(self, x: Sequence[Edge], type: Type) -> Matrix | str:
        assert isinstance(type, Tensor)
        pixel, whole, size = Measure((1,)), Measure((1, 2, 3)), float(self.size)
        pairs = [(pixel, pixel, size), (LARGEST, LARGEST, 1.0)]
        if all(isinstance(s, int) for s in type.shape[2:]):
            # all of an image in as few windows as there are
            sides = [s for s in type.shape[2:] if isinstance(s, int)]
            pairs.append((whole, whole, math.prod(math.sqrt(s / (s // self.size)) for s in sides)))
        elif all(quotient(s, self.size) is not None for s in type.shape[2:]):
            pairs.append((whole, whole, size))
        return between(*pairs)

    def advice(self, x: Sequence[Edge], type: Type) -> tuple[Advice, ...]:
        if self.size == 1:
            return ()
        return (
            Advice(
                "A604",
                f"the largest of {self.size} × {self.size} pixels has sensitivity {self.size} in"
                " the RMS over channels, and 1 only in the largest entry",
                "average instead: `AvgPool(size)`, or `Conv2D` with a stride, have 1",
            ),
        )

    def absorb(self, scalars: tuple[Real, ...]) -> tuple[Op, Real] | None:
        return (self, scalars[0]) if scalars[0] > 0 else None

    def reference(self, x: Any, weight: torch.Tensor | None = None) -> Any:
        for axis in (2, 3):
            count = x.shape[axis] // self.size
            x = x.narrow(axis, 0, count * self.size).unflatten(axis, (count, self.size))
            x = x.amax(axis + 1)
        return x

    def emit(self, x: Any, type: Type) -> str:
        return f"F.max_pool2d({x}, {self.size})"


def _whole(size: Size, divisor: int) -> Size:
    """How often the divisor goes into a size."""
    if isinstance(size, int):
        return size // divisor
    exact = quotient(size, divisor)
    return Symbol((f"({size} // {divisor})",)) if exact is None else exact
