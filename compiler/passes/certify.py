"""Certificates: what is proved about a model's sensitivity and about its updates.

κ bounds how far the output moves for an update of modular norm 1, while inputs and weights have
norm at most 1:

    κ = Σ target(a) · h(a) · S(a)

over every use a of a weight: h(a) bounds how far the atom's output moves when its weight moves by
norm 1, S(a) how far the model's output then moves. h comes from a walk forwards that carries bounds
on every value, S from one backwards through the gains between measures of values, of which the
best way counts. Source: the triangle inequality, as for targets (Large et al. 2024,
arXiv 2405.14813); docs/mathematics.md.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar, TypeAlias

from modnorm.diagnostics import Diagnostic, Diagnostics, Label, Span
from modnorm.graph import paths
from modnorm.graph.modules import Leaf, Module, Repeat, Scan, Tuple, children, walk
from modnorm.ops.base import Advice, Sharpness
from modnorm.ops.edges import LARGEST, ONE_HOT, Edge, Measure, letter, moved, product, slots
from modnorm.ops.sequences import lifted
from modnorm.ops.types import Size, Symbol, Type
from modnorm.passes.bends import certified_sharpness
from modnorm.passes.certificate import Certificate, PartBound, Reason, WeightBound
from modnorm.passes.frames import Frame, Frames, InVain
from modnorm.passes.gains import Vector, adjoint, at, power, row_at, series
from modnorm.passes.program import Program
from modnorm.passes.sensitivity import divide, geometric
from modnorm.passes.sensitivity import power as raised

UNKNOWN = "the bound would depend on sizes that are known only when the model runs"

Downstream: TypeAlias = Mapping[int, Vector]
"""How far the model's output moves, summed over the copies of the repetitions around a part.

