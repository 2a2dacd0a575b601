"""Every position of the module tree, measured: its inputs' sizes, and how far it stretches them."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import torch

from modnorm.graph.modules import Leaf, Module, Repeat, Scope, Shared, children
from modnorm.graph.paths import instance
from modnorm.measure.certificates import Certificates, Proved
from modnorm.measure.interpreter import Indices, Interpreter, buffer_names, copies, weight_name
from modnorm.measure.search import Effort, Problem, largest_stretch, stretch_at
from modnorm.measure.values import Ball, Tensors, extent, flatten, groups, pack
from modnorm.ops.base import Atom
from modnorm.ops.edges import Measure, slots
from modnorm.ops.types import Symbol, Tensor
from modnorm.passes.program import Program
from modnorm.report.checked import Extent, ModuleFinding, Verdict
from modnorm.report.words import as_float, place, shared_name, shared_path

TOLERANCE = 1e-6
"""By how much, relatively, a measurement in float64 may exceed a certified value by rounding."""
Copy: TypeAlias = tuple[int, Indices]
"""A position's id, and the copy of each enclosing repetition."""
Tick: TypeAlias = Callable[[str], None]


@dataclass(frozen=True)
class Visit:
    """One copy of a position in a run of the model: where it is, its input and its output."""

    module: Module
    indices: Indices
    x: Any
    y: Any


@dataclass(frozen=True)
class Row:
    """A position that is reported, and the named parts around it."""

    module: Module
    depth: int


def rows(program: Program) -> list[Row]:
    """The model, its named parts and its operations, in execution order, each once."""
    found: list[Row] = [Row(program.tree, 0)]
    stack = [(program.tree, 1)]
    seen: set[int] = {program.tree.id}
    while stack:
        module, depth = stack.pop()
        named = isinstance(module, Scope | Shared | Repeat | Leaf)
        if named and module.id not in seen:
            seen.add(module.id)
            found.append(Row(module, depth))
        inner = depth + (named and not isinstance(module, Repeat))
        stack.extend((child, inner) for child in reversed(children(module)))
    return found


def reported(program: Program) -> dict[int, Row]:
    """The reported positions by id."""
    return {row.module.id: row for row in rows(program)}


