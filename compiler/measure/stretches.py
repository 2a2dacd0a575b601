"""Every position of the module tree, measured: its inputs' sizes, and how far it stretches them."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from modnorm.graph.modules import (
    Assume,
    Leaf,
    Module,
    Repeat,
    Scan,
    Scope,
    Shared,
    children,
    walk,
)
from modnorm.graph.numbers import show
from modnorm.graph.paths import instance
from modnorm.measure.certificates import Certificates, Proved
from modnorm.measure.interpreter import Indices, Interpreter, buffers, copies, weight_name
from modnorm.measure.search import Effort, Problem, largest_stretch, stretch_at
from modnorm.measure.values import Ball, Tensors, extent, flatten, groups, pack
from modnorm.ops.base import Atom
from modnorm.ops.edges import slots
from modnorm.ops.types import Symbol, Tensor
from modnorm.passes.program import Program
from modnorm.report.checked import Extent, ModuleFinding, Verdict
from modnorm.report.words import as_float, place, shared_name, shared_path

TOLERANCE = 1e-6
"""By how much, relatively, a measurement in float64 may exceed a certified value by rounding."""


@dataclass(frozen=True)
class Visit:
    """One copy of a position in a run of the model: where it is, its input and its output."""

    module: Module
    indices: Indices
    x: Any
    y: Any

    @property
    def path(self) -> str:
        return path_of(self.module, self.indices)


@dataclass(frozen=True)
class Row:
    """A position that is reported, and the number of named parts around it."""

    module: Module
    depth: int


def rows(program: Program) -> dict[int, Row]:
    """The model, its named parts and its operations by id, in execution order."""
    found = {program.tree.id: Row(program.tree, 0)}
    stack = [(program.tree, 1)]
    while stack:
        module, depth = stack.pop()
        named = isinstance(module, Scope | Shared | Repeat | Leaf | Assume)
        if named:
            found.setdefault(module.id, Row(module, depth))
        inner = depth + (named and not isinstance(module, Repeat))
        stack.extend((child, inner) for child in reversed(children(module)))
    return found


def visits(
    program: Program, weights: Mapping[str, torch.Tensor], x: Any, *, every: bool
) -> tuple[dict[int, list[Visit]], Any]:
    """What goes in and out of the copies that are looked at, by id; and the model's output.

    In a scan's cell that is at the first step, and at the last.
    """
    wanted = {(module.id, indices) for module, indices in copies(program.tree, every)}
    scans = (module for module in walk(program.tree) if isinstance(module, Scan))
    cells = {module.id for scan in scans for module in walk(scan.body)}
    found: dict[int, list[Visit]] = {}
    looked_at: set[tuple[int, Indices]] = set()
    last: dict[tuple[int, Indices], Visit] = {}

    def hook(module: Module, indices: Indices, into: Any, out: Any) -> None:
        if (module.id, indices) in wanted:
            wanted.discard((module.id, indices))  # a shared module's first use
            found.setdefault(module.id, []).append(Visit(module, indices, into, out))
            looked_at.add((module.id, indices))
        elif module.id in cells and (module.id, indices) in looked_at:
            last[module.id, indices] = Visit(module, indices, into, out)

    with torch.no_grad():
        y = Interpreter(weights, flatten(x), hook).run(program.tree, x)
    for (id, _), visit in last.items():
        found[id].append(visit)
    return found, y


@dataclass
class Stretches:
    """Measures the positions of a model.

    With `fixed` the weights are taken as they are (a checkpoint's); else those of single atoms are
    sought in their balls. `outside` names the weights whose norm is over 1, and with `trusted` the
    batch is one that the certificate speaks of.
    """

    program: Program
    certificates: Certificates
    weights: Mapping[str, torch.Tensor]
    inputs: Tensors
    effort: Effort
    generator: torch.Generator
    fixed: bool
    outside: frozenset[str]
    trusted: bool
    tick: Callable[[str], None] = lambda what: None
    _known: dict[Hashable, float] = field(default_factory=dict)

    def measure(self, row: Row, found: Sequence[Visit]) -> tuple[ModuleFinding, list[str]]:
        """What was found about a position, and in words what breaks its certificate."""
        module = row.module
        bound = self.certificates.certificate.parts[module.id]
        into, out = (slots(type) for type in self.program.types[module.id])
        name, kind = _named(self.program, module)
        where = place(module.span, self.program)
        finding = ModuleFinding(
            path=found[0].path,
            name=name,
            kind=kind,
            depth=row.depth,
            line=module.span.line,
            file=str(where["file"]) if "file" in where else None,
            norm=bound.source,
            output_norm=bound.norm,
            declared=as_float(self.program.sensitivities[module.id]),
            certified=None if isinstance(bound.sensitivity, str) else bound.sensitivity,
            reason=bound.sensitivity if isinstance(bound.sensitivity, str) else "",
            copies=len({visit.indices for visit in found}),
            verdict="not measured",
        )
        proved = [self.certificates.at(module, visit.indices) for visit in found]
        wrong = self._broken_sizes(finding, found, proved)
        floating = [i for i, t in enumerate(into) if t.dtype == "float"]
        ticked = finding.path or name
        if not floating or any(t.dtype != "float" for t in out):
            for _ in found:
                self.tick(ticked)
            return finding, wrong
        ranges = []
        for visit, facts in zip(found, proved, strict=True):
            self.tick(ticked)
            problem = self._problem(visit, facts, floating, finding.certified is not None)
            x = [flatten(visit.x)[i] for i in floating]
            ranges.append(extent(x, problem.into))
            here = stretch_at(replace(problem, weight=None), x, self.effort)
            measured = self._searched(problem, visit)
            if all(ball.has(t) for ball, t in zip(problem.balls, x, strict=True)):
                measured = max(measured, here)
            if finding.measured is None or measured > finding.measured:
                finding = replace(finding, path=visit.path, measured=measured)
            finding = replace(finding, here=max(finding.here or 0.0, here))
        met = Extent(min(low for low, _ in ranges), max(high for _, high in ranges))
        finding = replace(finding, input=met, verdict=self._verdict(finding, found))
        if finding.verdict == "violated":
            stretched = (
                f"{_what(finding)} stretches an input by {finding.measured:.6g}, which is more than"
                f" its certified sensitivity {finding.certified:.6g}"
            )
            wrong = [stretched, *wrong]
        return finding, wrong

    def _searched(self, problem: Problem, visit: Visit) -> float:
        """The largest stretch found; searches that would be the same are made once."""
        module = visit.module
        key: Hashable = (module.id, visit.indices)
        found = isinstance(module, Leaf) and (module.weight is not None or module.op.buffers)
        if isinstance(module, Leaf) and not (self.fixed and found):
            balls = tuple(tuple(ball.bounds.items()) for ball in problem.balls)
            key = (module.op, self.program.types[module.id], balls, *problem.into, *problem.out)
        if key not in self._known:
            self._known[key] = largest_stretch(problem, self.effort)
        return self._known[key]

    def _problem(self, visit: Visit, facts: Proved, floating: list[int], bounded: bool) -> Problem:
        """What is sought for a copy. Its inputs are kept where the certificate, if there is a bound
        in it, has them; else between the smallest and the largest group met."""
        module, type = visit.module, self.program.types[visit.module.id][0]
        whole = flatten(visit.x)
        x, into = [whole[i] for i in floating], [facts.into[i] for i in floating]
        balls = [facts.balls[i] for i in floating]
        if not bounded or math.inf in map(Ball.radius, balls, into):
            met = [(m, groups(t, m)) for t, m in zip(x, into, strict=True)]
            balls = [Ball({m: (float(g.amin()), float(g.amax()))}) for m, g in met]
        atom, weight = None, None
        if isinstance(module, Leaf) and isinstance(module.op, Atom) and not self.fixed:
            name = weight_name(module, visit.indices)
            assert name is not None
            atom, weight = module.op, self.weights[name]
        like, inputs = x, self.inputs
        if len(floating) == len(whole):
            like = self._first(slots(type), x)
            inputs = self._first([given.type for given in self.program.inputs], inputs)
        is_model = module is self.program.tree
        fixed = Interpreter(self.weights, inputs)

        def function(parts: Tensors, sought: torch.Tensor | None) -> Tensors:
            if atom is not None and sought is not None:
                return flatten(atom.reference(pack(type, parts), sought))
            values = list(whole) if len(parts) < len(whole) else []
            for i, part in zip(floating, parts, strict=True):
                values[i : i + 1] = [part]
            run = Interpreter(self.weights, values).run if is_model else fixed.run
            return flatten(run(module, pack(type, values), visit.indices))

        return Problem(function, into, facts.out, balls, like, atom, weight, self.generator)

    def _first(self, types: Sequence[Tensor], x: Tensors) -> Tensors:
        """The first example alone: no part mixes examples, so one is as good as all of them."""
        inputs = self.program.inputs
        batch = inputs[0].type.shape[:1] if inputs else ()
        if not batch or not isinstance(batch[0], Symbol):
            return x
        return [t[:1] if one.shape[:1] == batch else t for one, t in zip(types, x, strict=True)]

    # -- verdicts ----------------------------------------------------------------------------

    def _verdict(self, found: ModuleFinding, visited: Sequence[Visit]) -> Verdict:
        assert found.measured is not None
        assert found.declared is not None
        if found.certified is not None and found.measured > found.certified * (1 + TOLERANCE):
            used = {name for v in visited for name in self._uses(v.module, v.indices)}
            return "outside the ball" if used & self.outside else "violated"
        largest = max(found.measured, found.here or 0.0)
        most = math.inf if found.certified is None or not self.outside else found.certified
        if largest > most * (1 + TOLERANCE):  # of inputs that such weights have made
            return "outside the ball"
        return "above declared" if largest > found.declared * (1 + TOLERANCE) else "ok"

    def _uses(self, module: Module, indices: Indices) -> Iterator[str]:
        """The names of what a copy has or reads, all copies inside it included."""
        for inner, at in copies(module, True, indices):
            if isinstance(inner, Leaf):
                yield from buffers(inner, at).values()
                if (name := weight_name(inner, at)) is not None:
                    yield name

    def _broken_sizes(
        self, finding: ModuleFinding, found: Sequence[Visit], proved: Sequence[Proved]
    ) -> list[str]:
        """Outputs of an operation that break what is proved about them, its inputs being proper."""
        if self.outside or not self.trusted or finding.kind not in ("atom", "bond"):
            return []
        for visit, facts in zip(found, proved, strict=True):
            if not all(ball.has(t) for t, ball in _bounded(visit.x, facts.balls)):
                continue
            for tensor, ball in _bounded(visit.y, facts.reached):
                if (broken := ball.broken(tensor, TOLERANCE)) is not None:
                    (low, high), sizes = ball.bounds[broken], groups(tensor, broken)
                    return [
                        f"{_what(replace(finding, path=visit.path))} gives values of norm"
                        f" {float(sizes.amin()):.6g} … {float(sizes.amax()):.6g}, but"
                        f" {low:.6g} … {high:.6g} is certified"
                    ]
        return []


def _bounded(value: Any, balls: Sequence[Ball]) -> list[tuple[torch.Tensor, Ball]]:
    """The real tensors of a value, each with its ball."""
    pairs = zip(flatten(value), balls, strict=True)
    return [(tensor, ball) for tensor, ball in pairs if tensor.is_floating_point()]


def _what(found: ModuleFinding) -> str:
    """A position in words: its name, path and line."""
    where = f" at line {found.line}" if not found.file else f" at {found.file}:{found.line}"
    path = f" ({found.path})" if found.path and found.path != found.name else ""
    return f"{found.name}{path}{where}"


def path_of(module: Module, indices: Indices) -> str:
    """The path of a copy of a part; empty where it has none."""
    match module:
        case Leaf(path=path) | Scope(path=path) | Repeat(path=path):
            return instance(path, indices)
        case Shared():
            return shared_path(module)
        case _:
            return ""


def _named(program: Program, module: Module) -> tuple[str, str]:
    """The name and the kind of a position."""
    if module is program.tree:
        return program.name, "model"
    kind = type(module).__name__.lower()
    match module:
        case Leaf(op=op):
            return op.label, "atom" if isinstance(op, Atom) else "bond"
        case Scope():
            return module.name, module.kind
        case Shared():
            return shared_name(module), kind
        case Assume(sensitivity=assumed):
            return f"assumed {show(assumed)}", kind
        case Repeat(path=path):
            return f"{path.rpartition('.')[2] or 'repetition'} × {module.count}", kind
        case _:
            return kind, kind
