"""Finds residual streams in the module tree: see `streams`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import accumulate
from typing import ClassVar, TypeAlias

from modnorm.diagnostics import Diagnostics
from modnorm.graph.modules import (
    Around,
    Assume,
    Compose,
    Hole,
    Leaf,
    Module,
    Repeat,
    Scan,
    Tuple,
    walk,
)
from modnorm.ops.types import Real, Type
from modnorm.passes.program import Program
from modnorm.passes.sensitivity import times
from modnorm.passes.streams import (
    At,
    Branch,
    Copies,
    Item,
    Items,
    Pass,
    RunOf,
    Stream,
    Streams,
    Sum,
    branches,
    written,
)

Step: TypeAlias = Leaf | Tuple | Repeat | Scan | Assume | Hole


@dataclass(frozen=True)
class FindStreams:
    """Find the residual streams of the module tree."""

    name: ClassVar[str] = "streams"

    def run(self, program: Program, diagnostics: Diagnostics) -> Program:
        finder = _Finder(program.types)
        finder.sequence(program.tree)
        streams = replace(finder.placed, streams=tuple(finder.streams))
        return replace(program, streams=streams)

    def verify(self, program: Program) -> None:
        for stream in program.streams.streams:
            assert stream.count == sum(1 for _ in branches(stream.items)) > 0


def _flat(module: Module, inside: bool = False) -> list[Step]:
    """What is computed one after the other, without the names around it.

    What is assumed of a part is said of it as one step, unless what is `inside` is wanted.
    """
    match module:
        case Compose(steps=steps):
            return [one for step in steps for one in _flat(step, inside)]
        case Assume() if not inside:
            return [module]
        case Around(body=body):
            return _flat(body, inside)
        case _:
            return [module]


def _is_identity(module: Module) -> bool:
    match module:
        case Leaf(op=op):
            return op.is_identity
        case Compose(steps=steps):
            return all(map(_is_identity, steps))
        case Assume():
            return False
        case Around(body=body):
            return _is_identity(body)
        case _:
            return False


def _keeps(leaf: Leaf) -> bool:
    """Whether an operation on the stream keeps its size."""
    return leaf.op.sensitivity == 1


def _length(module: Module) -> Real:
    """How much a branch adds to a stream: 1, but for scalar factors behind it."""
    length: Real = 1
    for step in reversed(_flat(module, inside=True)):
        scalar: Real | None = step.op.scalar if isinstance(step, Leaf) else None
        if scalar is None:
            break
        length = times(length, max(scalar, -scalar))
    return length


def _summed(step: Tuple, add: Leaf) -> tuple[Sum, list[Module]] | None:
    """A sum of one that is the input itself and others, and these; sums of sums are one."""
    skips = [j for j, member in enumerate(step.members) if _is_identity(member)]
    rest = [member for j, member in enumerate(step.members) if j not in skips]
    if skips:
        return (Sum(add, step.id, skips[0]), rest) if len(skips) == 1 and rest else None
    for j, member in enumerate(step.members):
        match _flat(member):
            case [Tuple() as before, Leaf(op=op) as inner] if op.joins:
                found = _summed(before, inner)
                if found is not None:
                    others = step.members[:j] + step.members[j + 1 :]
                    return Sum(add, step.id, j, found[0]), [*found[1], *others]
    return None


class _Finder:
    def __init__(self, types: Mapping[int, tuple[Type, Type]]) -> None:
        self.types = types
        self.degrees: dict[int, int | None] = {}
        self.members: dict[int, Module] = {}
        self.streams: list[Stream] = []
        self.placed = Streams()

    # -- where streams are ---------------------------------------------------------------------

    def sequence(self, module: Module) -> None:
        """Find the streams in a part, and in the parts of it."""
        items: list[Item] = []
        for step, item in self.read(module):
            if item is not None:
                changed = next(
                    (p.leaf for p in items if isinstance(p, Pass) and not _keeps(p.leaf)), None
                )
                if changed is not None:  # no harm before the end, but before another branch
                    items = self.end(items, None, changed)
                items.append(item)
            elif items and isinstance(step, Leaf) and self.degree(step) == 1:
                items.append(Pass(step))
            else:
                items = self.end(items, step if self.degree(step) == 0 else None, step)
                self.inside(step)
        self.end(items, None, None)

    def read(self, module: Module) -> Iterator[tuple[Step, Branch | Copies | None]]:
        """What is computed one after the other, and the sums, or copies of them, that this is."""
        steps, i = _flat(module), 0
        while i < len(steps):
            item = self.item(steps, i)
            yield steps[i], item
            i += 2 if isinstance(item, Branch) else 1

    def inside(self, step: Step) -> None:
        """Find the streams in the parts of a step that belongs to none itself."""
        match step:
            case Tuple(members=members):
                for member in members:
                    self.sequence(member)
            case Repeat(runs=runs):
                for run in runs:
                    self.sequence(run.body)
            case Scan(body=body) | Assume(body=body):
                self.sequence(body)

    def item(self, steps: list[Step], i: int) -> Branch | Copies | None:
        """The sum that begins at a step, or the copies of such sums that it is."""
        step, add = steps[i], steps[i + 1] if i + 1 < len(steps) else None
        if isinstance(step, Repeat):
            return self.copies(step)
        if not (isinstance(step, Tuple) and isinstance(add, Leaf) and add.op.joins):
            return None
        found = _summed(step, add)
        if found is None:
            return None
        sum_, rest = found
        otherwise = next((member for member in rest if self.degree(member) != 0), None)
        if otherwise is not None:
            first = _flat(otherwise)[0]
            self.placed.failures[add.id] = first if isinstance(first, Leaf) else None
            return None
        self.members |= {member.id: member for member in rest}
        readers = tuple(leaf for member in rest for leaf in self.readers(member))
        length = sum(map(_length, rest), Fraction(0))
        return Branch(sum_, tuple(m.id for m in rest), readers, length)

    def copies(self, repeat: Repeat) -> Copies | None:
        """A repetition of nothing but such sums."""
        runs: list[tuple[int, int, Items]] = []
        for run in repeat.runs:
            items: list[Item] = []
            for step, item in self.read(run.body):
                if item is not None:
                    items.append(item)
                elif isinstance(step, Leaf) and self.degree(step) == 1 and _keeps(step):
                    items.append(Pass(step))
                else:
                    return None
            runs.append((run.body.id, run.count, tuple(items)))
        found = Copies(repeat.id, tuple(runs))
        return found if next(branches((found,)), None) else None

    def end(self, items: list[Item], reader: Step | None, behind: Step | None) -> list[Item]:
        """Take down a stream that a normalization reads, or why these sums are none."""
        after: list[Step | None] = [behind]
        while items and isinstance(last := items[-1], Pass):
            after.insert(0, last.leaf)
            items.pop()
        whole = tuple(items)
        distinct = {one.key: one for one in written(whole) if isinstance(one, Branch)}
        for branch in distinct.values():
            for member in branch.members:
                self.sequence(self.members[member])
        if reader is None:
            leaves = [step for step in after if isinstance(step, Leaf)]
            weighted = [leaf for leaf in leaves if leaf.weight is not None]
            first = next(iter(weighted or leaves), None)
            self.placed.failures.update(dict.fromkeys(distinct, first))
        elif whole:
            before = [step for step in after[:-1] if step is not None]
            self.placed.inside.update(one.id for step in before for one in _weighted(step))
            lengths = [branch.length for branch in branches(whole)]
            self.streams.append(Stream(whole, tuple(accumulate(lengths, initial=Fraction(1)))))
            count = self.place(whole, At(len(self.streams) - 1, 0))
            for leaf_id in self.readers(reader):
                self.placed.readers[leaf_id] = At(len(self.streams) - 1, count)
        return []

    def place(self, items: Items, at: At) -> int:
        """Note what stands where in a stream; how many branches are behind the last item."""
        for item in items:
            match item:
                case Branch():
                    self.placed.readers.update(dict.fromkeys(item.readers, at))
                    at = replace(at, start=at.start + 1)
                    self.placed.members.update(dict.fromkeys(item.members, item.sum.add))
                    part: Sum | None = item.sum
                    while part is not None:
                        self.placed.sums[part.add.id] = (at, part)
                        self.placed.tuples[part.pack] = at
                        part = part.inner
                case Pass(leaf=leaf):
                    self.placed.passes[leaf.id] = at
                    self.placed.inside.update(one.id for one in _weighted(leaf))
                case Copies(repeat=repeat, runs=runs):
                    self.placed.loops[repeat] = at
                    for body, count, inner in runs:
                        stride = sum(1 for _ in branches(inner))
                        self.placed.runs[body] = RunOf(at, inner)
                        first = replace(
                            at, strides=(*at.strides, stride), counts=(*at.counts, count)
                        )
                        self.place(inner, first)
                        at = replace(at, start=at.start + stride * count)
        return at.start

    # -- what norms read -----------------------------------------------------------------------

    def degree(self, module: Module) -> int | None:
        """k where the module takes a·x to aᵏ times what it takes x to, for every a > 0.

        None where there is none, or another for each member of a tuple.
        """
        if module.id not in self.degrees:
            self.degrees[module.id] = self._degree(module)
        return self.degrees[module.id]

    def _degree(self, module: Module) -> int | None:
        match module:
            case Leaf(op=op):
                return op.degree(self.types[module.id][0])
            case Compose(steps=steps):
                degree: int | None = 1
                for step in steps:
                    if degree == 1:
                        degree = self.degree(step)
                return degree
            case Tuple(members=members):
                found = set(map(self.degree, members))
                return found.pop() if len(found) == 1 else None
            case Repeat(runs=runs):
                return 1 if {self.degree(run.body) for run in runs} == {1} else None
            case Around(body=body):
                return self.degree(body)
            case Scan() | Hole():
                return None

    def readers(self, module: Module) -> list[int]:
        """The operations by which a module of degree 0 loses the size of its input."""
        match module:
            case Compose(steps=steps):
                first = next(i for i, step in enumerate(steps) if self.degree(step) == 0)
                for step in steps[:first]:
                    self.placed.inside.update(leaf.id for leaf in _weighted(step))
                return self.readers(steps[first])
            case Tuple(members=members):
                return [leaf for member in members for leaf in self.readers(member)]
            case Assume(body=body):
                found = self.readers(body)
                self.placed.assumed[module.id] = found[0]
                return found
            case Around(body=body):
                return self.readers(body)
            case _:
                return [module.id]


def _weighted(module: Module) -> Iterator[Leaf]:
    """Operations with weights in a part."""
    return (one for one in walk(module) if isinstance(one, Leaf) and one.weight is not None)
