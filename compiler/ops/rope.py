"""`RoPE`: rotary position embedding."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from modnorm.ops.base import Misfit, argument, expect_tensor
from modnorm.ops.edges import Bound, Edge, Matrix, Measure, reached
from modnorm.ops.families import LinearBond
from modnorm.ops.registry import register
from modnorm.ops.shapes import each, known, map_each
from modnorm.ops.text import as_float, copied, expression, number, parts
from modnorm.ops.types import Real, Tensor, TupleType, Type, vectors

if TYPE_CHECKING:
    import torch


@register
@dataclass(frozen=True)
class RoPE(LinearBond):
    """Rotary position embedding of (…, seq, d), or of each member of a tuple, with even d.

    At position t, entries i and i + d/2 turn together by the angle t·base^(-2i/d): the halves are
    paired, as in the Llama and GPT-NeoX models of the transformers library; with `interleaved`,
    neighbours are, entries 2i and 2i + 1, as in its GPT-J model. It is an orthogonal map, so its
    sensitivity is 1. For queries and keys only: `(RoPE @ q, RoPE @ k, v)`.

    With `fraction` only the first `fraction`·d entries turn, which then count as d in the angle.
    Positions are t = scale·(offset + 0, 1, …): a `scale` of 1/4 puts four times the context where
    there was one (linear interpolation).

    Sources: Su et al. 2021 (arXiv 2104.09864); Chen et al. 2023 (arXiv 2306.15595) for `scale`.
    """

    name = "RoPE"

    base: Real = argument("number", 10000)
    offset: int = argument("index", 0)
    fraction: Real = argument("number", 1)
    scale: Real = argument("number", 1)
    interleaved: bool = argument("flag", False)

    def along(self, x: Type) -> tuple[int, ...]:
        return (len(x.shape) - 2,) if isinstance(x, Tensor) else ()

    def resolve(self, x: Type) -> tuple[Self, Type]:
        if as_float(self.name, "base", self.base) <= 0:
            raise Misfit(
                "`base` of `RoPE` must be positive: its powers are frequencies",
                argument="base",
                code="E302",
            )
        if not 0 < as_float(self.name, "fraction", self.fraction) <= 1:
            raise Misfit(
                "`fraction` of `RoPE` must be above 0 and at most 1: it is the part of each head"
                " that turns",
                argument="fraction",
                code="E302",
            )
        if as_float(self.name, "scale", self.scale) == 0:
            raise Misfit(
                "`scale` of `RoPE` must not be 0: every position would be the first",
                hint="leave `RoPE` out for attention without positions",
                argument="scale",
                code="E302",
            )
        return self, each(self.name, x, self._one)

    def _one(self, x: Tensor) -> Tensor:
        expect_tensor(self.name, x, rank=2)
        d = known(self.name, x, -1, "the size of the last axis")
        turned = self.fraction * d
        if self.fraction == 1 and d % 2:
            raise Misfit(
                f"`RoPE` turns pairs of entries, but the last axis of {x} has {d}",
                hint="give each head an even size",
            )
        if turned % 2 or not turned:
            raise Misfit(
                f"`RoPE` turns pairs of entries, but {self.fraction} of the last axis of {x} is"
                f" {turned}",
                hint=f"an even number of them is, such as {max(2, round(turned / 2) * 2)}/{d}",
                argument="fraction",
            )
        return vectors(x.shape, x.roles[:-1])

    def gains(self, x: Sequence[Edge], type: Type) -> Matrix:
        return {
            (i, m): {(i, m): 1.0 if edge.last.axes[0] in m.axes else math.sqrt(2)}
            for i, edge in enumerate(x)
            for m in edge.tracked
        }

    def sizes(self, x: Sequence[Edge], type: Type) -> list[dict[Measure, Bound]]:
        found = reached(x, self.gains(x, type), [edge.type for edge in x])
        return [
            {
                m: Bound(e.low(m) if e.last.axes[0] in m.axes else 0.0, b.high)
                for m, b in bounds.items()
            }
            for e, bounds in zip(x, found, strict=True)
        ]

    def helpers(self) -> tuple[str, ...]:
        return (copied("rotary" if self._further else "rope"),)

    @property
    def _further(self) -> bool:
        """Whether more than the base is not as usual."""
        return (self.offset, self.fraction, self.scale, self.interleaved) != (0, 1, 1, False)

    def reference(self, x: Any, weight: torch.Tensor | None = None) -> Any:
        return map_each(self._rotate, x)

    def _rotate(self, x: torch.Tensor) -> torch.Tensor:
        import torch

        turned = int(self.fraction * x.shape[-1])
        half = turned // 2
        one, two = slice(0, half), slice(half, turned)
        if self.interleaved:
            one, two = slice(0, turned, 2), slice(1, turned, 2)
        rows = []
        for t in range(x.shape[-2]):
            position = float(self.scale) * (t + self.offset)
            angles = [position * float(self.base) ** (-i / half) for i in range(half)]
            angle = torch.tensor(angles, dtype=torch.float64)
            turn = torch.polar(torch.ones_like(angle), angle)
            pairs = torch.complex(x[..., t, one].double(), x[..., t, two].double()) * turn
            row = x[..., t, :].double().clone()
            row[..., one], row[..., two] = pairs.real, pairs.imag
            rows.append(row.to(x.dtype))
        return torch.stack(rows, -2)

    def emit(self, x: Any, type: Type, own: str) -> str:
        if isinstance(type, TupleType) and not isinstance(x, tuple):
            x = parts(x, len(type.members))
        types = type.members if isinstance(type, TupleType) else type
        return expression(_zipped(self._call, x, types))

    def _call(self, x: str, type: Tensor) -> str:
        if not self._further:
            base = "" if self.base == 10000 else f", {number(self.base)}"
            return f"rope({x}{base})"
        return f"rotary({x}, {', '.join(self._given(type))})"

    def _given(self, type: Tensor) -> Iterator[str]:
        d = type.shape[-1]
        assert isinstance(d, int)
        yield str(int(self.fraction * d))
        yield number(self.base)
        if self.offset:
            yield f"offset={self.offset}"
        if self.scale != 1:
            yield f"scale={number(self.scale)}"
        if self.interleaved:
            yield "interleaved=True"


def _zipped(function: Any, x: Any, types: Any) -> Any:
    """A function of each expression and its type."""
    if isinstance(x, tuple):
        inner = (t.members if isinstance(t, TupleType) else t for t in types)
        return tuple(_zipped(function, e, t) for e, t in zip(x, inner, strict=True))
    return function(x, types)