def visits(
    program: Program, weights: Mapping[str, torch.Tensor], x: Any, *, every: bool
) -> tuple[dict[int, list[Visit]], Any]:
    """What goes in and out of the copies that are looked at, by id; and the model's output."""
    wanted = {(module.id, indices) for module, indices in copies(program.tree, every)}
    found: dict[int, list[Visit]] = {}

    def hook(module: Module, indices: Indices, into: Any, out: Any) -> None:
        if (module.id, indices) in wanted:
            wanted.discard((module.id, indices))  # a shared module's first use
            found.setdefault(module.id, []).append(Visit(module, indices, into, out))

    with torch.no_grad():
        y = Interpreter(weights, hook).run(program.tree, x)
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
    effort: Effort
    generator: torch.Generator
    fixed: bool
    outside: frozenset[str]
    trusted: bool
    tick: Tick = lambda what: None
    _known: dict[Hashable, float] = field(default_factory=dict)

    def measure(self, row: Row, found: Sequence[Visit]) -> tuple[ModuleFinding, list[str]]:
        """What was found about a position, and in words what breaks its certificate."""
        module = row.module
        certified = self.certificates.certified(module)
        proved = [self.certificates.at(module, v.indices) for v in found]
        types = slots(self.program.types[module.id][0])
        floating = [i for i, t in enumerate(types) if t.dtype == "float"]
        base = ModuleFinding(
            path=path_of(module, found[0].indices),
            name=_name(self.program, module),
            kind=_kind(self.program, module),
            depth=row.depth,
            line=module.span.line,
            file=_file(self.program, module),
            norm=self.certificates.source(module),
            output_norm=self.certificates.norm(module),
            declared=as_float(self.program.sensitivities[module.id]),
            certified=None if isinstance(certified, str) else certified,
            reason=certified if isinstance(certified, str) else "",
            copies=len(found),
            verdict="not measured",
        )
        sizes = self._sizes(proved, found, base)
        outs = slots(self.program.types[module.id][1])
        if not floating or any(t.dtype != "float" for t in outs):
            for _ in found:
                self.tick(base.path or base.name)
            return base, sizes
        into = [proved[0].into[i] for i in floating]
        seen = [[flatten(v.x)[i] for i in floating] for v in found]
        ranges = [extent(x, into) for x in seen]
        met = Extent(min(r[0] for r in ranges), max(r[1] for r in ranges))
        best = replace(base, input=met)
        for visit, x, facts in zip(found, seen, proved, strict=True):
            self.tick(base.path or base.name)
            balls = [facts.balls[i] for i in floating]
            if base.certified is None or not all(map(Ball.is_bounded, balls, into)):
                balls = [_around(t, m) for t, m in zip(x, into, strict=True)]
            problem = self._problem(visit, facts, floating, balls, x)
            here = stretch_at(replace(problem, weight=None), x, self.effort)
            measured = self._searched(problem, visit)
            if all(b.has(t) for b, t in zip(balls, x, strict=True)):
                measured = max(measured, here)
            if best.measured is None or measured > best.measured:
                best = replace(best, path=path_of(module, visit.indices), measured=measured)
            best = replace(best, here=max(best.here or 0.0, here))
        best = replace(best, verdict=self._verdict(best, found))
        return best, [*self._breach(best), *sizes]

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

    def _problem(
        self, visit: Visit, facts: Proved, floating: list[int], balls: list[Ball], x: Tensors
    ) -> Problem:
        module, type = visit.module, self.program.types[visit.module.id][0]
        interpreter = Interpreter(self.weights)
        atom, weight = None, None
        if isinstance(module, Leaf) and isinstance(module.op, Atom) and not self.fixed:
            name = weight_name(module, visit.indices)
            assert name is not None
            atom, weight = module.op, self.weights[name]
        whole = flatten(visit.x)

        def function(parts: Tensors, sought: torch.Tensor | None) -> Tensors:
            if atom is not None and sought is not None:
                return flatten(atom.reference(pack(type, parts), sought))
            values = list(whole) if len(parts) < len(whole) else []
            for i, part in zip(floating, parts, strict=True):
                values[i : i + 1] = [part]
            return flatten(interpreter.run(module, pack(type, values), visit.indices))

        return Problem(
            function,
            [facts.into[i] for i in floating],
            facts.out,
            balls,
            self._first(floating, type, x) if len(floating) == len(whole) else x,
            atom,
            weight,
            self.generator,
        )

    def _first(self, floating: list[int], type: Any, x: Tensors) -> Tensors:
        """The first example alone: no part mixes examples, so one is as good as all of them."""
        if not self.program.inputs or not self.program.inputs[0].type.shape:
            return x
        batch = self.program.inputs[0].type.shape[0]
        types = slots(type)
        if not isinstance(batch, Symbol):
            return x
        return [t[:1] if _leads(types[i], batch) else t for i, t in zip(floating, x, strict=True)]

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

    def _uses(self, module: Module, indices: Indices) -> set[str]:
        """The names of what a copy has or reads, all copies inside it included."""
        names = set[str]()
        for inner, at in copies(module, True, indices):
            if isinstance(inner, Leaf):
                names.update(buffer_names(inner, at))
                if (name := weight_name(inner, at)) is not None:
                    names.add(name)
        return names

    def _breach(self, found: ModuleFinding) -> list[str]:
        if found.verdict != "violated":
            return []
        return [
            f"{_what(found)} stretches an input by {found.measured:.6g}, which is more than its"
            f" certified sensitivity {found.certified:.6g}"
        ]

    def _sizes(
        self, proved: Sequence[Proved], found: Sequence[Visit], base: ModuleFinding
    ) -> list[str]:
        """Outputs of an operation that break what is proved about them, its inputs being proper."""
        module = base.kind in ("atom", "bond")
        if self.outside or not self.trusted or not module:
            return []
        for visit, facts in zip(found, proved, strict=True):
            inputs = zip(flatten(visit.x), facts.balls, strict=True)
            if not all(ball.has(t) for t, ball in inputs if t.is_floating_point()):
                continue
            outputs = zip(flatten(visit.y), facts.reached, strict=True)
            for tensor, ball in ((t, b) for t, b in outputs if t.is_floating_point()):
                if (broken := ball.broken(tensor, TOLERANCE)) is None:
                    continue
                (low, high), sizes = ball.bounds[broken], groups(tensor, broken)
                path = path_of(visit.module, visit.indices)
                return [
                    f"{_what(replace(base, path=path))} gives values of norm"
                    f" {float(sizes.amin()):.6g} … {float(sizes.amax()):.6g}, but"
                    f" {low:.6g} … {high:.6g} is certified"
                ]
        return []


def _around(x: torch.Tensor, measure: Measure) -> Ball:
    """Where inputs may be for lack of a bound: between the smallest and the largest group met."""
    sizes = groups(x, measure)
    return Ball({measure: (float(sizes.amin()), float(sizes.amax()))})


def _leads(type: Tensor, batch: Symbol) -> bool:
    return bool(type.shape) and type.shape[0] == batch


def _what(found: ModuleFinding) -> str:
    """A position in words: its name, path and line."""
    where = f" at line {found.line}" if not found.file else f" at {found.file}:{found.line}"
    path = f" ({found.path})" if found.path and found.path != found.name else ""
    return f"{found.name}{path}{where}"


def _file(program: Program, module: Module) -> str | None:
    """The file that a module stands in, where that is not the model's own."""
    file = place(module.span, program).get("file")
    return None if file is None else str(file)


def path_of(module: Module, indices: Indices) -> str:
    """The path of a copy of a part; empty where it has none."""
    match module:
        case Leaf(path=path) | Scope(path=path) | Repeat(path=path):
            return instance(path, indices)
        case Shared():
            return shared_path(module)
        case _:
            return ""


def _name(program: Program, module: Module) -> str:
    if module is program.tree:
        return program.name
    match module:
        case Leaf(op=op):
            return op.label
        case Scope(name=name):
            return name
        case Shared():
            return shared_name(module)
        case Repeat(path=path):
            return f"{path.rpartition('.')[2] or 'repetition'} × {module.count}"
        case _:
            return type(module).__name__.lower()


def _kind(program: Program, module: Module) -> str:
    if module is program.tree:
        return "model"
    match module:
        case Leaf(op=op):
            return "atom" if isinstance(op, Atom) else "bond"
        case Scope(kind=kind):
            return kind
        case _:
            return type(module).__name__.lower()
