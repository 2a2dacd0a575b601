"""`Bias` and `Scale`: a vector added, a gain for each channel."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Self

from modnorm.ops.base import (
    Advice,
    Atom,
    Misfit,
    Norm,
    Op,
    Sharpness,
    argument,
    expect_tensor,
)
from modnorm.ops.edges import LARGEST, Bound, Edge, Matrix, Measure, conversion, each_measure
from modnorm.ops.registry import register
from modnorm.ops.shapes import entries, index_of, is_routed, of_experts, one_axis
from modnorm.ops.text import copied, expression, parts
from modnorm.ops.types import Real, Tensor, Type

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Vector(Atom):
    """A vector along one axis: that of the channels, or the one that `axis` names."""

    axes: ClassVar[tuple[str, ...]] = ("size",)

    size: int | None = argument("size", inferred=True)
    axis: int | None = argument("axis", inferred=True, named=True)
    at: int | None = field(default=None, kw_only=True)
    """That axis, once it is known."""
    apart: bool = field(default=False, kw_only=True)
    """Whether it is another than that of the channels."""

    def resolve(self, x: Type) -> tuple[Self, Type]:
        x = expect_tensor(self.label, x, rank=1)
        axis = self.axis if self.at is None else self.at
        at = x.channels if axis is None else index_of(self.name, axis, x, "axis")
        if self.axis is not None and x.roles[at] == "batch":
            raise Misfit(
                f"`{self.name}` names axis {self.axis} of {x}, which is the batch",
                hint="a weight cannot have an entry for each example; axes of one begin at 1",
                argument="axis",
            )
        named = () if self.axis is None else ("place", "axis")
        size = entries(self.label, x, at, self.size, *named)
        apart = at != x.channels if self.at is None else self.apart
        at = one_axis(at, len(x.shape))
        return dataclasses.replace(self, size=size, at=at, apart=apart), x

    def cautions(self, x: Type) -> tuple[Advice, ...]:
        assert isinstance(x, Tensor)
        if self.axis is not None or not x.is_image or x.axis("channel") is not None:
            return ()
        what = f"`{self.name}` takes {x} for images, with {x.shape[1]} channels along axis 1"
        hint = "nothing says what its axes are: write"
        hint += f" `{self.name}(axis = 1)`, or `{self.name}(axis = -1)` for the last one"
        return (Advice("W607", what, hint),)

    @property
    def weight_shape(self) -> tuple[int, ...]:
        assert self.size is not None, "not resolved"
        return (self.size,)

    def _index(self, type: Type) -> int:
        """The axis, from 0."""
        assert isinstance(type, Tensor)
        assert self.at is not None, "not resolved"
        return self.at % len(type.shape)

    def _aligned(self, type: Type, own: str) -> str:
        """The weight, with an axis of size 1 for each axis behind its own."""
        assert isinstance(type, Tensor)
        behind = len(type.shape) - 1 - self._index(type)
        return f"{own}.weight[:{', None' * behind}]" if behind else f"{own}.weight"

    def _of_experts(self, cls: type[ExpertVector], count: int) -> Op | None:
        """One for each expert, for a vector along the last axis."""
        if self.axis not in (None, -1):
            return None
        begins = {"mass": self.mass, "init_": self.init_, "std": self.std}
        return cls(self.size, experts=count, **begins)

    def _along_last(self, x: torch.Tensor) -> torch.Tensor:
        """The input, or the output, with the vector's axis in the place of the last."""
        assert self.at is not None, "not resolved"
        return x.transpose(self.at, -1)


@register
@dataclass(frozen=True)
class Bias(Vector):
    """y = x + b, a number for each channel: the last axis, axis 1 of an image, or `axis`.

    It begins at zero, so its norm is 0 at first. Along another axis than that of the channels, over
    which values are measured by the largest, its norm is max |b|.
    """

    name = "Bias"
    begins_at_zero = True
    init = "nn.init.zeros_(weight)"

    sharpness = Sharpness(0.0, 0.0, 0.0)

    @property
    def norm(self) -> Norm:
        return Norm("max", "max |b|") if self.apart else Norm("rms", "RMS(b)")

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
        own = LARGEST if self.apart else Measure((self._index(edge.type),))
        return {m: conversion(edge.type.shape, own, m) for m in edge.tracked}

    def weight_norm(self, weight: torch.Tensor) -> torch.Tensor:
        return weight.abs().amax() if self.apart else weight.square().mean().sqrt()

    def dualize(self, gradient: torch.Tensor) -> torch.Tensor:
        if self.apart:
            return gradient.sign()
        rms = gradient.square().mean().sqrt()
        return gradient / rms.masked_fill(rms == 0, 1)

    def reference(self, x: Any, weight: torch.Tensor | None = None) -> Any:
        assert weight is not None
        return self._along_last(self._along_last(x) + weight)

    def emit(self, x: Any, type: Type, own: str) -> str:
        return f"{x} + {self._aligned(type, own)}"

    def stacked(self, count: int) -> Op | None:
        return self._of_experts(ExpertBias, count)


@register
@dataclass(frozen=True)
class Scale(Vector):
    """y = g·x, a gain for each channel: the last axis, axis 1 of an image, or `axis`.

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
        return self._along_last(self._along_last(x) * weight)

    def emit(self, x: Any, type: Type, own: str) -> str:
        return f"{x} * {self._aligned(type, own)}"

    def stacked(self, count: int) -> Op | None:
        return self._of_experts(ExpertScale, count)


@dataclass(frozen=True)
class ExpertVector(Vector):
    """A vector for each expert: (…, experts, size) → the same."""

    internal = True
    function: ClassVar[str]
    sign: ClassVar[str]
    """The torch function of an input and a vector, and the operator."""
    axes = ("experts", "size")

    experts: int = argument("size", 1, named=True)

    def resolve(self, x: Type) -> tuple[Self, Type]:
        last = dataclasses.replace(self, at=-1)
        return super(ExpertVector, last).resolve(of_experts(self, x, self.experts))

    @property
    def weight_shape(self) -> tuple[int, ...]:
        return (self.experts, *super().weight_shape)

    def emit(self, x: Any, type: Type, own: str) -> str:
        if is_routed(type):
            rows, sizes = map(expression, parts(x, 2))
            return f"of_each(torch.{self.function}, {rows}, {sizes}, {own}.weight)"
        return f"{x} {self.sign} {own}.weight"

    def helpers(self) -> tuple[str, ...]:
        return (copied("of_each"),)

    def stacked(self, count: int) -> Op | None:
        return None


@register
@dataclass(frozen=True)
class ExpertBias(ExpertVector, Bias):
    """`Bias` with a vector for each expert, measured by the largest of them."""

    name = "ExpertBias"
    function, sign = "add", "+"
    label = "Bias"
    norm = Norm("row_rms", "max over experts of RMS(b)")

    def weight_norm(self, weight: torch.Tensor) -> torch.Tensor:
        return weight.square().mean(dim=1).sqrt().amax()

    def dualize(self, gradient: torch.Tensor) -> torch.Tensor:
        rms = gradient.square().mean(dim=1, keepdim=True).sqrt()
        return gradient / rms.masked_fill(rms == 0, 1)


@register
@dataclass(frozen=True)
class ExpertScale(ExpertVector, Scale):
    """`Scale` with a vector for each expert, measured by the largest entry of all."""

    name = "ExpertScale"
    function, sign = "mul", "*"
    label = "Scale"
