"""`Attention`, the part of it without weights, and `RoPE`."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Self

from modnorm.ops.base import Advice, Bond, Misfit, Op, Sharpness, argument, expect_tensor
from modnorm.ops.edges import LARGEST, Bound, Edge, Form, Matrix, Measure, reached
from modnorm.ops.families import LinearBond, magnitude
from modnorm.ops.registry import register
from modnorm.ops.shapes import each, known, map_each
from modnorm.ops.text import as_float, copied, expression, number, parts, times
from modnorm.ops.types import Real, Size, Tensor, TupleType, Type, vectors

if TYPE_CHECKING:
    import torch


TYPICAL = Fraction(1, 3)
"""How far attention moves with one of q, k and v where logits are scaled by 1/√d, typically."""


@register
@dataclass(frozen=True)
class Attention(Bond):
    """softmax(scale/d · q kᵀ) v for a tuple (q, k, v) of values (batch, heads, seq, d).

    The logits are scaled by 1/d and not by 1/√d: only so is attention's sensitivity bounded
    whatever d is. It is max(1, |scale|), where a value's norm is the largest RMS of a head's vector
    and q, k and v have norm at most 1. With `causal`, position i sees positions up to i only. The
    keys' d may differ from the values'.
    """

    name = "Attention"
    origin = "modula: 1 at scale 1, proved for q, k, v of norm at most 1 per head"

    causal: bool = argument("flag", False)
    scale: Real = argument("number", 1)

    def resolve(self, x: Type) -> tuple[Self, Type]:
        if not isinstance(x, TupleType) or len(x.members) != 3:
            what = f"a tuple of {len(x.members)}" if isinstance(x, TupleType) else "one value"
            raise Misfit(
                f"`Attention` takes a tuple (q, k, v), but its input is {what}: {x}",
                hint="write `Attention @ (q, k, v)`, each `SplitHeads(heads) @ Linear(…)`",
                code="E402",
            )
        as_float(self.name, "scale", self.scale)
        q, k, v = (expect_tensor(self.name, m, rank=3) for m in x.members)
        for one, other, kept, what in (
            (q, k, slice(None, -2), "the leading axes of q and k"),
            (q, v, slice(None, -2), "the leading axes of q and v"),
            (q, k, slice(-1, None), "the last axis of q and k"),
            (k, v, slice(-2, -1), "the sequence of k and v"),
            *([(q, k, slice(-2, -1), "the sequence of q and k")] if self.causal else []),
        ):
            a, b = one.shape[kept], other.shape[kept]
            if a != b:
                shown = " and ".join(_sizes(s) for s in (a, b))
                causal = " with `causal`" if what.endswith("sequence of q and k") else ""
                raise Misfit(
                    f"`Attention`{causal} needs {what} to be equal, but they are {shown}:"
                    f" q is {q}, k is {k}, v is {v}"
                )
        known(self.name, q, -1, "the size of a head")
        return self, vectors((*q.shape[:-1], v.shape[-1]), q.roles[:-1])

    @property
    def sensitivity(self) -> Real:
        return 1 if magnitude(self.scale) <= 1 else TYPICAL

    @property
    def certified(self) -> Real | str:
        return max(1, magnitude(self.scale))

    def gains(self, x: Sequence[Edge], type: Type) -> Matrix | str:
        q, k, v = (edge.high(edge.last) for edge in x)
        if not math.isfinite(q + k + v):
            return "there is no bound on the size of its q, k and v"
        s, last = abs(float(self.scale)), x[2].last
        return {
            (0, last): {(0, last): s * k * v},
            (1, last): {(0, last): s * q * v},
            (2, last): {(0, last): 1.0},
            (2, LARGEST): {(0, LARGEST): 1.0},
        }

    def curvature(self, x: Sequence[Edge], type: Type) -> Form | str:
        q, k, v = (edge.high(edge.last) for edge in x)
        if not math.isfinite(q + k + v):
            return "there is no bound on the size of its q, k and v"
        s, last = abs(float(self.scale)), x[2].last
        pairs = {
            (0, 0): s * s * k * k * v,
            (1, 1): s * s * q * q * v,
            (0, 1): (s + s * s * q * k) * v,
            (0, 2): s * k,
            (1, 2): s * q,
        }
        pairs |= {(j, i): bend for (i, j), bend in pairs.items()}
        return {((i, last), (j, last)): {(0, last): bend} for (i, j), bend in pairs.items()}

    def advice(self, x: Sequence[Edge], type: Type) -> tuple[Advice, ...]:
        size = magnitude(self.scale)
        if size <= 1:
            return ()
        width = x[0].type.shape[-1]
        root = math.sqrt(width) if isinstance(width, int) else math.inf
        how = "1/√d_head" if math.isclose(size, root, rel_tol=1e-3) else f"{float(size):.4g}/d_head"
        return (
            Advice(
                "A601",
                f"logits scaled by {how} have sensitivity {float(size):.4g} in queries and keys of"
                f" norm 1; scaled by 1/d_head they have 1, whatever d_head = {width} is",
                "leave `scale` at 1, and let a factor grow with training where it must",
            ),
        )

    def sizes(self, x: Sequence[Edge], type: Type) -> list[dict[Measure, Bound]]:
        # an average of values
        return [{m: Bound(0.0, x[2].high(m)) for m in (x[2].last, LARGEST)}]

    @property
    def sharpness(self) -> Sharpness | None:
        s = abs(float(self.scale))
        return Sharpness(0.0, 0.0, s + s * s)

    def absorb(self, scalars: tuple[Real, ...]) -> tuple[Op, Real] | None:
        q, k, v = scalars
        return dataclasses.replace(self, scale=self.scale * q * k), v

    def reference(self, x: Any, weight: torch.Tensor | None = None) -> Any:
        import torch

        q, k, v = x
        logits = float(self.scale) / q.shape[-1] * (q @ k.transpose(-2, -1))
        if self.causal:
            seen = torch.ones_like(logits, dtype=torch.bool).tril()
            logits = logits.masked_fill(~seen, -torch.inf)
        return logits.softmax(-1) @ v

    def emit(self, x: Any, type: Type, own: str) -> str:
        assert isinstance(type, TupleType)
        assert isinstance(type.members[0], Tensor)
        d = type.members[0].shape[-1]
        assert isinstance(d, int)
        scale = self.scale / d if isinstance(self.scale, float) else Fraction(self.scale) / d
        q, *kv = parts(x, 3)
        if self.causal and scale <= 0:  # torch scales what it has masked: -inf times the scale
            q, scale = times(-1 if scale else 0, q), -scale or 1
        causal = "is_causal=True, " if self.causal else ""
        values = ", ".join(map(expression, (q, *kv)))
        return f"F.scaled_dot_product_attention({values}, {causal}scale={number(scale)})"


def _sizes(sizes: tuple[Size, ...]) -> str:
    return str(sizes[0]) if len(sizes) == 1 else f"({', '.join(map(str, sizes))})"


@register
@dataclass(frozen=True)
class RoPE(LinearBond):
    """Rotary position embedding of (…, seq, d), or of each member of a tuple, with even d.

    At position t, entries i and i + d/2 turn together by the angle t·base^(-2i/d): the halves are
    paired, as in the Llama models of the transformers library, not neighbours. It is an orthogonal
    map, so its sensitivity is 1. For queries and keys only: `(RoPE @ q, RoPE @ k, v)`.

    Source: Su et al. 2021 (arXiv 2104.09864).
    """

    name = "RoPE"

    base: Real = argument("number", 10000)

    def along(self, x: Type) -> tuple[int, ...]:
        return (len(x.shape) - 2,) if isinstance(x, Tensor) else ()

    def resolve(self, x: Type) -> tuple[Self, Type]:
        if as_float(self.name, "base", self.base) <= 0:
            raise Misfit(
                "`base` of `RoPE` must be positive: its powers are frequencies",
                argument="base",
                code="E302",
            )
        return self, each(self.name, x, self._one)

    def _one(self, x: Tensor) -> Tensor:
        expect_tensor(self.name, x, rank=2)
        d = known(self.name, x, -1, "the size of the last axis")
        if d % 2:
            raise Misfit(
                f"`RoPE` turns pairs of entries, but the last axis of {x} has {d}",
                hint="give each head an even size",
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
        return (copied("rope"),)

    def reference(self, x: Any, weight: torch.Tensor | None = None) -> Any:
        return map_each(self._rotate, x)

    def _rotate(self, x: torch.Tensor) -> torch.Tensor:
        import torch

        half = x.shape[-1] // 2
        rows = []
        for t in range(x.shape[-2]):
            angles = [t * float(self.base) ** (-i / half) for i in range(half)]
            angle = torch.tensor(angles, dtype=torch.float64)
            turn = torch.polar(torch.ones_like(angle), angle)
            row = torch.complex(x[..., t, :half].double(), x[..., t, half:].double()) * turn
            rows.append(torch.cat((row.real, row.imag), -1).to(x.dtype))
        return torch.stack(rows, -2)

    def emit(self, x: Any, type: Type, own: str) -> str:
        if isinstance(type, TupleType) and not isinstance(x, tuple):
            x = parts(x, len(type.members))
        base = "" if self.base == 10000 else f", {number(self.base)}"
        return expression(map_each(lambda e: f"rope({e}{base})", x))
