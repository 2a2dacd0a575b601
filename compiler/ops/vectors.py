"""`Bias` and `Scale`: a vector added, a gain for each channel."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from modnorm.ops.base import Atom, Norm, Op, Sharpness, argument
from modnorm.ops.edges import (
    Bound,
    Edge,
    Matrix,
    Measure,
    channel_axis,
    conversion,
    each_measure,
)
from modnorm.ops.registry import register
from modnorm.ops.shapes import channels
from modnorm.ops.types import Real, Tensor, Type

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Vector(Atom):
    """A vector along the channels: axis 1 of an image (four axes), else the last axis."""

    axes = ("size",)
    takes_images = True

    size: int | None = argument("size", inferred=True)

    def resolve(self, x: Type) -> tuple[Self, Type]:
        x, size = channels(self.name, x, self.size)
        return dataclasses.replace(self, size=size), Tensor("float", x.shape)

    @property
    def weight_shape(self) -> tuple[int, ...]:
        assert self.size is not None, "not resolved"
        return (self.size,)

    def _aligned(self, type: Type) -> str:
        assert isinstance(type, Tensor)
        return "{weight}[:, None, None]" if len(type.shape) == 4 else "{weight}"


@register
@dataclass(frozen=True)
class Bias(Vector):
    """y = x + b, a number for each channel: axis 1 of an image (four axes), else the last axis.

    It begins at zero, so its norm is 0 at first.
    """

    name = "Bias"
    norm = Norm("rms", "RMS(b)")
    init = "nn.init.zeros_(weight)"

    def gains(self, x: Sequence[Edge], type: Type) -> Matrix | str:
        return each_measure(x)

    def sizes(self, x: Sequence[Edge], type: Type) -> list[dict[Measure, Bound]]:
        found = {}
        for measure, by in self.pushes(x, type).items():
            low, high = x[0].low(measure), x[0].high(measure)
            found[measure] = Bound(max(low - by, 0.0), high + by)
        return [found]

    def at_zero(self, x: Sequence[Edge], type: Type) -> Mapping[Measure, float] | None:
        return self.pushes(x, type)

    def pushes(self, x: Sequence[Edge], type: Type) -> dict[Measure, float]:
        (edge,) = x
        own = Measure((channel_axis(edge.type),))
        return {m: conversion(edge.type.shape, own, m) for m in edge.tracked}

    @property
    def sharpness(self) -> Sharpness | None:
        return Sharpness(0.0, 0.0, 0.0)

    def weight_norm(self, weight: torch.Tensor) -> torch.Tensor:
        return weight.square().mean().sqrt()

    def dualize(self, gradient: torch.Tensor) -> torch.Tensor:
        rms = gradient.square().mean().sqrt()
        return gradient / rms.masked_fill(rms == 0, 1)

    def reference(self, x: Any, weight: torch.Tensor | None = None) -> Any:
        assert weight is not None
        return (x.movedim(1, -1) + weight).movedim(-1, 1) if x.ndim == 4 else x + weight

    def emit(self, x: Any, type: Type) -> str:
        return f"{x} + {self._aligned(type)}"


@register
@dataclass(frozen=True)
class Scale(Vector):
    """y = g·x, a gain for each channel: axis 1 of an image (four axes), else the last axis.

    It begins at ones.
    """

    name = "Scale"
    norm = Norm("max", "max |g|")
    init = "nn.init.ones_(weight)"

    def gains(self, x: Sequence[Edge], type: Type) -> Matrix | str:
        return each_measure(x)

    def absorb(self, scalars: tuple[Real, ...]) -> tuple[Op, Real] | None:
        return self, scalars[0]

    def weight_norm(self, weight: torch.Tensor) -> torch.Tensor:
        return weight.abs().amax()

    def dualize(self, gradient: torch.Tensor) -> torch.Tensor:
        return gradient.sign()

    def reference(self, x: Any, weight: torch.Tensor | None = None) -> Any:
        assert weight is not None
        return (x.movedim(1, -1) * weight).movedim(-1, 1) if x.ndim == 4 else x * weight

    def emit(self, x: Any, type: Type) -> str:
        return f"{x} * {self._aligned(type)}"
