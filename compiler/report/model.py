"""What a report says of a model, as data: its facts, and its parts as a tree.

JSON, text, pages and comparisons are views of it. A repetition is there once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from typing import Any

from modnorm.diagnostics import Span
from modnorm.graph.modules import (
    Assume,
    Compose,
    Leaf,
    Module,
    Repeat,
    Scan,
    Scope,
    Shared,
    Tare,
    children,
    walk,
)
from modnorm.ops.base import Atom, Sharpness
from modnorm.passes.certificate import Certificate
from modnorm.passes.program import Program, Weight
from modnorm.report import words
from modnorm.report.words import as_float, shared_name, shared_path
from modnorm.stack import room

UNNAMED = ("compose", "tuple", "tare", "assume", "hole")
"""Kinds of what has no name: for most views its parts stand in the part around it."""


@dataclass(frozen=True)
class Facts:
    """What is said of the whole model, under the keys of the JSON report.

    `sensitivity` and `sharpness` are the declared ones. None stands for what is not known, and for
    a number that is not finite; of sharpness, α has to be known, which is what updates need.
    """

    model: str
    source: str
    params: dict[str, object]
    mass: float | None
    sensitivity: float | None
    certified_sensitivity: float | None
    kappa: float | None
    sharpness: dict[str, float | None] | None
    certified_sharpness: dict[str, float | None] | None
    weights: int
    loss: dict[str, Any] | None


@dataclass(frozen=True)
class Norm:
    """What is certified of a part's output: the letter of its norm, and the bounds of that."""

    kind: str
    low: float | None
    high: float | None

    def __str__(self) -> str:
        low = f"{words.number(self.low)} ≤ " if self.low else ""
        high = "" if self.high is None else f" ≤ {words.number(self.high)}"
        return f"{low}{self.kind or 'norm'}{high}"


@dataclass(eq=False)
class Part:
    """A position of the module tree; or the model itself, or a run of copies in a repetition.

    kind: "model", "copies" of a run, "repeat", "scan", "def", "where", "shared", "atom", "bond", or
        one of UNNAMED.
    each: its mass, that of one where it is there several `times` in the model. Of a repetition mass
        and sensitivities are those of all its copies. Of a shared module the mass is counted once,
        and other mentions of it have none, and no parts.
    count: how many copies a repetition has.
    run: how many copies a run of one has.
    parameters: how many numbers the weights in it have, of all copies.
    where: its line, and its file where that is not the model's own.
    number: its place in `Report.parts`, -1 where it has none.
    """

    module: Module
    kind: str
    name: str
    path: str
    outer: Part | None
    times: int
    each: float | None
    share: float
    sensitivity: float | None
    certified: float | None
    norm: Norm | None
    where: dict[str, int | str]
    count: int = 1
    run: int = 1
    weight: Weight | None = None
    parameters: int = 0
    number: int = -1
    inner: list[Part] = field(default_factory=list)

    def holds(self, inner: Iterable[Part]) -> None:
        """Take in the parts directly inside."""
        self.inner = [*inner]
        self.parameters += sum(part.parameters for part in self.inner)

    @property
    def mass(self) -> float:
        return (self.each or 0.0) * self.times

    @property
    def copies(self) -> int:
        """How often it is in the model; the copies of a repetition are counted one by one."""
        return self.times * self.count

    @property
    def title(self) -> str:
        return f"{self.name} × {self.count:,}" if self.count > 1 else self.name

    @property
    def op(self) -> str:
        return self.leaf.op.label if self.leaf else ""

    @property
    def call(self) -> str:
        """The operation with its arguments."""
        return words.call(self.leaf.op) if self.leaf else ""

    @property
    def leaf(self) -> Leaf | None:
        """Its position, where it is an operation."""
        is_leaf = self.kind in ("atom", "bond")
        return self.module if is_leaf and isinstance(self.module, Leaf) else None

    @property
    def targets(self) -> tuple[float, float] | None:
        return targets(self.weight) if self.weight else None

    @property
    def around(self) -> Part | None:
        """The part around it, of those that have a number."""
        part = self.outer
        while part is not None and part.number < 0:
            part = part.outer
        return part

    @property
    def is_run(self) -> bool:
        """Whether it is one of several runs of a repetition."""
        return self.kind == "copies" and self.outer is not None and len(self.outer.inner) > 1

    @property
    def is_copy(self) -> bool:
        """Whether it is the named part of which a run of a repetition has copies."""
        named, around = self.kind in ("def", "where"), self.outer
        return named and around is not None and (around.kind, around.path) == ("copies", self.path)

    def parts(self, hidden: Callable[[Part], bool]) -> Iterator[Part]:
        """The parts directly inside; in the place of a hidden one stand those in it."""
        for part in self.inner:
            if hidden(part):
                yield from part.parts(hidden)
            else:
                yield part


