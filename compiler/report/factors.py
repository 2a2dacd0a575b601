"""How one weight's target comes about, factor by factor: the data behind `modnorm explain`.

    target = (mass / whole mass) / (sensitivity downstream, added up over the weight's uses)

A mass is what the atom declares times the factor of every `tare` around it. The sensitivity
downstream of a use is read off the module tree: the product over all that stands behind it in the
compositions around it. Source: Large et al. 2024 (arXiv 2405.14813), Definitions 4 and 6.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from modnorm.codegen.plan import Record
from modnorm.diagnostics import Span
from modnorm.graph.modules import (
    Compose,
    Leaf,
    Module,
    Repeat,
    Scope,
    Shared,
    Tare,
    Tuple,
    children,
)
from modnorm.ops.types import Real
from modnorm.passes.certificate import Certificate
from modnorm.passes.masses import divide
from modnorm.passes.program import Program, Weight
from modnorm.passes.sensitivity import power, times
from modnorm.passes.targets import geometric
from modnorm.report.words import call, exact, shared_name

Trail = tuple[tuple[Module, int], ...]
"""From the root to a place in the tree: every node passed, and which of its parts was taken."""


@dataclass(frozen=True)
class Factor:
    """One factor: its value, what it belongs to, and, where it is no single number, its terms."""

    value: Real
    what: str
    span: Span
    terms: str = ""


@dataclass(frozen=True)
class Use:
    """A place where the weight is used, with the sensitivities from there to the output."""

    what: str
    span: Span
    factors: tuple[Factor, ...]
    product: Real


@dataclass(frozen=True)
class Explanation:
    """One copy of a weight, and every number that its target is made of."""

    model: str
    record: Record
    declared: Real
    tares: tuple[Factor, ...]
    mass: Real
    whole: Real
    share: Real
    uses: tuple[Use, ...]
    downstream: Real
    target: Real
    certificate: Certificate | None

    @property
    def weight(self) -> Weight:
        return self.record.weight


def explain(program: Program, record: Record) -> Explanation:
    """The explanation of one copy of a weight; `record` is one of `records(program)`."""
    weight = record.weight
    mass = weight.mass
    share: Real = divide(mass, program.mass) if program.mass else 0
    indices = _indices(record)
    uses = tuple(_use(trail, program, indices) for trail in _trails(program.tree, weight.path))
    downstream: Real = sum(use.product for use in uses)
    return Explanation(
        program.name,
        record,
        weight.op.mass,
        tuple(_tares(program, weight)),
        mass,
        program.mass,
        share,
        uses,
        downstream,
        divide(share, downstream),
        program.certificate,
    )


def product(factors: Iterable[Factor]) -> Real:
    """The product of the factors' values, exact where they are."""
    result: Real = 1
    for factor in factors:
        result = times(result, factor.value)
    return result


def _indices(record: Record) -> tuple[int, ...]:
    """Which copy it is: an index from 0 for each repetition around it, outermost first."""
    parts = re.split(r"\{\d+\}", record.weight.path)
    found = re.fullmatch(r"(\d+)".join(map(re.escape, parts)), record.path)
    assert found is not None, record.path
    return tuple(
        int(index) - level.start
        for index, level in zip(found.groups(), record.weight.levels, strict=True)
    )


# --- sensitivities ---------------------------------------------------------------------------


def _trails(tree: Module, path: str) -> Iterator[Trail]:
    """The way to every use of a weight, in execution order."""
    stack: list[tuple[Module, Trail]] = [(tree, ())]
    while stack:
        node, trail = stack.pop()
        if isinstance(node, Leaf) and node.weight == path:
            yield (*trail, (node, 0))
        parts = children(node)
        stack.extend((part, (*trail, (node, i))) for i, part in reversed([*enumerate(parts)]))


def _use(trail: Trail, program: Program, indices: tuple[int, ...]) -> Use:
    leaf = trail[-1][0]
    assert isinstance(leaf, Leaf)
    repeats = [node for node, _ in trail if isinstance(node, Repeat)]
    # repetitions outside a shared module repeat its use, not its weight
    outer = len(repeats) - len(indices)
    own = {repeat.id: index for repeat, index in zip(repeats[outer:], indices, strict=True)}
    factors: list[Factor] = []
    for node, at in reversed(trail):
        if isinstance(node, Compose):
            for step in node.steps[at + 1 :]:
                factors.extend(_through(step, program))
        elif isinstance(node, Repeat):
            run = node.runs[at]
            one = program.sensitivities[run.body.id]
            if node.id not in own:
                terms = f"1 + … + {exact(one)}^{run.count - 1}" if run.count > 2 else ""
                what = f"used in {_copies(run.count)} of {_name(run.body)}"
                factors.append(Factor(geometric(one, run.count), what, node.span, terms))
            elif (later := run.count - 1 - own[node.id]) > 0:
                factors.append(_power(one, later, run.body, node.span, "later "))
            for after in node.runs[at + 1 :]:
                one = program.sensitivities[after.body.id]
                factors.append(_power(one, after.count, after.body, node.span))
    return Use(call(leaf.op), leaf.span, tuple(factors), product(factors))


def _through(module: Module, program: Program) -> Iterator[Factor]:
    """The factors of all of a module, one operation after the other."""
    stack = [module]
    while stack:
        node = stack.pop()
        match node:
            case Leaf(op=op, span=span):
                yield Factor(program.sensitivities[node.id], call(op), span)
            case Tuple(members=members, span=span):
                values = [program.sensitivities[member.id] for member in members]
                terms = " + ".join(map(exact, values))
                yield Factor(program.sensitivities[node.id], _name(node), span, terms)
            case Repeat(runs=runs, span=span):
                for run in runs:
                    one = program.sensitivities[run.body.id]
                    yield _power(one, run.count, run.body, span)
            case _:
                stack.extend(reversed(children(node)))


def _power(one: Real, count: int, body: Module, span: Span, which: str = "") -> Factor:
    what = f"{_copies(count, which)} of {_name(body)}"
    return Factor(power(one, count), what, span, f"{exact(one)}^{count}" if count > 1 else "")


def _copies(count: int, which: str = "") -> str:
    return f"{count:,} {which}{'copy' if count == 1 else 'copies'}"


def _name(module: Module) -> str:
    """A module in one word: its name or operation, or what it begins with."""
    match module:
        case Scope(name=name):
            return name
        case Shared():
            return shared_name(module)
        case Leaf(op=op):
            return call(op)
        case Tare(body=body):
            return _name(body)
        case Repeat(runs=(run,)):
            return f"{_name(run.body)} ** {run.count}"
        case Compose(steps=steps):
            first, second = steps[:2]
            scaled = isinstance(second, Leaf) and second.op.scalar is not None
            short = scaled and len(steps) == 2
            return _name(first) if short else f"({_name(first)} >> …)"
        case Tuple(members=members):
            return f"({', '.join(map(_name, members))})"
    return "…"


# --- masses ----------------------------------------------------------------------------------


def _tares(program: Program, weight: Weight) -> Iterator[Factor]:
    """Every `tare` around a weight, innermost first, with the factor that it puts on its mass."""
    tares = program.tares[weight.path][::-1]
    if zero := next((tared for tared in tares if tared.factor == 0), None):
        yield Factor(0, "tare to mass 0", zero.tare.span)
        return
    for tared in tares if weight.op.mass else ():
        what = f"tare from {exact(tared.before)} to {exact(tared.tare.mass)}"
        yield Factor(tared.factor, what, tared.tare.span)
