"""What copies compute alike, of the model's inputs alone, is computed once, before them."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field, replace
from itertools import count
from typing import ClassVar

from modnorm.diagnostics import Diagnostics
from modnorm.graph.dataflow import (
    Apply,
    Builder,
    Input,
    Loop,
    LoopRun,
    Pack,
    Recurrence,
    Region,
    Value,
)
from modnorm.graph.modules import Leaf, Shared, walk
from modnorm.graph.place import legal
from modnorm.ops.given import Given
from modnorm.passes.flow import verify_region
from modnorm.passes.program import Program

NOWHERE = ""
"""The path of a cell: no step of a scan has modules of its own."""


@dataclass(frozen=True)
class Hoist:
    """The mentions of a `shared` module of named inputs are one value: nothing else tells it apart.

    Inside of a repetition such a value is one more that is given by name. Operations with effects
    count as what they are part of: a `shared` module draws its random numbers once.
    """

    name: ClassVar[str] = "hoist"

    def run(self, program: Program, diagnostics: Diagnostics) -> Program:
        if all(apply.op.gives is None for apply in program.flow.applies()):
            return program
        once = frozenset(
            leaf.path
            for shared in walk(program.tree)
            if isinstance(shared, Shared) and not program.passing[shared.id]
            for leaf in walk(shared)
            if isinstance(leaf, Leaf)
        )
        region = hoisted(program.flow, None, count(len(program.inputs)), once).region
        return replace(program, graph=region)

    def verify(self, program: Program) -> None:
        verify_region(program.flow)


@dataclass(frozen=True)
class Lifted:
    """A region, and the values of the one that it came of that it is given by number."""

    region: Region
    source: Region
    exports: dict[int, int]
    """The numbers of those values there, by the number under which they are given."""


def hoisted(region: Region, path: str | None, numbers: count[int], once: frozenset[str]) -> Lifted:
    """A region, first without what the repetitions in it have in common, then without its own."""
    inner = _Hoisting(region, None, numbers, once).run()
    return inner if path is None else _Hoisting(inner.region, path, numbers, once).run()


@dataclass
class _Hoisting:
    """Builds a region. With the `path` of a copy values leave it that are the same for all copies;
    without one, those of the repetitions in it come here.
    """

    old: Region
    path: str | None
    numbers: count[int]
    once: frozenset[str]
    """Paths of what is inside of shared modules of named inputs alone."""
    fixed: set[int] = field(default_factory=set)
    new: dict[int, int] = field(default_factory=dict)
    seen: dict[Hashable, int] = field(default_factory=dict)
    exports: dict[int, int] = field(default_factory=dict)
    same: dict[Hashable, int] = field(default_factory=dict)
    """The first of the fixed values that are equal, by what they are."""
    first: dict[int, int] = field(default_factory=dict)
    """That one, for each."""

    def run(self) -> Lifted:
        old = self.old
        self.builder = Builder(old[old.input].type)
        self.new[old.input] = self.builder.input
        for number in old.numbers():
            value = old[number]
            if self.is_fixed(value):
                self.fixed.add(number)
                gives = isinstance(value, Apply) and value.op.gives is not None
                inputs = () if gives else tuple(self.first[i] for i in value.inputs)
                self.first[number] = self.same.setdefault(self.key(value, inputs), number)
        for number in old.numbers():
            value = old[number]
            if not isinstance(value, Input) and (self.path is None or number not in self.fixed):
                self.emit(number, value)
        output = self.operand(old.output)
        return Lifted(self.builder.finish(output), old, self.exports)

    def is_fixed(self, value: Value) -> bool:
        """Whether a value is the same for all copies."""
        if isinstance(value, Input):
            return False
        if isinstance(value, Apply) and value.op.gives is not None:
            return True
        if not all(i in self.fixed for i in value.inputs):
            return False
        if isinstance(value, Loop | Recurrence):
            return all(map(self.is_common, (a for r in value.regions for a in r.applies())))
        return not isinstance(value, Apply) or self.is_common(value)

    def is_common(self, value: Apply) -> bool:
        """Whether an operation does the same for all copies that give it the same value."""
        if value.op.has_effects:
            return value.path in self.once
        held = value.op.is_module or value.weight is not None
        return not (held and self.own(value.holder))

    def own(self, path: str) -> bool:
        """Whether each copy has a module of its own at a path."""
        return self.path is not None and path.startswith(f"{self.path}.")

    def emit(self, number: int, value: Value) -> None:
        """One more value; of equal ones of named inputs there is one."""
        if isinstance(value, Loop):
            value, inputs = self.loop(value)
        elif isinstance(value, Recurrence):
            value, inputs = self.recurrence(value)
        else:
            inputs = tuple(self.operand(i) for i in value.inputs)
        key = self.key(value, inputs) if number in self.fixed else None
        if key is None or key not in self.seen:
            found = self.builder.add(replace(value, inputs=inputs))
            if key is not None:
                self.seen[key] = found
            self.new[number] = found
        else:
            self.new[number] = self.seen[key]

    @classmethod
    def key(cls, value: Value, inputs: tuple[int, ...]) -> Hashable:
        match value:
            case Apply():
                return (value.op, value.holder if value.op.is_module else value.weight, inputs)
            case Loop():
                return (tuple((run.path, run.count) for run in value.runs), inputs)
            case Recurrence(region=region):
                inside = ((n, region[n]) for n in region.numbers())
                cell = tuple((n, cls.key(one, one.inputs)) for n, one in inside)
                return (cell, region.output, inputs)
            case _:
                return (type(value), inputs)

    def operand(self, number: int) -> int:
        """A value's new number; one that is fixed is asked for, by a number, where copies begin."""
        number = self.first.get(number, number) if self.path is not None else number
        if number in self.new:
            return self.new[number]
        value = self.old[number]
        assert number in self.fixed, number
        if isinstance(value, Pack):
            members = tuple(self.operand(i) for i in value.inputs)
            self.new[number] = self.builder.add(replace(value, inputs=members))
            return self.new[number]
        assert isinstance(value, Apply | Loop | Recurrence)
        if isinstance(value, Apply) and value.op.gives is not None:
            at = replace(value, inputs=(self.builder.input,))
        else:
            index = next(self.numbers)
            self.exports[index] = number
            given = Given(legal(value.path.partition(".")[0]), index, value.type)
            at = Apply(given, (self.builder.input,), value.type, value.span, value.path, None, -1)
        self.new[number] = self.builder.add(at)
        return self.new[number]

    def loop(self, loop: Loop) -> tuple[Loop, tuple[int, ...]]:
        """A repetition, with what its copies have in common before it."""
        x = self.operand(loop.inputs[0])
        runs: list[LoopRun] = []
        taken = dict(zip(loop.takes, map(self.operand, loop.inputs[1:]), strict=True))
        for run in loop.runs:
            if self.path is not None:
                runs.append(run)
                continue
            lifted = hoisted(run.region, run.path, self.numbers, self.once)
            runs.append(replace(run, region=lifted.region))
            taken |= self.exported(lifted)
        return replace(loop, runs=tuple(runs), takes=tuple(taken)), (x, *taken.values())

    def recurrence(self, value: Recurrence) -> tuple[Recurrence, tuple[int, ...]]:
        """A scan, with what all steps have in common before it."""
        x, *given = map(self.operand, value.inputs)
        taken, region = dict(zip(value.takes, given, strict=True)), value.region
        if self.path is None:
            lifted = hoisted(region, NOWHERE, self.numbers, self.once)
            region, taken = lifted.region, taken | self.exported(lifted)
        return replace(value, region=region, takes=tuple(taken)), (x, *taken.values())

    def exported(self, lifted: Lifted) -> dict[int, int]:
        """What a region is given, made here: the new numbers by those under which it is given."""
        copied: dict[int, int] = {lifted.source.input: self.builder.input}
        exports = lifted.exports.items()
        return {index: self.copy(lifted.source, number, copied) for index, number in exports}

    def copy(self, region: Region, number: int, copied: dict[int, int]) -> int:
        """A value of a repetition, and what it is computed from, in this region."""
        if number not in copied:
            value = region[number]
            inputs = tuple(self.copy(region, i, copied) for i in value.inputs)
            if isinstance(value, Apply) and value.op.gives is not None:
                inputs = (self.builder.input,)
            key = self.key(value, inputs)
            if key not in self.seen:
                self.seen[key] = self.builder.add(replace(value, inputs=inputs))
            copied[number] = self.seen[key]
        return copied[number]