@dataclass(frozen=True)
class Report:
    """Facts, and the parts that have a name: the model itself, which all are in, comes first."""

    program: Program
    facts: Facts
    parts: list[Part]

    def by_id(self) -> dict[int, Part]:
        """Operations and repetitions by the ids of the module tree.

        Those of all mentions of a shared module lead to the parts of the one that has its mass.
        """
        kinds = ("atom", "bond", "repeat", "scan")
        found = {part.module.id: part for part in self.parts if part.kind in kinds}
        mentions = [m for m in walk(self.program.tree) if isinstance(m, Shared)]
        counted = {m.key: m.body for m in mentions if m.body.id in self.program.masses}
        for mention in mentions:
            for one, other in zip(walk(mention.body), walk(counted[mention.key]), strict=True):
                if other.id in found:
                    found.setdefault(one.id, found[other.id])
        return found


def described(program: Program) -> Report:
    """What a report says of a program."""
    with room():
        tree = _Tree(program).model()
        parts = [tree, *_named(tree)]
    for number, part in enumerate(parts):
        part.number = number
    return Report(program, _facts(program), parts)


def _named(part: Part) -> Iterator[Part]:
    for inner in part.parts(_is_unnamed):
        yield inner
        yield from _named(inner)


def _is_unnamed(part: Part) -> bool:
    """Whether a list of named parts leaves a position out.

    Of a repetition with one run there is one entry, which also stands for a part of its name.
    """
    if part.kind in UNNAMED or part.is_copy:
        return True
    if part.kind == "copies":
        return not part.is_run
    inside = part.inner
    while part.kind != "repeat" and len(inside) == 1 and inside[0].kind in UNNAMED:
        inside = inside[0].inner
    return len(inside) == 1 and inside[0].kind == "repeat" and inside[0].path == part.path


def certified(program: Program) -> Certificate:
    assert program.certificate is not None, "the program has not been certified"
    return program.certificate


@dataclass(frozen=True)
class Assumption:
    """A sensitivity that is assumed, the one that would be declared without, and what is proved.

    `certified` is None where there is no bound: an assumption is none.
    """

    sensitivity: float | None
    otherwise: float | None
    certified: float | None
    place: Mapping[str, int | str]
    span: Span

    def __str__(self) -> str:
        one, other, proved = (
            words.number(value) for value in (self.sensitivity, self.otherwise, self.certified)
        )
        return (
            f"sensitivity {one} at {self.span}, where {other} would be declared; certified {proved}"
        )


def assumptions(program: Program) -> Iterator[Assumption]:
    """What is assumed, once for all mentions of a place that say the same."""
    parts = certified(program).parts
    seen: set[tuple[Span, float | None]] = set()
    for i, found in program.assumptions.items():
        span, otherwise = found.module.span, finite(found.otherwise)
        if (span, otherwise) not in seen:
            seen.add((span, otherwise))
            proved = finite(parts[i].sensitivity) if i in parts else None
            where = words.place(span, program)
            yield Assumption(finite(found.module.sensitivity), otherwise, proved, where, span)


def norm(program: Program, position: int) -> Norm | None:
    """What is certified of the output at a position of the module tree."""
    bound = certified(program).parts.get(position)
    return Norm(bound.norm, finite(bound.low), finite(bound.high)) if bound else None