By the number of outer repetitions that a weight stands outside of: the copies of the others have
targets of their own, which are counted in, relative to that of the last copy.
"""


@dataclass(frozen=True)
class Certify:
    """Bound every value, and prove κ and the sensitivity of every part, or say why there is none.

    A model with images is looked at twice, with their norms in P and in R; the smaller κ counts.
    `norms` are bounds on the weights' norms, by template of their paths: 1 where none is given.
    With `brief` it is proved of the model and not said of its parts, and where there is no κ only
    the output's bounds are looked for: what λ needs.
    """

    name: ClassVar[str] = "certify"
    norms: Mapping[str, float] = field(default_factory=dict)
    brief: bool = False

    def run(self, program: Program, diagnostics: Diagnostics) -> Program:
        certifier = _Certifier(program, False, self.norms, self.brief)
        found = certifier.certificate()
        if certifier.frames.images:
            in_whole = _Certifier(program, True, self.norms, self.brief)
            other = in_whole.certificate()
            if _size(other.kappa) < _size(found.kappa):
                certifier, found = in_whole, other
        certifier.advise_all(diagnostics)
        return replace(program, certificate=found)

    def verify(self, program: Program) -> None:
        found = program.certificate
        assert found is not None
        assert (found.kappa is None) == bool(found.reasons), found.reasons
        if found.kappa is not None:
            parts = sum(bound.kappa for bound in found.weights.values())
            assert math.isclose(parts, found.kappa, rel_tol=1e-9), (parts, found.kappa)


def _size(kappa: float | None) -> float:
    return math.inf if kappa is None else kappa


class _Certifier:
    def __init__(
        self, program: Program, whole: bool, norms: Mapping[str, float], brief: bool
    ) -> None:
        self.program, self.brief = program, brief
        self.frames = Frames(program, whole, norms, _learning(program) if brief else frozenset())
        self.weights = {weight.path: weight for weight in program.weights}
        self.parts: dict[int, PartBound] = {}
        self.kappas: dict[str, float] = {}
        self.highs: dict[str, float] = {}
        self.given: dict[tuple[int, Measure], float] = {}
        """How far the output moves when an input that is named moves, by its slot and measure."""
        self.outer = {0}  # the keys of `Downstream` that some weight needs
        self.advice: dict[tuple[str, str, str], dict[int, tuple[Span, Span]]] = {}

    def certificate(self) -> Certificate:
        program, tree = self.program, self.program.tree
        entry = self.frames.entry(program.types[tree.id][0])
        sharpness, total = Sharpness(math.inf, math.inf, math.inf), math.inf
        try:
            frame = self.frames.frame(tree, entry)
        except InVain:
            frame = self.frames.ends(tree, entry)
            out = self.measures(frame)
        else:
            out = self.measures(frame)
            self.find_outer()
            end: dict[tuple[int, Measure], float] = dict.fromkeys(enumerate(out), 1.0)
            self.backwards(frame, dict.fromkeys(self.outer, end), 0)
            total = sum(self.kappas.values())
            sharpness = certified_sharpness(program, self.frames, frame, out)
            if self.given:  # how the derivative in these moves is not followed
                sharpness = replace(sharpness, beta=math.inf, gamma=math.inf)
        self.describe(frame, out)
        self.name_inputs(frame, out)
        bounded = math.isfinite(total)
        whole = self.parts[tree.id]
        return Certificate(
            tuple(map(self.frames.natural, frame.x)),
            tuple(out),
            whole.source,
            whole.norm,
            total if bounded else None,
            whole.sensitivity,
            () if bounded else tuple(self.reasons(frame)),
            self.parts,
            {path: self.weight(path) for path in self.kappas},
            sharpness,
            self.frames.whole,
        )

    def find_outer(self) -> None:
        """Shared weights stand outside of repetitions that use them."""
        stack = [(self.program.tree, 0)]
        while stack:
            module, depth = stack.pop()
            match module:
                case Leaf(weight=str(path)):
                    self.outer.add(depth - paths.depth(path))
                case Leaf(op=op) if op.gives is not None:
                    self.outer.add(depth)
                case Repeat(runs=runs):
                    stack.extend((run.body, depth + 1) for run in runs)
                case _:
                    stack.extend((child, depth) for child in children(module))

    def measures(self, frame: Frame) -> list[Measure]:
        """The measures of the model's output.

        The largest entry, where the last operation bounds it as well as the RMS; else the usual.
        """
        usual = list(map(self.frames.natural, frame.y))
        while frame.parts and not isinstance(frame.module, Tuple | Scan):
            rest = [part for part, _ in frame.parts]
            while len(rest) > 1 and _is_scalar(rest[-1].module):
                rest.pop()
            frame = rest[-1]
        one = isinstance(frame.module, Leaf) and len(usual) == len(frame.x) == 1
        if one and usual[0].axes and usual != [ONE_HOT]:
            types = [edge.type for edge in frame.x]
            row = row_at(frame.gains, (0, self.frames.natural(frame.x[0])), types)
            largest, rms = (moved(row, (0, m), frame.out) for m in (LARGEST, usual[0]))
            if 0 < largest <= rms < math.inf:
                return [LARGEST]
        return usual

    # -- backwards -----------------------------------------------------------------------------

    def backwards(self, frame: Frame, below: Downstream, depth: int) -> None:
        """Add every use of a weight inside a frame, `depth` repetitions deep, to its part of κ."""
        match frame.module:
            case Leaf():
                self.use(frame.module, frame, below, depth)
            case Repeat():
                self.copies(frame.module, frame, below, depth)
            case Scan():
                self.steps(frame.module, frame, below, depth)
            case Tuple():
                start = 0
                for part, _ in frame.parts:
                    stop = start + len(part.y)
                    own = {k: _members(v, start, stop) for k, v in below.items()}
                    self.backwards(part, own, depth)
                    start = stop
            case _:
                for part, _ in reversed(frame.parts):
                    self.backwards(part, below, depth)
                    below = {k: adjoint(part.gains, v, part.out) for k, v in below.items()}

    def copies(self, repeat: Repeat, frame: Frame, below: Downstream, depth: int) -> None:
        """A repetition: one look into each of its frames, with what its copies make in sum."""
        stretches = list(frame.parts)
        for run in reversed(repeat.runs):
            ratio = self.program.growth(run)
            done = 0
            while done < run.count:
                part, count = stretches.pop()
                sums: dict[int, Vector] = {}
                for outer, vector in below.items():
                    grows = ratio if outer <= depth else 1.0
                    reach = adjoint(series(part.gains, count, grows, part.out), vector, part.out)
                    factor = float(raised(grows, done))
                    sums[outer] = {key: product(factor, value) for key, value in reach.items()}
                self.backwards(part, sums, depth + 1)
                gains = power(part.gains, count, part.out)
                below = {k: adjoint(gains, v, part.out) for k, v in below.items()}
                done += count

    def steps(self, scan: Scan, frame: Frame, below: Downstream, depth: int) -> None:
        """A scan: one look into its cell, with what all steps make in sum at the last one."""
        ((cell, _),) = frame.parts
        steps = self.frames.steps(scan, cell)
        inner: dict[int, Vector] = {}
        for outer, vector in below.items():
            states = {
                (j, m): at(vector, (j, lifted(m)), frame.out)
                for j, edge in enumerate(cell.y)
                for m in edge.tracked
            }
            if steps is None:
                inner[outer] = {key: math.inf if reach else 0.0 for key, reach in states.items()}
            else:
                inner[outer] = adjoint(steps, states, cell.out)
        self.backwards(cell, inner, depth)

    def use(self, leaf: Leaf, frame: Frame, below: Downstream, depth: int) -> None:
        """κ's part of one use of a weight. An input that is named moves at all places at once."""
        if leaf.op.gives is not None:
            key = (leaf.op.gives, self.frames.natural(frame.y[0]))
            reach = at(below[depth], (0, key[1]), frame.out)
            self.given[key] = self.given.get(key, 0.0) + reach
        if leaf.weight is None:
            return
        path, out = leaf.weight, frame.out
        pushes = leaf.op.pushes(frame.x, self.program.types[leaf.id][0])
        vector = below[depth - paths.depth(path)]
        effect = min(
            (product(gain, at(vector, (0, m), out)) for m, gain in pushes.items()),
            default=math.inf,
        )
        kappa = product(float(self.weights[path].target), effect)
        self.kappas[path] = self.kappas.get(path, 0.0) + kappa
        usual = (0, self.frames.natural(frame.y[0]))
        high = moved({(0, m): gain for m, gain in pushes.items()}, usual, out, math.inf)
        self.highs[path] = max(self.highs.get(path, 0.0), high)

    # -- what is reported ----------------------------------------------------------------------

    def describe(self, frame: Frame, out: list[Measure] | None = None) -> None:
        """What is proved of a part and those in it; of several looks at one, the weakest."""
        for part, _ in () if self.brief else frame.parts:
            self.describe(part)
        if isinstance(frame.module, Leaf):
            self.advise(frame.module, frame)
        usual = [self.frames.natural(edge) for edge in frame.y] if out is None else out
        before = self.parts.get(frame.module.id)
        worst = 0.0
        for i, edge in enumerate(frame.x):
            types = [e.type for e in frame.x]
            row = row_at(frame.gains, (i, self.frames.natural(edge)), types)
            worst = max(worst, sum(moved(row, (j, m), frame.out) for j, m in enumerate(usual)))
        sensitivity: float | str = worst
        if not math.isfinite(worst):
            sensitivity = self.unknown if frame.reason is None else str(frame.reason)
        low = sum(edge.low(m) for edge, m in zip(frame.y, usual, strict=True))
        high = sum(edge.high(m) for edge, m in zip(frame.y, usual, strict=True))
        if before is not None:
            low, high = min(low, before.low), max(high, before.high)
            if isinstance(before.sensitivity, str):
                sensitivity = before.sensitivity
            elif not isinstance(sensitivity, str):
                sensitivity = max(sensitivity, before.sensitivity)
        source = _letters([(edge, self.frames.natural(edge)) for edge in frame.x])
        norm = _letters(list(zip(frame.y, usual, strict=True)))
        self.parts[frame.module.id] = PartBound(source, norm, low, high, sensitivity)

    def name_inputs(self, frame: Frame, out: list[Measure]) -> None:
        """Of the whole model also the sensitivity in inputs that are named in it."""
        whole = self.parts[frame.module.id]
        if not self.given or isinstance(whole.sensitivity, str):
            return
        worst, types = 0.0, [edge.type for edge in frame.x]
        for i, edge in enumerate(frame.x):
            key = (i, self.frames.natural(edge))
            row = row_at(frame.gains, key, types)
            reach = sum(moved(row, (j, m), frame.out) for j, m in enumerate(out))
            worst = max(worst, reach + self.given.get(key, 0.0))
        found: float | str = worst if math.isfinite(worst) else self.unknown
        self.parts[frame.module.id] = replace(whole, sensitivity=found)

    def advise(self, leaf: Leaf, frame: Frame) -> None:
        """What the operation has to say of itself, for the inputs of this look."""
        found = leaf.op.advice(frame.x, self.program.types[leaf.id][0])
        if frame.reason is not None and not found:
            what = f"`{leaf.op.label}` has no bound: {frame.reason.text}"
            found = (Advice("A608", what, "κ needs a proof for every operation"),)
        for code, message, hint in found:
            places = self.advice.setdefault((code, message, hint), {})
            places.setdefault(leaf.id, (self.frames.places[leaf.id], leaf.span))

    def advise_all(self, diagnostics: Diagnostics) -> None:
        """Everything that operations had to say, once, with all the places that it is about."""
        for (code, message, hint), places in self.advice.items():
            (span, origin), *rest = places.values()
            labels = [Label(place, "and here") for place, _ in rest if place != span]
            if origin is not span:
                labels.append(Label(origin, "it stands here"))
            diagnostics.add(Diagnostic(code, message, span, "", tuple(labels), hint))

    def reasons(self, frame: Frame) -> list[Reason]:
        """Everything without a bound that a weight's change may reach, in order."""
        found: dict[int, Reason] = {}
        learns = False
        stack = [frame]
        while stack:
            one = stack.pop()
            stack.extend(part for part, _ in reversed(one.parts))
            module = one.module
            if isinstance(module, Scan):  # its states move with what moves in its cell
                learns = learns or any(map(self.moves, walk(module)))
            if one.own is not None and (learns or isinstance(module, Repeat | Scan)):
                found.setdefault(module.id, one.own)
            learns = learns or self.moves(module)
        tree = self.program.tree
        return list(found.values()) or [
            Reason("", self.program.name, tree.span, self.unknown, tree.span)
        ]

    def moves(self, module: Module) -> bool:
        """Whether it is an operation whose weight learns."""
        if not isinstance(module, Leaf) or module.weight is None:
            return False
        return self.weights[module.weight].target != 0

    @property
    def unknown(self) -> str:
        """What there is to say where every operation has a bound, and the whole has none."""
        sizes = {size for pair in self.program.types.values() for t in pair for size in _sizes(t)}
        free = any(isinstance(size, Symbol) for size in sizes)
        return UNKNOWN if free else "no finite bound was found"

    def weight(self, path: str) -> WeightBound:
        """What is proved of a weight; its targets are summed over copies as κ is."""
        weight, high, kappa = self.weights[path], self.highs[path], self.kappas[path]
        targets = float(weight.target) * sum(1 / later for later, _ in weight.along)
        for n, level in enumerate(weight.levels):
            if n not in weight.streamed:
                targets *= float(geometric(divide(1, level.ratio or 1), level.count))
        scale = product(targets, high)
        downstream = kappa / scale if scale and math.isfinite(kappa) else math.inf
        return WeightBound(high, downstream if targets else 0.0, kappa)


def _learning(program: Program) -> frozenset[int]:
    """The operations, by id, that already in the first copies around get what weights change."""
    found: set[int] = set()
    moves = {weight.path for weight in program.weights if weight.target}

    def learns(module: Module, before: bool) -> bool:
        match module:
            case Leaf(weight=weight):
                if before:
                    found.add(module.id)
                return before or weight in moves
            case Tuple(members=members):
                after = [learns(member, before) for member in members]
                return any(after)
            case _:
                for child in children(module):
                    before = learns(child, before)
                return before

    learns(program.tree, False)
    return frozenset(found)


def _is_scalar(module: Module) -> bool:
    return isinstance(module, Leaf) and (module.op.scalar is not None or module.op.is_identity)


def _sizes(type: Type) -> Iterator[Size]:
    for tensor in slots(type):
        yield from tensor.shape


def _members(vector: Vector, start: int, stop: int) -> Vector:
    """The part of a vector that belongs to some of a tuple's tensors."""
    return {(j - start, m): value for (j, m), value in vector.items() if start <= j < stop}


def _letters(pairs: list[tuple[Edge, Measure]]) -> str:
    found = [letter(m, edge.type) for edge, m in pairs]
    return " + ".join(dict.fromkeys(found))
