"""The graph of the data flow: one node a value, one edge a use.

The graph of a model is a tree of regions. A region is a directed acyclic networkx graph with one
input and one output; a repetition is a single node that holds the region of its body, whatever its
count.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import networkx as nx

from modnorm.diagnostics import Span
from modnorm.graph.modules import (
    Around,
    Assume,
    Compose,
    Hole,
    Leaf,
    Module,
    Repeat,
    Scan,
    Stored,
    Tuple,
)
from modnorm.ops.base import Op
from modnorm.ops.scalars import Assumption
from modnorm.ops.sequences import Start
from modnorm.ops.types import Real, Type


@dataclass(frozen=True, eq=False)
class Input:
    """The value that enters a region."""

    type: Type
    inputs: tuple[int, ...] = ()


@dataclass(frozen=True, eq=False)
class Apply:
    """An operation on one value. `leaf` is the id of its leaf in the module tree."""

    op: Op
    inputs: tuple[int, ...]
    type: Type
    span: Span
    path: str
    weight: str | None
    leaf: int
    stored: Stored | None = None

    @property
    def called(self) -> Op:
        """The operation that is called for it: of a part of several atoms, that of all."""
        return self.op if self.stored is None else self.stored.op

    @property
    def holder(self) -> str:
        """The path of the module that is called, or whose weight is read."""
        return self.stored.holder(self.path) if self.stored else self.weight or self.path


@dataclass(frozen=True, eq=False)
class Pack:
    """Several values as one tuple."""

    inputs: tuple[int, ...]
    type: Type
    span: Span


@dataclass(frozen=True, eq=False)
class LoopRun:
    """`count` copies of a region, the first with index `start`; `path` is the path of a copy."""

    region: Region
    count: int
    start: int
    path: str


@dataclass(frozen=True, eq=False)
class Loop:
    """Copies of regions, composed. `node` is the id of its repetition in the module tree.

    Of several inputs the first enters the first copy, the others are given in all of them by the
    numbers that it `takes`.
    """

    runs: tuple[LoopRun, ...]
    inputs: tuple[int, ...]
    type: Type
    span: Span
    path: str
    node: int
    takes: tuple[int, ...] = ()

    @property
    def count(self) -> int:
        return sum(run.count for run in self.runs)

    @property
    def regions(self) -> tuple[Region, ...]:
        return tuple(run.region for run in self.runs)


@dataclass(frozen=True, eq=False)
class Recurrence:
    """A region along axis 1 of a value, one place after the other: a `Scan` of the module tree.

    The region maps (state, entry) to a new state. `node` is the id of the scan in the module tree.
    Of several inputs it goes along the first; the others are given at all places by the numbers
    that it `takes`.
    """

    region: Region
    inputs: tuple[int, ...]
    type: Type
    span: Span
    path: str
    node: int
    start: Start
    takes: tuple[int, ...] = ()

    @property
    def regions(self) -> tuple[Region, ...]:
        return (self.region,)


Value: TypeAlias = Input | Apply | Pack | Loop | Recurrence


@dataclass(frozen=True, eq=False)
class Region:
    """Values in topological order of their numbers; edges carry the operand's position as key."""

    graph: nx.MultiDiGraph[int]
    input: int
    output: int

    def __getitem__(self, number: int) -> Value:
        value: Value = self.graph.nodes[number]["value"]
        return value

    def numbers(self) -> list[int]:
        """The values' numbers, every value after those that it uses."""
        return sorted(self.graph.nodes)

    def uses(self, number: int) -> list[int]:
        """The numbers of the values that use this one, once a use."""
        return [user for _, user in self.graph.out_edges(number)]

    def needed(self) -> set[int]:
        """The values that the output depends on; of a tuple whose member is picked, that alone."""
        found, stack = {self.output}, [self.output]
        while stack:
            value = self[stack.pop()]
            inputs = value.inputs
            if isinstance(value, Apply) and value.op.picks is not None:
                before = self[inputs[0]]
                inputs = (before.inputs[value.op.picks],) if isinstance(before, Pack) else inputs
            stack += [i for i in inputs if i not in found]
            found.update(inputs)
        return found

    def applies(self) -> Iterator[Apply]:
        """Every operation, those of loops included, in execution order."""
        for number in self.numbers():
            value = self[number]
            if isinstance(value, Apply):
                yield value
            elif isinstance(value, Loop | Recurrence):
                for inner in value.regions:
                    yield from inner.applies()


