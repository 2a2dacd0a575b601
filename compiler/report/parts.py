"""The named parts of a model as rows of a table: masses, sensitivities and targets of each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from math import isclose

from modnorm.graph.modules import Leaf, Module, Repeat, Scope, Shared, children
from modnorm.ops.base import Atom
from modnorm.passes.program import Program
from modnorm.passes.sensitivity import power
from modnorm.report.nodes import targets
from modnorm.report.words import as_float, shared_name

INDENT = 3
DRAWN = 8
"""Levels that are drawn; before a part deeper than that stands the number of its level."""


@dataclass(eq=False)
class Part:
    """A named part, or a weight. Of a repetition: all copies together.

    `targets` are those of the first and of the last copy of a weight; None for other parts.
    `certified` is the certified sensitivity, None where there is no bound.
    """

    name: str
    mass: float
    sensitivity: float
    certified: float | None
    targets: tuple[float, float] | None = None
    copies: int = 1
    parts: list[Part] = field(default_factory=list)

    @property
    def title(self) -> str:
        return f"{self.name} × {self.copies:,}" if self.copies > 1 else self.name


@dataclass(frozen=True)
class Row:
    """A part as it stands in the table: its level, the lines drawn before it, its share."""

    guide: str
    level: int
    part: Part
    share: float


def rows(program: Program) -> Iterator[Row]:
    """The model and its parts, in execution order.

    Parts without weights are left out where their sensitivity is 1. Where a part holds one other
    part and nothing else that matters, the two are one row with both names.
    """
    root = _tree(program)
    order = [root]
    for part in order:
        order.extend(part.parts)
    for part in reversed(order):
        part.parts = [p for p in map(_joined, part.parts) if _is_shown(p)]
    stack = [(root, 0, "", "")]
    while stack:
        part, level, guide, below = stack.pop()
        yield Row(guide, level, part, part.mass / root.mass if root.mass else 0.0)
        last = len(part.parts) - 1
        for i, inner in reversed([*enumerate(part.parts)]):
            branch, under = ("└─ ", "   ") if i == last else ("├─ ", "│  ")
            if level < DRAWN:
                stack.append((inner, level + 1, below + branch, below + under))
            else:
                number = f"{level + 1:>{INDENT * DRAWN}} "
                stack.append((inner, level + 1, number, below))


def _is_shown(part: Part) -> bool:
    return bool(part.parts) or part.targets is not None or not isclose(part.sensitivity, 1)


def _joined(part: Part) -> Part:
    """The part and its only inner one as one, if the two have the same mass and sensitivity."""
    if len(part.parts) != 1 or part.copies > 1:
        return part
    (inner,) = part.parts
    if not (isclose(part.mass, inner.mass) and isclose(part.sensitivity, inner.sensitivity)):
        return part
    return replace(inner, name=f"{part.name}.{inner.name}", certified=part.certified)


@dataclass(frozen=True)
class _Place:
    """A module that is still to be looked at, the part around it, and how often it is there."""

    module: Module
    around: Part
    times: int


def _tree(program: Program) -> Part:
    weights = {weight.path: weight for weight in program.weights}
    root = Part(
        program.name,
        as_float(program.mass),
        as_float(program.sensitivity),
        _certified(program.tree, program),
    )
    stack = [_Place(program.tree, root, 1)]
    while stack:
        place = stack.pop()
        module, times = place.module, place.times
        match module:
            case Leaf(op=Atom(), path=path):
                part = _part(path, module, program, times)
                part.targets = targets(weights[path])
                place.around.parts.append(part)
            case Scope(path=path, body=body):
                part = _part(path, module, program, times)
                place.around.parts.append(part)
                stack.append(_Place(body, part, times))
            case Shared(body=body):
                # counted once, however often the repetitions around it use it
                part = _part(shared_name(module), body, program, 1)
                place.around.parts.append(part)
                if body.id in program.masses:
                    stack.append(_Place(body, part, 1))
            case Repeat():
                stack.extend(reversed(_copies(place, module, program)))
            case _:
                inner = children(module)
                stack.extend(_Place(child, place.around, times) for child in reversed(inner))
    return root


def _copies(place: _Place, repeat: Repeat, program: Program) -> list[_Place]:
    """The bodies of a repetition, each in a part of its own; a single one in the whole's."""
    around, times = place.around, place.times
    named = _is_named(repeat)
    found: list[_Place] = []
    if named:
        whole = _part(repeat.path, repeat, program, times, repeat.count)
        around.parts.append(whole)
        around = whole
    start = 0
    for run in repeat.runs:
        inner = around
        if not named or len(repeat.runs) > 1:
            inner = _part("", run.body, program, times * run.count, run.count)
            inner.sensitivity = as_float(power(program.sensitivities[run.body.id], run.count))
            end = start + run.count - 1
            suffix = run.path.rpartition("}")[2]
            inner.name = f"{start}…{end}{suffix}" if run.count > 1 else f"{start}{suffix}"
            around.parts.append(inner)
        body = run.body.body if isinstance(run.body, Scope) and named else run.body
        found.append(_Place(body, inner, times * run.count))
        start += run.count
    return found


def _is_named(repeat: Repeat) -> bool:
    """Whether the copies have a name, so that they stand in a list of their own."""
    return all(isinstance(run.body, Scope) and run.body.path == run.path for run in repeat.runs)


def _part(path: str, module: Module, program: Program, times: int, copies: int = 1) -> Part:
    mass = as_float(program.masses.get(module.id, 0)) * times
    sensitivity = as_float(program.sensitivities[module.id])
    name = path.rpartition(".")[2]
    return Part(name, mass, sensitivity, _certified(module, program), copies=copies)


def _certified(module: Module, program: Program) -> float | None:
    if program.certificate is None or module.id not in program.certificate.parts:
        return None
    found = program.certificate.parts[module.id].sensitivity
    return None if isinstance(found, str) else found
