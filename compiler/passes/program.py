"""What the passes read and extend, and how they are run."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import product
from typing import ClassVar, Literal, Protocol

from modnorm.diagnostics import Diagnostic, Diagnostics, Source, Span
from modnorm.graph.dataflow import Region
from modnorm.graph.modules import Assume, Module, Run, Stored, Tare
from modnorm.graph.renames import Rename
from modnorm.graph.values import Value
from modnorm.ops.base import Atom, Sharpness
from modnorm.ops.types import Real, Size, Tensor, Type
from modnorm.passes.certificate import Certificate, Smoothness
from modnorm.passes.streams import Streams


@dataclass(frozen=True)
class ModelInput:
    """A declared input of the model."""

    name: str
    type: Tensor
    span: Span


@dataclass(frozen=True)
class Level:
    """One enclosing repetition of a weight: `count` copies, the first with index `start`.

    A copy's downstream sensitivity is `ratio` times that of the next copy.
    """

    start: int
    count: int
    ratio: Real


@dataclass(frozen=True)
class Place:
    """What differs from copy to copy of a repetition in a residual stream, by the place there.

    It is the entry of `table` number start + strides · (i, j, …), for the copy with the indices
    (i, j, …) in the repetitions from the one with the number `outermost` on. The table is the
    stream's `reach`, or its `terms`.
    """

    stream: int
    name: Literal["reach", "terms"]
    table: tuple[float, ...]
    start: int
    strides: tuple[int, ...]
    outermost: int = 0

    def __call__(self, indices: tuple[int, ...]) -> float:
        """The entry for one copy."""
        own = zip(self.strides, indices[self.outermost :], strict=False)
        return self.table[self.start + sum(stride * index for stride, index in own)]

    @property
    def levels(self) -> range:
        """The repetitions, from 0, that the strides are for."""
        return range(self.outermost, self.outermost + len(self.strides))

    def inside(self, indices: tuple[int, ...]) -> Place:
        """The place in given copies of the outermost repetitions, numbered without these."""
        known = indices[self.outermost :]
        start = self.start + sum(s * i for s, i in zip(self.strides, known, strict=False))
        left = max(self.outermost - len(indices), 0)
        return replace(self, start=start, strides=self.strides[len(known) :], outermost=left)


@dataclass(frozen=True)
class Term:
    """A part of a downstream sensitivity that differs from copy to copy of residual streams."""

    factor: float
    places: tuple[Place, ...]

    def __call__(self, indices: tuple[int, ...]) -> float:
        return self.factor * math.prod(place(indices) for place in self.places)


@dataclass(frozen=True)
class Steps:
    """What is declared of a scan: how far a new state moves with the one before, and how often.

    `total` is the sum of all powers of `state` below the number of steps; of all, where that is
    free: how far the states move, at most, when what enters at every step moves one by 1.
    """

    state: Real
    count: Size
    total: Real


@dataclass(frozen=True)
class Tared:
    """What a `tare` does to what is in it, whose masses summed to `before`: a factor for each."""

    tare: Tare
    before: Real
    factor: Real


@dataclass(frozen=True)
class Assumed:
    """A sensitivity that is assumed, and the one that would be declared without: `otherwise`.

    `factor` is the first over the second.
    """

    module: Assume
    otherwise: Real
    factor: Real


@dataclass(frozen=True)
class Weight:
    """One weight, or, inside repetitions, all its copies.

    `path` is a template with one index for each of `levels`, outermost first. `downstream` is the
    sensitivity downstream of the last copy, and `target` that copy's target. `stored` is what its
    parameter belongs to, where that is not its own. `terms`, of a weight in a repetition in a
    residual stream, sum to the downstream sensitivity of each copy.
    """

    path: str
    op: Atom
    span: Span
    mass: Real
    downstream: Real
    target: Real
    levels: tuple[Level, ...] = ()
    uses: int = 1
    stored: Stored | None = None
    terms: tuple[Term, ...] = ()

    @property
    def holder(self) -> str:
        """The path of the module that has its parameter: a template, as its own."""
        return self.stored.holder(self.path) if self.stored else self.path

    @property
    def copies(self) -> int:
        total = 1
        for level in self.levels:
            total *= level.count
        return total

    @property
    def last(self) -> tuple[int, ...]:
        """The indices of the last copy."""
        return tuple(level.count - 1 for level in self.levels)

    @cached_property
    def last_terms(self) -> float:
        """The sum of the terms for the last copy."""
        return sum(term(self.last) for term in self.terms)

    def later(self, indices: tuple[int, ...]) -> float:
        """The downstream sensitivity of a copy over that of the last copy."""
        factor = 1.0
        for level, index in zip(self.levels, indices, strict=True):
            factor *= float(level.ratio) ** (level.count - 1 - index)
        if self.terms:
            factor *= sum(term(indices) for term in self.terms) / self.last_terms
        return factor

    @property
    def streamed(self) -> frozenset[int]:
        """The levels, from 0, that are repetitions in residual streams: their ratio is 1."""
        places = [place for term in self.terms for place in term.places]
        return frozenset(n for place in places for n in place.levels)

    @cached_property
    def along(self) -> tuple[tuple[float, tuple[int, ...]], ...]:
        """`later` and indices of every copy in `streamed` levels, in the last of the others."""
        inside = self.streamed
        counts = [
            range(level.count) if n in inside else (level.count - 1,)
            for n, level in enumerate(self.levels)
        ]
        return tuple((self.later(indices), indices) for indices in product(*counts))


@dataclass(frozen=True)
class Program:
    """A model between parsing and code generation. Passes fill in the fields from `types` on.

    `types`, `masses`, `sensitivities` and `sharpness` are by id of the module tree, `leaf_masses`
    and the `tares` around a weight, outermost first, by its path. `passing` are sensitivities in
    what comes in alone; the others count the inputs that are named inside, too. `steps` of the
    scans and `assumptions` are by id.
    """

    name: str
    source: Source
    span: Span
    params: Mapping[str, Value]
    inputs: tuple[ModelInput, ...]
    tree: Module
    renames: tuple[Rename, ...] = ()
    types: Mapping[int, tuple[Type, Type]] = field(default_factory=dict)
    streams: Streams = field(default_factory=Streams)
    masses: Mapping[int, Real] = field(default_factory=dict)
    leaf_masses: Mapping[str, Real] = field(default_factory=dict)
    tares: Mapping[str, tuple[Tared, ...]] = field(default_factory=dict)
    sensitivities: Mapping[int, Real] = field(default_factory=dict)
    passing: Mapping[int, Real] = field(default_factory=dict)
    steps: Mapping[int, Steps] = field(default_factory=dict)
    assumptions: Mapping[int, Assumed] = field(default_factory=dict)
    sharpness: Mapping[int, Sharpness | None] = field(default_factory=dict)
    graph: Region | None = None
    weights: tuple[Weight, ...] = ()
    entries: int = 0
    certificate: Certificate | None = None
    smoothness: Smoothness | None = None
    curvature: tuple[Smoothness, ...] = ()

    @property
    def mass(self) -> Real:
        return self.masses[self.tree.id]

    @property
    def sensitivity(self) -> Real:
        return self.sensitivities[self.tree.id]

    def growth(self, run: Run) -> float:
        """g such that the copy j before a run's last has at most gʲ times the targets of that."""
        if run.body.id in self.streams.runs:
            return self.streams.growth(run)
        # a body of sensitivity 0 has one copy
        return 1 / (float(self.passing[run.body.id]) or 1.0)

    @property
    def flow(self) -> Region:
        assert self.graph is not None, "the data flow has not been built yet"
        return self.graph


class Pass(Protocol):
    """One step from a program to a program that knows more. A pass is a frozen dataclass."""

    name: ClassVar[str]

    def run(self, program: Program, diagnostics: Diagnostics) -> Program:
        """The program with this pass's fields filled in; mistakes go to `diagnostics`."""
        ...

    def verify(self, program: Program) -> None:
        """Assert what must hold after this pass: a failure is a bug of the compiler."""
        ...


Hook = Callable[[Pass, Program], None]


def run_passes(
    program: Program,
    passes: tuple[Pass, ...],
    diagnostics: Diagnostics,
    hook: Hook | None = None,
) -> Program:
    """Run passes in order; stop after the first that reports an error.

    `hook` is called with each pass and the program after it, to print or time.

    Raises:
        ModnormError: if a pass reported an error.
    """
    for step in passes:
        try:
            program = step.run(program, diagnostics)
        except OverflowError:
            message = f"the numbers of `{program.name}` are more than a float can hold"
            hint = "bring scales, masses and sensitivities nearer to 1"
            diagnostics.add(Diagnostic("E501", message, program.span, hint=hint))
        diagnostics.check()
        step.verify(program)
        if hook is not None:
            hook(step, program)
    return program
