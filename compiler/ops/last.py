"""`Last`: the last place of a sequence."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from modnorm.ops.base import Misfit, amount, expect_tensor
from modnorm.ops.edges import Bound, Edge, Matrix, Measure, between, tracked
from modnorm.ops.families import LinearBond, root
from modnorm.ops.registry import register
from modnorm.ops.sequences import at_any, behind, lifted, place
from modnorm.ops.types import Real, Tensor, Type


@register
@dataclass(frozen=True)
class Last(LinearBond):
    """The last place of a sequence: (batch, seq, …) → (batch, …).

    `Last @ Scan(cell)` is the state behind the last entry. Declared 1, what the largest norm of all
    places has.
    """

    name = "Last"
    origin = "proved: the norm of a sequence is the largest of its places'"

    stretch: Real | str = field(default=1, kw_only=True)
    """The certified value, once the input is known."""

    def resolve(self, x: Type) -> tuple[Self, Type]:
        x = expect_tensor(self.name, x)
        if len(x.shape) < 3:
            raise Misfit(
                f"`Last` takes a sequence (batch, seq, …), but its input {x} has"
                f" {amount(len(x.shape), 'axis')}",
                hint="of vectors it takes none; `Slice(-1)` is their last entry",
                code="E402",
            )
        behind(self.name, x)
        # nothing says that axis 1 has the channels, but values of four axes are spoken of so
        stretch = root(x.shape[1]) if x.channels == 1 else 1
        return dataclasses.replace(self, stretch=stretch), place(x)

    @property
    def certified(self) -> Real | str:
        return self.stretch

    def gains(self, x: Sequence[Edge], type: Type) -> Matrix | str:
        assert isinstance(type, Tensor)
        return between(*((lifted(m), m, 1.0) for m in tracked(place(type))))

    def sizes(self, x: Sequence[Edge], type: Type) -> list[dict[Measure, Bound]]:
        edge = at_any(x[0])
        return [dict(edge.bounds)]

    def along(self, x: Type) -> tuple[int, ...]:
        return (1,)

    def reference(self, x: Any, weight: Any = None) -> Any:
        return x.narrow(1, x.shape[1] - 1, 1).squeeze(1)

    def emit(self, x: Any, type: Type, own: str) -> str:
        return f"{x}[:, -1]"
