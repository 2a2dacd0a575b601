"""Residual streams: chains of `x + f(norm(x))` whose sum is only read through normalizations.

Such a chain is a running mean. With x_k = x_{k-1} + f_k(norm(x_{k-1})) and the mean
y_k = x_k / (k + 1) it is y_k = k/(k+1)·y_{k-1} + 1/(k+1)·f_k(norm(y_{k-1})), since a normalization
takes the factor out (its eps scaled along). In the values as they are that says: the normalization
that reads the sum of k terms has sensitivity 1/k, not 1. Everything else follows by the usual
rules: branch k adds μ_k/k to the stream's sensitivity, and what stands behind the last branch
divides it by the number of terms. Source: docs/mathematics.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import product
from typing import TypeAlias

from modnorm.graph.modules import Leaf, Module, Run
from modnorm.ops.types import Real


@dataclass(frozen=True)
class At:
    """A place of a stream: behind so many branches.

    In repetitions it is that of the first copy; each further copy of one of them, outermost first,
    is behind `strides` more, and there are `counts` of them. `stream` is a number of `Streams`.
    """

    stream: int
    start: int
    strides: tuple[int, ...] = ()
    counts: tuple[int, ...] = ()

    def place(self, indices: Iterable[int]) -> int:
        """Behind how many branches a copy is."""
        return self.start + sum(s * i for s, i in zip(self.strides, indices, strict=True))

    @property
    def last(self) -> int:
        """Behind how many the last copies are."""
        return self.place(count - 1 for count in self.counts)


@dataclass(frozen=True)
class Sum:
    """A sum of the skip, a member of a tuple, and what is added to it.

    `add` adds the members of the tuple with the id `pack`. In x + f + g, which is a sum in a sum,
    the skip of the outer one is the inner one.
    """

    add: Leaf
    pack: int
    skip: int
    inner: Sum | None = None


@dataclass(frozen=True)
class Branch:
    """What is added to a stream at once.

    `members` are ids of what is added, `length` how much that is, 1 for each of them but for scalar
    factors; `readers` are the normalizations that read the stream.
    """

    sum: Sum
    members: tuple[int, ...]
    readers: tuple[int, ...]
    length: Real

    @property
    def key(self) -> int:
        """The id of the operation that adds."""
        return self.sum.add.id


@dataclass(frozen=True)
class Pass:
    """An operation on the stream itself that keeps its size, such as Dropout."""

    leaf: Leaf


@dataclass(frozen=True)
class Copies:
    """Copies of some of a stream's items: of each run the body's id, the count, and the items."""

    repeat: int
    runs: tuple[tuple[int, int, Items], ...]


Item: TypeAlias = Branch | Pass | Copies
Items: TypeAlias = tuple[Item, ...]


@dataclass(frozen=True)
class Stream:
    """One stream.

    `sizes[k]` is how many terms the sum behind k branches has. Once sensitivities are known,
    `added` has by the id of the operation that adds how far the branch moves with a stream of one
    term, and `reach[k]` is how far the stream's end moves with the sum behind k branches.
    """

    items: Items
    sizes: tuple[Real, ...]
    added: Mapping[int, float] = field(default_factory=dict)
    reach: tuple[float, ...] = ()

    @property
    def count(self) -> int:
        """The number of branches."""
        return len(self.sizes) - 1


@dataclass(frozen=True)
class RunOf:
    """A run of a repetition in a stream: the place of its first copy's start, and its items."""

    at: At
    items: Items


@dataclass(frozen=True)
class Streams:
    """The streams of a program, and what of it belongs to one.

    readers: by a normalization's id the place that it reads.
    sums: by the id of the leaf that adds, the place behind it, and the sum.
    tuples: by the id of such a tuple, the same place.
    members: by the id of what is added, the leaf that adds it.
    passes: by id the place of an operation on the stream itself.
    inside: ids of what stands between a sum and the normalization that reads it.
    runs: by the body's id.
    assumed: by the id of a part whose sensitivity is assumed, a normalization by which it begins.
    loops: by id of a repetition the place where it begins.
    failures: by the id of the leaf that adds, for plain residuals that are in no stream, what reads
        such a sum without a norm; None where that is no operation, or nothing reads it.
    """

    streams: tuple[Stream, ...] = ()
    readers: dict[int, At] = field(default_factory=dict)
    sums: dict[int, tuple[At, Sum]] = field(default_factory=dict)
    tuples: dict[int, At] = field(default_factory=dict)
    members: dict[int, Leaf] = field(default_factory=dict)
    passes: dict[int, At] = field(default_factory=dict)
    inside: set[int] = field(default_factory=set)
    runs: dict[int, RunOf] = field(default_factory=dict)
    assumed: dict[int, int] = field(default_factory=dict)
    loops: dict[int, At] = field(default_factory=dict)
    failures: dict[int, Leaf | None] = field(default_factory=dict)

    def place(self, module: Module) -> At | None:
        """Where in a stream something is that belongs to its chain of sums."""
        kinds = (self.tuples, self.passes, self.loops)
        if module.id in self.sums:
            return self.sums[module.id][0]
        return next((kind[module.id] for kind in kinds if module.id in kind), None)

    def growth(self, run: Run) -> float:
        """That of `Program.growth`, for a run of a stream.

        A target is one over `reach`, which falls along a stream; for what takes the sum itself one
        over `reach` times the number of terms, which may rise.
        """
        own = self.runs[run.body.id]
        stream, step = self.streams[own.at.stream], sum(1 for _ in branches(own.items))
        tables = [stream.reach]
        if any(isinstance(item, Pass) and item.leaf.weight for item in written(own.items)):
            pairs = zip(stream.reach, stream.sizes, strict=True)
            tables.append(tuple(reach * float(terms) for reach, terms in pairs))
        growth = 0.0
        for indices in product(*map(range, own.at.counts)):
            last = own.at.place(indices) + step * (run.count - 1)
            for table, place in product(tables, range(last, last + step + 1)):
                before = range(1, run.count)
                found = ((table[place] / table[place - step * j]) ** (1 / j) for j in before)
                growth = max(growth, *found, 0.0)
        return growth or 1.0  # of one copy

    def size(self, reader: int) -> Real:
        """How many terms the sum has that a normalization reads, in the last copy; 1 if it is none
        of a stream."""
        at = self.readers.get(reader)
        return 1 if at is None else self.streams[at.stream].sizes[at.last]


def branches(items: Items) -> Iterator[Branch]:
    """The branches in order, every copy."""
    for item in items:
        if isinstance(item, Branch):
            yield item
        elif isinstance(item, Copies):
            for _, count, inner in item.runs:
                for _ in range(count):
                    yield from branches(inner)


def written(items: Items) -> Iterator[Branch | Pass]:
    """What stands in a stream, that of copies once."""
    for item in items:
        if isinstance(item, Copies):
            for _, _, inner in item.runs:
                yield from written(inner)
        else:
            yield item
