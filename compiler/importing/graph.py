"""A model as operations of the language: what stands between a run of torch and the text."""

from __future__ import annotations

from dataclasses import dataclass, field

from modnorm.graph.renames import Recipe


@dataclass(frozen=True)
class Step:
    """One operation: `text` as it is written, of the values `args`.

    text: "+" and "*" for sums and products of several values. args: numbers of values. weights: a
        recipe for each weight, in the order in which the operation uses them. buffers: recipes by
        the end of the name. module, place: where in the model it comes from. free: whether it may
        be computed twice, since it only moves entries.
    """

    text: str
    args: tuple[int, ...]
    weights: tuple[Recipe, ...] = ()
    buffers: tuple[tuple[str, Recipe], ...] = ()
    module: str = ""
    place: str = ""
    free: bool = False


@dataclass(frozen=True)
class Given:
    """An input of the model: its name, its type, and the sizes of its axes; 0 is a free one."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    sizes: tuple[int | str, ...]
    bound: int | None = None


@dataclass
class Graph:
    """The operations by the numbers of the values that they make, in an order of execution.

    shapes: of values, in the run. inputs: by number. shared: text of modules that several steps
    use, by name. bonds: their statements by name. outputs: numbers with names.
    """

    steps: dict[int, Step] = field(default_factory=dict)
    shapes: dict[int, tuple[int, ...]] = field(default_factory=dict)
    inputs: dict[int, Given] = field(default_factory=dict)
    bonds: dict[str, str] = field(default_factory=dict)
    outputs: dict[str, int] = field(default_factory=dict)

    def new(self, step: Step, shape: tuple[int, ...]) -> int:
        number = len(self.shapes)
        self.steps[number], self.shapes[number] = step, shape
        return number

    def give(self, given: Given) -> int:
        number = len(self.shapes)
        self.inputs[number], self.shapes[number] = given, given.shape
        return number
