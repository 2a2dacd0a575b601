"""`Parameter`: a learned value that does not depend on the input."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from modnorm.ops.base import INITS, Misfit, argument, expect_tensor
from modnorm.ops.edges import Bound, Edge, Measure, conversion, slots, tracked
from modnorm.ops.embed import Rows
from modnorm.ops.families import IgnoresInput
from modnorm.ops.registry import register
from modnorm.ops.types import Role, Tensor, TupleType, Type, vectors

if TYPE_CHECKING:
    import torch


@register
@dataclass(frozen=True)
class Parameter(IgnoresInput, Rows):
    """A learned tensor, the same for every example and whatever the input is: (batch, sizes…).

    `Concat(1) @ (Parameter(1, d), x)` puts a token of its own before others, `Parameter(n, d)` are
    n queries, `x + Parameter(1, d)` adds one vector to every token. `Parameter()` is a number, of
    no axes: `Parameter(init = "one") * x` is a learned factor. Only the batch is taken from the
    input. `init` is `"normal"`, rows of RMS 1, `"zero"` or `"one"`. It is stored as a matrix whose
    rows go along the last axis, and its norm is the largest RMS of one; that of a number is its
    size. Its sensitivity is 0: what stands before it would never learn, which is an error.
    """

    name = "Parameter"
    origin = "proved: it does not depend on its input"

    sizes_: tuple[int, ...] = argument("sizes", ())
    init_: str = argument("choice", "normal", named=True, choices=(*INITS, "one"))

    def resolve(self, x: Type) -> tuple[Self, Type]:
        if -1 in self.sizes_:
            raise Misfit(
                "`Parameter` has -1 for a size, and nothing that it follows from",
                hint="give it a number",
                argument="sizes",
                code="E302",
            )
        if not self.sizes_:
            return self, Tensor("float", ())
        first = slots(x)[:1] or (x,)
        one = expect_tensor(self.name, first[0], rank=1, dtype="any")
        lead: list[Role] = ["batch" if one.roles[0] == "batch" else "other"]
        lead += ["other"] * (len(self.sizes_) - 1)
        return self, vectors((one.shape[0], *self.sizes_), lead)

    @property
    def beginning(self) -> str:
        if self.init_ == "one":
            return "nn.init.ones_(weight)"
        return self.init if self.init_ == "normal" and self.std is None else super().beginning

    @property
    def weight_shape(self) -> tuple[int, ...]:
        *lead, last = self.sizes_ or (1,)
        return (math.prod(lead), last)

    def pushes(self, x: Sequence[Edge], type: Type) -> dict[Measure, float]:
        (out,) = slots(self.resolve(type)[1])
        row = Measure((len(out.shape) - 1,) if out.shape else ())
        return {m: conversion(out.shape, row, m) for m in tracked(out)}

    def sizes(self, x: Sequence[Edge], type: Type) -> list[dict[Measure, Bound]]:
        return [{m: Bound(0.0, high) for m, high in self.pushes(x, type).items()}]

    def at_zero(self, x: Sequence[Edge], type: Type) -> Mapping[Measure, float] | None:
        return self.pushes(x, type)

    def reference(self, x: Any, weight: torch.Tensor | None = None) -> Any:
        assert weight is not None
        if not self.sizes_:
            return weight.sum()
        while isinstance(x, tuple):
            x = x[0]
        one = weight.new_ones((x.shape[0], 1, 1))
        return (one * weight).reshape(x.shape[0], *self.sizes_)

    def emit(self, x: Any, type: Type, own: str) -> str:
        rank = len(self.sizes_)
        if not rank:
            return f"{own}.weight[0, 0]"
        while isinstance(type, TupleType):
            x, type = (x[0] if isinstance(x, tuple) else f"{x}[0]"), type.members[0]
        matrix = f"{own}.weight" if rank < 3 else f"{own}.weight.view{self.sizes_}"
        return f"{matrix}.expand({', '.join((f'{x}.shape[0]', *['-1'] * rank))})"
