"""`SplitHeads`, `MergeHeads`, `Enumerate`: heads and places."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from modnorm.ops.base import Advice, Bond, Misfit, Op, argument, expect_tensor
from modnorm.ops.edges import ONE_HOT, Bound, Edge, Matrix, Measure, between
from modnorm.ops.families import IgnoresInput, LinearBond, root
from modnorm.ops.registry import register
from modnorm.ops.shapes import headed, known
from modnorm.ops.types import Real, Tensor, Type, product, vectors

if TYPE_CHECKING:
    import torch


def _split(measure: Measure, rank: int) -> Measure:
    """A measure of (…, seq, heads·d), of `rank` axes, as one of (…, heads, seq, d)."""
    place = {rank - 2: (rank - 1,), rank - 1: (rank - 2, rank)}
    return Measure(tuple(sorted(b for a in measure.axes for b in place.get(a, (a,)))))


def _moved(x: Sequence[Edge], pairs: list[tuple[Measure, Measure]]) -> Matrix:
    """The gains of a change of shape, from measures that are the same before and after."""
    known = {ONE_HOT} if x[0].type.dtype != "float" else {m for m, _ in pairs} - {ONE_HOT}
    return between(*((m, n, 1.0) for m, n in pairs if m in known))


def _kept(x: Sequence[Edge], gains: Matrix | str) -> list[dict[Measure, Bound]]:
    """The bounds of a change of shape."""
    assert not isinstance(gains, str)
    return [{n: Bound(x[0].low(m), x[0].high(m)) for (_, m), row in gains.items() for _, n in row}]


@register
@dataclass(frozen=True)
class SplitHeads(LinearBond):
    """(…, seq, heads·d) → (…, heads, seq, d): the last axis in `heads` equal parts, each a head.

    Declared 1, as by modula. From the RMS over all of the last axis to the largest RMS over a head
    it is √heads, since one head may hold all of the vector; that is the certified value.
    """

    name = "SplitHeads"
    origin = "modula: 1; per head it is √heads"

    heads: int = argument("size")

    def along(self, x: Type) -> tuple[int, ...]:
        return (len(x.shape) - 2,) if isinstance(x, Tensor) else ()

    def resolve(self, x: Type) -> tuple[Self, Type]:
        x = expect_tensor(self.name, x, rank=2)
        width = known(self.name, x, -1, "the size of the last axis")
        if width % self.heads:
            raise Misfit(
                f"`SplitHeads` cannot split {width} channels into {self.heads} equal heads",
                hint=f"choose a number of heads that divides {width}",
                argument="heads",
            )
        return self, headed(x, self.heads, width // self.heads)

    @property
    def certified(self) -> Real | str:
        return root(self.heads)

    def gains(self, x: Sequence[Edge], type: Type) -> Matrix | str:
        return _moved(x, [(m, _split(m, len(x[0].type.shape))) for m in x[0].tracked])

    def sizes(self, x: Sequence[Edge], type: Type) -> list[dict[Measure, Bound]]:
        return _kept(x, self.gains(x, type))

    def advice(self, x: Sequence[Edge], type: Type) -> tuple[Advice, ...]:
        if self.heads == 1:
            return ()
        return (
            Advice(
                "A602",
                f"one of {self.heads} heads may hold all of a token, so that its norm is up to"
                f" √{self.heads} = {self.heads**0.5:.4g} times the token's",
                f"write `HeadedLinear(out, {self.heads})` for `SplitHeads({self.heads}) @"
                " Linear(out)`: each head has a norm there",
            ),
        )

    def reference(self, x: Any, weight: torch.Tensor | None = None) -> Any:
        import torch

        return torch.stack(x.chunk(self.heads, dim=-1), dim=-3)

    def emit(self, x: Any, type: Type, own: str) -> str:
        assert isinstance(type, Tensor)
        width = type.shape[-1]
        assert isinstance(width, int)
        return f"{x}.unflatten(-1, ({self.heads}, {width // self.heads})).transpose(-3, -2)"


@register
@dataclass(frozen=True)
class MergeHeads(LinearBond):
    """(…, heads, seq, d) → (…, seq, heads·d): the inverse of `SplitHeads`."""

    name = "MergeHeads"

    def along(self, x: Type) -> tuple[int, ...]:
        return (len(x.shape) - 3,) if isinstance(x, Tensor) else ()

    def resolve(self, x: Type) -> tuple[Self, Type]:
        x = expect_tensor(self.name, x, rank=3)
        *lead, heads, seq, d = x.shape
        return self, vectors((*lead, seq, product((heads, d))), (*x.roles[:-3], x.roles[-2]))

    def gains(self, x: Sequence[Edge], type: Type) -> Matrix | str:
        rank = len(x[0].type.shape)
        merged = [Measure(a) for a in ((), (rank - 2,), tuple(range(1, rank - 1)))]
        return _moved(x, [(_split(m, rank - 1), m) for m in merged])

    def sizes(self, x: Sequence[Edge], type: Type) -> list[dict[Measure, Bound]]:
        return _kept(x, self.gains(x, type))

    def fuse(self, before: Op) -> Op | None:
        from modnorm.ops.scalars import Identity

        return Identity() if isinstance(before, SplitHeads) else None

    def reference(self, x: Any, weight: torch.Tensor | None = None) -> Any:
        import torch

        return torch.cat(x.unbind(-3), dim=-1)

    def emit(self, x: Any, type: Type, own: str) -> str:
        return f"{x}.transpose(-3, -2).flatten(-2)"


@register
@dataclass(frozen=True)
class Enumerate(IgnoresInput, Bond):
    """The positions 0, 1, …, n - 1 along the second axis, as integers of shape (n,).

    Its output does not depend on its input's values, so its sensitivity is truly 0; 1 is declared,
    as by modula, so that nothing is divided by it.
    """

    name = "Enumerate"
    origin = "modula: 1, so that nothing is divided by 0; truly 0"

    sensitivity = 1

    def resolve(self, x: Type) -> tuple[Self, Type]:
        n = expect_tensor(self.name, x, rank=2, dtype="any").shape[1]
        return self, Tensor("int", (n,), n)

    def sizes(self, x: Sequence[Edge], type: Type) -> list[dict[Measure, Bound]]:
        return [{ONE_HOT: Bound(1.0, 1.0)}]

    def reference(self, x: Any, weight: torch.Tensor | None = None) -> Any:
        import torch

        return torch.tensor(range(x.shape[1]), device=x.device)

    def emit(self, x: Any, type: Type, own: str) -> str:
        return f"torch.arange({x}.shape[1], device={x}.device)"
