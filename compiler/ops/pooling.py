"""`Mean` and `AvgPool`."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from modnorm.ops.base import argument, expect_tensor
from modnorm.ops.families import LinearBond, root
from modnorm.ops.registry import register
from modnorm.ops.shapes import Axes, axes, image, indices
from modnorm.ops.types import Real, Tensor, Type

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

    def certified_at(self, high: Any, type: Type) -> Real | str:
        assert isinstance(type, Tensor)
        left = len(type.shape) - len(indices(self.dim, len(type.shape)))
        if len(type.shape) == 4 and left == 3 and self.dim != 1:
            return root(type.shape[1])  # an image's channels are no longer what the norm averages
        return 1

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