def _facts(program: Program) -> Facts:
    found = certified(program)
    loss = program.smoothness
    return Facts(
        model=program.name,
        source=program.source.name,
        params={
            name: value if isinstance(value, bool | int | str) else finite(value)
            for name, value in program.params.items()
        },
        mass=finite(program.mass),
        sensitivity=finite(program.sensitivity),
        certified_sensitivity=finite(found.parts[program.tree.id].sensitivity),
        kappa=found.kappa,
        sharpness=_sharpness(program.sharpness[program.tree.id]),
        certified_sharpness=_sharpness(found.sharpness),
        weights=program.entries,
        loss=None if loss is None else asdict(loss),
    )


def _sharpness(found: Sharpness | None) -> dict[str, float | None] | None:
    if found is None or not math.isfinite(found.alpha):
        return None
    return {key: finite(value) for key, value in asdict(found).items()}


def finite(value: object) -> float | None:
    """A real as a float; None for a reason in words, and for what no float can hold."""
    if not isinstance(value, float):
        if not isinstance(value, int | Fraction):
            return None
        value = as_float(value)
    return value if math.isfinite(value) else None


def targets(weight: Weight) -> tuple[float, float]:
    """The targets of the first and of the last copy of a weight."""
    last = as_float(weight.target)
    factor = weight.later((0,) * len(weight.levels))
    return (last / factor if factor else 0.0), last


class _Tree:
    """Makes the parts of a program."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.weights = {weight.path: weight for weight in program.weights}
        self.whole = finite(program.mass) or 0.0

    def model(self) -> Part:
        tree = self.program.tree
        root = self.part(tree, "model", self.program.name, "", None, 1)
        root.holds([self.at(tree, root, 1)])
        return root

    def at(self, module: Module, outer: Part, times: int) -> Part:
        """The part at a position, with all in it."""
        path = module.path if isinstance(module, Leaf | Scope | Repeat | Scan) else ""
        name = path.rpartition(".")[2]
        match module:
            case Leaf(op=op):
                kind = "atom" if isinstance(op, Atom) else "bond"
            case Scope(kind=kind, name=name):
                pass
            case Scan():
                kind, name = "scan", "Scan"
            case Shared():
                # counted once, however often the repetitions around it use it
                kind, name, path, times = "shared", shared_name(module), shared_path(module), 1
            case Repeat(count=count):
                part = self.part(module, "repeat", name or f"0…{count - 1}", path, outer, times)
                part.count = count
                part.holds(self.runs(module, part))
                return part
            case _:
                kind = type(module).__name__.lower()
        part = self.part(module, kind, name, path, outer, times)
        part.holds(self.at(inner, part, times) for inner in self.inside(module))
        return part

    def runs(self, repeat: Repeat, part: Part) -> Iterator[Part]:
        start = 0
        for run in repeat.runs:
            end = f"…{start + run.count - 1}" if run.count > 1 else ""
            name = f"{start}{end}{run.path.rpartition('}')[2]}"
            # a shared module is counted once here too
            times = 1 if isinstance(run.body, Shared) else part.times * run.count
            copies = self.part(run.body, "copies", name, run.path, part, times)
            copies.run = run.count
            copies.holds([self.at(run.body, copies, times)])
            yield copies
            start += run.count

    def inside(self, module: Module) -> tuple[Module, ...]:
        """What stands below a module; the steps of a composition that is all there is in it."""
        match module:
            case Shared(body=body) if body.id not in self.program.masses:
                return ()
            case Scope(body=Compose(steps=steps)) | Shared(body=Compose(steps=steps)):
                return steps
            case Tare(body=Compose(steps=steps)) | Assume(body=Compose(steps=steps)):
                return steps
        return children(module)

    def part(
        self, module: Module, kind: str, name: str, path: str, outer: Part | None, times: int
    ) -> Part:
        program = self.program
        counted = module.body if isinstance(module, Shared) else module
        each = finite(program.masses.get(counted.id, 0))
        bound = certified(program).parts.get(module.id)
        weight = self.weights[path] if kind == "atom" else None
        return Part(
            module=module,
            kind=kind,
            name=name,
            path=path,
            outer=outer,
            times=times,
            each=each,
            share=(each or 0.0) * times / self.whole if self.whole else 0.0,
            sensitivity=finite(program.sensitivities[module.id]),
            certified=finite(bound.sensitivity) if bound else None,
            norm=norm(program, module.id),
            where=words.place(module.span, program),
            weight=weight,
            parameters=math.prod(weight.op.weight_shape) * times if weight else 0,
        )
