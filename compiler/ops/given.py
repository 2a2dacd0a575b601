"""`Given`: the value of an input of the model, where its name stands."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

from modnorm.ops.base import Bond
from modnorm.ops.edges import Bound, Edge, Measure
from modnorm.ops.families import IgnoresInput
from modnorm.ops.types import Type


@dataclass(frozen=True)
class Given(IgnoresInput, Bond):
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

    def sizes(self, x: Sequence[Edge], type: Type) -> list[dict[Measure, Bound]]:
        return [{}]  # the passes know those of the model's input

    def reference(self, x: Any, weight: Any = None) -> Any:
        return weight

    def emit(self, x: Any, type: Type, own: str) -> str:
        return own