def holds_modules(value: Value) -> bool:
    """Whether a value is made by a module of its own, or by what computes regions with such."""
    if isinstance(value, Loop | Recurrence):
        return any(holds_modules(a) for region in value.regions for a in region.applies())
    return isinstance(value, Apply) and value.op.is_module


class Builder:
    """Builds a region value by value."""

    def __init__(self, input_type: Type) -> None:
        self.graph: nx.MultiDiGraph[int] = nx.MultiDiGraph()
        self.input = self.add(Input(input_type))

    def add(self, value: Value) -> int:
        number = len(self.graph)
        self.graph.add_node(number, value=value)
        for position, operand in enumerate(value.inputs):
            self.graph.add_edge(operand, number, key=position)
        return number

    def finish(self, output: int) -> Region:
        """The region; values that neither the output nor a module needs are dropped."""
        keep = {output, self.input}
        for n in reversed(range(len(self.graph))):  # every value after those that it uses
            value: Value = self.graph.nodes[n]["value"]
            if n in keep or holds_modules(value):
                keep.update((n, *value.inputs))
        self.graph.remove_nodes_from([n for n in self.graph if n not in keep])
        return Region(nx.freeze(self.graph), self.input, output)


Types: TypeAlias = Mapping[int, tuple[Type, Type]]


def lower(tree: Module, types: Types, assumed: Mapping[int, Real] | None = None) -> Region:
    """The data flow of a typed module tree.

    `assumed` are the factors by which sensitivities that are assumed differ from declared ones, by
    id: where such a part begins, something stands that has the factor for its sensitivity.
    """
    builder = Builder(types[tree.id][0])
    return builder.finish(_lower(tree, builder.input, builder, types, assumed or {}))


def _lower(
    module: Module, x: int, builder: Builder, types: Types, assumed: Mapping[int, Real]
) -> int:
    match module:
        case Leaf():
            at = x if module.op.gives is None else builder.input  # it needs nothing that came
            return builder.add(
                Apply(
                    module.op,
                    (at,),
                    types[module.id][1],
                    module.span,
                    module.path,
                    module.weight,
                    module.id,
                    module.stored,
                )
            )
        case Compose(steps=steps):
            for step in steps:
                x = _lower(step, x, builder, types, assumed)
            return x
        case Tuple(members=members):
            inputs = tuple(_lower(member, x, builder, types, assumed) for member in members)
            return builder.add(Pack(inputs, types[module.id][1], module.span))
        case Repeat():
            runs: list[LoopRun] = []
            start = 0
            for run in module.runs:
                region = lower(run.body, types, assumed)
                runs.append(LoopRun(region, run.count, start, run.path))
                start += run.count
            type = types[module.id][1]
            return builder.add(Loop(tuple(runs), (x,), type, module.span, module.path, module.id))
        case Scan(body=body, span=span, path=path, start=start):
            cell, type = lower(body, types, assumed), types[module.id][1]
            return builder.add(Recurrence(cell, (x,), type, span, path, module.id, start))
        case Assume(body=body):
            type, op = types[module.id][0], Assumption(assumed[module.id])
            x = builder.add(Apply(op, (x,), type, module.span, "", None, module.id))
            return _lower(body, x, builder, types, assumed)
        case Around(body=body):
            return _lower(body, x, builder, types, assumed)
        case Hole():
            raise AssertionError("a hole got past the inference of shapes")
