"""What the passes read and extend, and how they are run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

from modnorm.diagnostics import Diagnostic, Diagnostics, Source, Span
from modnorm.graph.dataflow import Region
from modnorm.graph.modules import Module, Stored, Tare
from modnorm.graph.values import Value
from modnorm.ops.base import Atom, Sharpness
from modnorm.ops.types import Real, Tensor, Type
from modnorm.passes.certificate import Certificate, Smoothness


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
class Tared:
    """What a `tare` does to what is in it, whose masses summed to `before`: a factor for each."""

    tare: Tare
    before: Real
    factor: Real


@dataclass(frozen=True)
class Weight:
    """One weight, or, inside repetitions, all its copies.

    `path` is a template with one index for each of `levels`, outermost first. `downstream` is the
    sensitivity downstream of the last copy, and `target` that copy's target. `stored` is what its
    parameter belongs to, where that is not its own.
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


@dataclass(frozen=True)
class Program:
    """A model between parsing and code generation. Passes fill in the fields from `types` on.

    `types`, `masses`, `sensitivities` and `sharpness` are by id of the module tree, `leaf_masses`
    and the `tares` around a weight, outermost first, by its path. `passing` are sensitivities in
    what comes in alone; the others count the inputs that are named inside, too.
    """

    name: str
    source: Source
    span: Span
    params: Mapping[str, Value]
    inputs: tuple[ModelInput, ...]
    tree: Module
    types: Mapping[int, tuple[Type, Type]] = field(default_factory=dict)
    masses: Mapping[int, Real] = field(default_factory=dict)
    leaf_masses: Mapping[str, Real] = field(default_factory=dict)
    tares: Mapping[str, tuple[Tared, ...]] = field(default_factory=dict)
    sensitivities: Mapping[int, Real] = field(default_factory=dict)
    passing: Mapping[int, Real] = field(default_factory=dict)
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
