"""`Flatten`, `SplitHeads`, `MergeHeads`, `Enumerate`: operations on shapes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from modnorm.ops.base import LINEAR, Bond, Misfit, Op, Sharpness, argument, expect_tensor
from modnorm.ops.families import LinearBond, root
from modnorm.ops.registry import register
from modnorm.ops.shapes import known
from modnorm.ops.types import Real, Tensor, Type, product

if TYPE_CHECKING:
    import torch


@register
@dataclass(frozen=True)
class Flatten(LinearBond):
    """All axes but the first become one: (batch, a, b, …) → (batch, a·b·…)."""

    name = "Flatten"

    def resolve(self, x: Type) -> tuple[Self, Type]:
        x = expect_tensor(self.name, x, rank=2, dtype="any")
        return self, Tensor(x.dtype, (x.shape[0], product(x.shape[1:])), x.bound)

    def reference(self, x: Any, weight: torch.Tensor | None = None) -> Any:
        return x.reshape(x.shape[0], math.prod(x.shape[1:]))

    def emit(self, x: Any, type: Type) -> str:
        return f"{x}.flatten(1)"


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

    def resolve(self, x: Type) -> tuple[Self, Type]:
        x = expect_tensor(self.name, x, rank=2)
        width = known(self.name, x, -1, "the size of the last axis")
        if width % self.heads:
            raise Misfit(
                f"`SplitHeads` cannot split {width} channels into {self.heads} equal heads",
                hint=f"choose a number of heads that divides {width}",
                argument="heads",
            )
        *lead, seq, _ = x.shape
        return self, Tensor("float", (*lead, self.heads, seq, width // self.heads))

    @property
    def certified(self) -> Real | str:
        return root(self.heads)

    def reference(self, x: Any, weight: torch.Tensor | None = None) -> Any:
        import torch

        return torch.stack(x.chunk(self.heads, dim=-1), dim=-3)

    def emit(self, x: Any, type: Type) -> str:
        assert isinstance(type, Tensor)
        width = type.shape[-1]
        assert isinstance(width, int)
        return f"{x}.unflatten(-1, ({self.heads}, {width // self.heads})).transpose(-3, -2)"


@register
@dataclass(frozen=True)
class MergeHeads(LinearBond):
    """(…, heads, seq, d) → (…, seq, heads·d): the inverse of `SplitHeads`."""

    name = "MergeHeads"

    def resolve(self, x: Type) -> tuple[Self, Type]:
        x = expect_tensor(self.name, x, rank=3)
        *lead, heads, seq, d = x.shape
        return self, Tensor("float", (*lead, seq, product((heads, d))))

    def fuse(self, before: Op) -> Op | None:
        from modnorm.ops.scalars import Identity

        return Identity() if isinstance(before, SplitHeads) else None

    def reference(self, x: Any, weight: torch.Tensor | None = None) -> Any:
        import torch

        return torch.cat(x.unbind(-3), dim=-1)

    def emit(self, x: Any, type: Type) -> str:
        return f"{x}.transpose(-3, -2).flatten(-2)"


@register
@dataclass(frozen=True)
class Enumerate(Bond):
    """The positions 0, 1, …, n - 1 along the second axis, as integers of shape (n,).

    Its output does not depend on its input's values, so its sensitivity is truly 0; 1 is declared,
    as by modula, so that nothing is divided by it.
    """

    name = "Enumerate"
    origin = "modula: 1, so that nothing is divided by 0; truly 0"

    def resolve(self, x: Type) -> tuple[Self, Type]:
        n = expect_tensor(self.name, x, rank=2, dtype="any").shape[1]
        return self, Tensor("int", (n,), n)

    @property
    def sensitivity(self) -> Real:
        return 1

    @property
    def certified(self) -> Real | str:
        return 0

    @property
    def sharpness(self) -> Sharpness | None:
        return LINEAR

    def reach(self, high: Any, type: Type) -> Any:
        return math.inf  # positions, which only an Embed takes

    def absorb(self, scalars: tuple[Real, ...]) -> tuple[Op, Real] | None:
        return self, 1

    def reference(self, x: Any, weight: torch.Tensor | None = None) -> Any:
        import torch

        return torch.tensor(range(x.shape[1]), device=x.device)

    def emit(self, x: Any, type: Type) -> str:
        return f"torch.arange({x}.shape[1], device={x}.device)"
