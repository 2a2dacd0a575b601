"""`Given`: the value of an input of the model, where its name stands."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

from modnorm.ops.base import LINEAR, Bond, Op, Sharpness
from modnorm.ops.edges import Bound, Edge, Matrix, Measure
from modnorm.ops.types import Real, Type


@dataclass(frozen=True)
class Given(Bond):
    """An input of the model, whatever comes in."""

    name = "Given"
    internal = True

    input: str
    index: int
    type: Type

    @property
    def label(self) -> str:
        return self.input

    @property
    def gives(self) -> int | None:
        return self.index

    def resolve(self, x: Type) -> tuple[Self, Type]:
        return self, self.type

    @property
    def sensitivity(self) -> Real:
        return 0

    @property
    def certified(self) -> Real | str:
        return 0

    @property
    def sharpness(self) -> Sharpness | None:
        return LINEAR

    def gains(self, x: Sequence[Edge], type: Type) -> Matrix | str:
        return {}

    def sizes(self, x: Sequence[Edge], type: Type) -> list[dict[Measure, Bound]]:
        return [{}]  # the passes know those of the model's input

    def absorb(self, scalars: tuple[Real, ...]) -> tuple[Op, Real] | None:
        return self, 1

    def reference(self, x: Any, weight: Any = None) -> Any:
        return weight

    def emit(self, x: Any, type: Type, own: str) -> str:
        return own
