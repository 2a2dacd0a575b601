"""Bounds and gains of every part, for the inputs that reach it.

A *frame* is one look at a part: the bounds on its input and output, its matrix of gains, and the
frames of what stands in it. The copies of a repetition are looked at together where the same bounds
hold for their inputs.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TypeAlias

from modnorm.diagnostics import Span
from modnorm.graph.modules import (
    Around,
    Compose,
    Hole,
    Leaf,
    Module,
    Repeat,
    Scan,
    Tuple,
)
from modnorm.ops.edges import (
    Bound,
    Edge,
    Key,
    Matrix,
    Measure,
    moved,
    natural,
    product,
    reached,
    slots,
    tracked,
)
from modnorm.ops.sequences import at_all, at_any, lifted
from modnorm.ops.types import Size, Symbol, Tensor, Type
from modnorm.passes import growth
from modnorm.passes.certificate import Reason
from modnorm.passes.gains import after, beside, endless, power, row_at, series
from modnorm.passes.growth import Affine
from modnorm.passes.program import Program

FOLLOWED = 24
"""So many copies of a repetition are followed one by one."""
MOST = 1024
"""Groups of copies that share their bounds, at most."""
LOOKS = 8_000
"""Operations whose outputs are bounded, at most, beside one look at each position: repetitions may
stand in repetitions."""
NEAR = 0.005
"""Copies with bounds closer than this, relatively, are looked at together."""
STILL = 1e-9
"""A bound that rises by less, relatively, in one copy may be that of a stack that does not grow."""
COARSER = 64
"""After so many groups, and again after each so many, their bounds may differ by `NEAR` more."""
MANY = 1024
"""So many steps of a scan are followed where their number is free."""
CLOSE = 1e-12
"""Bounds closer than this, relatively, may be those of a stack that has settled."""

Edges: TypeAlias = tuple[Edge, ...]
Stretches: TypeAlias = list[tuple[Edges, int]]


@dataclass(frozen=True, eq=False)
class Frame:
    """A look at a part: `parts` are those inside, each with the number of copies that it covers.

    `reason` is the first in it for want of a bound, `own` that of the part itself.
    """

    module: Module
    x: Edges
    y: Edges
    gains: Matrix
    parts: tuple[tuple[Frame, int], ...] = ()
    reason: Reason | None = None
    own: Reason | None = None

    @property
    def out(self) -> tuple[Tensor, ...]:
        return tuple(edge.type for edge in self.y)


@dataclass(frozen=True, eq=False)
class Step:
    """A cell, beside what enters at every step of its scan: what a scan repeats."""

    body: Module
    id: int


class InVain(Exception):
    """Raised where an operation has no gains that all others' were wanted for."""


class Frames:
    """Makes the frames of a typed module tree. `whole`: images are spoken of in R, not P.

    `norms` are bounds on the weights' norms, by template of their paths; 1 where there is none.
    `needed` are operations, by id, without whose gains no others are worth the work.
    """

    def __init__(
        self,
        program: Program,
        whole: bool,
        norms: Mapping[str, float] | None = None,
        needed: frozenset[int] = frozenset(),
    ) -> None:
        self.norms = norms or {}
        self.needed = needed
        self.tried: set[int] = set()  # what repeats, by id, once looked at for what is needed
        self.ends_only = False
        self.types = program.types
        self.streams = program.streams
        self.source = program.source
        self.whole = whole
        self.inputs: Edges = ()
        self.looks = 0
        self.most = LOOKS + len(program.types)
        self.entered: dict[Hashable, Stretches] = {}
        self.images = False  # whether `whole` makes a difference
        self.mentions = [program.span]
        self.places: dict[int, Span] = {}  # of every operation, in the model's own file

    def natural(self, edge: Edge) -> Measure:
        return natural(edge.type, by_image=self.whole)

    def entry(self, type: Type) -> Edges:
        """The model's input: of norm at most 1."""
        found = []
        for tensor in slots(type):
            measure = natural(tensor, by_image=self.whole)
            self.images |= tensor.is_image
            low = 0.0 if tensor.dtype == "float" else 1.0
            found.append(Edge(tensor, {measure: Bound(low, 1.0)}).completed())
        self.inputs = tuple(found)
        return self.inputs

    def frame(self, module: Module, x: Edges) -> Frame:
        """The frame of a part for bounds on its input.

        Raises:
            InVain: if a needed operation in it has no gains.
        """
        match module:
            case Leaf():
                return self.leaf(module, x)
            case Compose(steps=steps):
                frames: list[Frame] = []
                for step in steps:
                    frames.append(self.frame(step, frames[-1].y if frames else x))
                gains = frames[0].gains
                for before, one in pairwise(frames):
                    gains = after(gains, one.gains, before.out, one.out)
                return self.around(module, x, frames[-1].y, gains, [(f, 1) for f in frames])
            case Tuple(members=members):
                frames = [self.frame(member, x) for member in members]
                types = [edge.type for edge in x]
                counts = [len(f.y) for f in frames]
                gains = beside([f.gains for f in frames], counts, types)
                y = tuple(edge for f in frames for edge in f.y)
                return self.around(module, x, y, gains, [(f, 1) for f in frames])
            case Repeat():
                return self.repeat(module, x)
            case Scan():
                return self.scan(module, x)
            case Around(body=body):
                self.mentions.append(self.mention(module.span))
                inner = self.frame(body, x)
                self.mentions.pop()
                return self.around(module, x, inner.y, inner.gains, [(inner, 1)])
            case Hole():
                raise AssertionError("a hole got past the inference of shapes")

    def ends(self, module: Module, x: Edges) -> Frame:
        """A frame that says nothing of gains: of repetitions it holds the last copies alone."""
        self.needed, self.ends_only = frozenset(), True
        return self.frame(module, x)

    def mention(self, span: Span) -> Span:
        """The place itself, or, of one in another file, where the model's own mentions it."""
        return span if span.source.name == self.source.name else self.mentions[-1]

    def around(
        self, module: Module, x: Edges, y: Edges, gains: Matrix, parts: list[tuple[Frame, int]]
    ) -> Frame:
        reason = next((f.reason for f, _ in parts if f.reason is not None), None)
        return Frame(module, x, y, gains, tuple(parts), reason)

    def leaf(self, leaf: Leaf, x: Edges) -> Frame:
        op = leaf.op
        place = self.places[leaf.id] = self.mention(leaf.span)
        y = self.sizes(leaf, x)
        gains, reason = self.gains(leaf, x), None
        if isinstance(gains, str):
            if leaf.id in self.needed:
                raise InVain
            reason = Reason(leaf.path, op.label, place, gains, leaf.span)
            row = {(j, self.natural(edge)): math.inf for j, edge in enumerate(y)}
            gains = {(i, self.natural(edge)): row for i, edge in enumerate(x)}
        return Frame(leaf, x, y, gains, (), reason, reason)

    def sizes(self, leaf: Leaf, x: Edges) -> Edges:
        self.looks += 1
        if leaf.op.gives is not None:
            return (self.inputs[leaf.op.gives],)
        into, out = self.types[leaf.id]
        bounds = leaf.op.sizes(x, into)
        if self.norm(leaf) != 1:
            bounds = self.weighed(leaf, x, slots(out))
        self.images |= any(tensor.is_image for tensor in slots(out))
        return tuple(Edge(t, b).completed() for t, b in zip(slots(out), bounds, strict=True))

    def norm(self, leaf: Leaf) -> float:
        """The bound on the norm of the weight that an operation uses."""
        return 1.0 if leaf.weight is None else self.norms.get(leaf.weight, 1.0)

    def gains(self, leaf: Leaf, x: Edges) -> Matrix | str:
        """The operation's gains, for weights within their bounds."""
        type, norm = self.types[leaf.id][0], self.norm(leaf)
        gains = leaf.op.gains(x, type)
        if isinstance(gains, str) or norm == 1:
            return gains
        mixes = leaf.op.mixes(x, type)
        if isinstance(mixes, str):
            return f"{mixes}, and the weight's norm is not 1"
        if not mixes:  # the weight is added
            return gains
        return {k: {j: product(norm, g) for j, g in row.items()} for k, row in gains.items()}

    def weighed(self, leaf: Leaf, x: Edges, out: Sequence[Tensor]) -> list[dict[Measure, Bound]]:
        """Bounds on an output that is linear in the weight: without it, and what it adds."""
        type, gains = self.types[leaf.id][0], self.gains(leaf, x)
        if isinstance(gains, str):
            return [{} for _ in out]
        found = reached(x, gains, out)
        if not gains:  # all of the output is the weight's
            found = [dict.fromkeys(leaf.op.pushes(x, type), Bound(0.0, 0.0)) for _ in out]
        elif leaf.op.mixes(x, type):
            return found
        push = {(0, m): product(self.norm(leaf), by) for m, by in leaf.op.pushes(x, type).items()}
        return [
            {m: Bound(0.0, b.high + moved(push, (j, m), out)) for m, b in own.items()}
            for j, own in enumerate(found)
        ]

    # -- values alone --------------------------------------------------------------------------

    def flow(self, module: Module | Step, x: Edges) -> Edges:
        """The bounds on a part's output."""
        match module:
            case Leaf():
                return self.sizes(module, x)
            case Compose(steps=steps):
                for step in steps:
                    x = self.flow(step, x)
                return x
            case Tuple(members=members):
                return tuple(edge for member in members for edge in self.flow(member, x))
            case Repeat(runs=runs):
                for run in runs:
                    stretches = self.stretches(run.body, run.count, x)
                    x = self.flow(run.body, stretches[-1][0])
                return x
            case Scan(body=body):
                entry = tuple(map(at_any, x))
                y = self.flow(body, (*self.states(module, entry), *entry))
                return self.every(module, y)
            case Step(body=body):
                y = self.flow(body, x)
                return (*y, *x[len(y) :])
            case Around(body=body):
                return self.flow(body, x)
            case Hole():
                raise AssertionError("a hole got past the inference of shapes")

    # -- repetitions ---------------------------------------------------------------------------

    def repeat(self, module: Repeat, x: Edges) -> Frame:
        parts: list[tuple[Frame, int]] = []
        total: Matrix | None = None
        lost = False
        for run in module.runs:
            if self.needed and run.body.id not in self.tried:
                self.tried.add(run.body.id)
                self.frame(run.body, x)  # in vain, perhaps: before the copies are followed
            stretches = self.stretches(run.body, run.count, x)
            for entering, count in stretches[-1:] if self.ends_only else stretches:
                lost = lost or any(_is_lost(edge) for edge in entering)
                frame = self.frame(run.body, entering)
                parts.append((frame, count))
                copies = power(frame.gains, count, frame.out)
                into = [edge.type for edge in entering]
                total = copies if total is None else after(total, copies, into, frame.out)
            x = frame.y
        assert total is not None
        found = self.around(module, parts[0][0].x, x, total, parts)
        if not lost:
            return found
        text = "the bounds on its values still grow after as many copies as are followed"
        own = Reason(module.path, "repetition", self.mention(module.span), text, module.span)
        return replace(found, reason=found.reason or own, own=own)

    def stretches(self, body: Module | Step, count: int, x: Edges) -> Stretches:
        """Bounds on what enters the copies, in order, each with the number that it holds for.

        The same bounds reach a repetition inside others again and again: they are followed once.
        """
        key = (body.id, count, tuple((e.type, tuple(e.bounds.items())) for e in x))
        if key not in self.entered:
            self.entered[key] = self.followed(body, count, x)
        return self.entered[key]

    def followed(self, body: Module | Step, count: int, x: Edges) -> Stretches:
        """Those stretches: the first copies one by one, then many at a time."""
        # what norms read needs no bound where only the end's is asked for
        unread = self.ends_only and body.id in self.streams.runs
        if unread or (count > 1 and self.looks > self.most):
            return [(tuple(map(_lost, x)), count)]
        found = [x]
        while len(found) < count:
            x = self.flow(body, found[-1])
            if len(found) == FOLLOWED or self.looks > self.most or _alike(x, found[-1], CLOSE):
                break
            found.append(x)
        if len(found) < count and _alike(x, found[-1], CLOSE) and _within(x, found[-1]):
            return [*_grouped(found[:-1]), (found[-1], count - len(found) + 1)]
        groups, left = _grouped(found), count - len(found)
        while left:
            if len(groups) >= MOST or self.looks > self.most:
                return [*groups, (tuple(map(_lost, x)), left)]
            # where they change a lot, more coarsely: the number of groups grows with the logarithm
            box, copies, x = self.together(body, x, left, NEAR * (1 + len(groups) // COARSER))
            groups.append((box, copies))
            left -= copies
        return groups

    def together(
        self, body: Module | Step, x: Edges, copies: int, room: float
    ) -> tuple[Edges, int, Edges]:
        """As many copies as have nearly the same bounds: these, their number, what comes out."""
        if all(map(_is_lost, x)):
            return x, copies, x
        y = self.flow(body, x)
        rises = any(
            after.high(m) > edge.high(m) * (1 + STILL)
            for after, edge in zip(y, x, strict=True)
            for m in edge.tracked
        )
        up = room if rises else STILL
        lows = [{m: edge.low(m) * (1 - room) for m in edge.tracked} for edge in x]
        highs = {key: size * (1 + up) for key, size in growth.sizes(x).items()}
        out, line = self.growth(body, _bounded(x, lows, highs))
        if not all(
            edge.low(m) >= low
            for edge, own in zip(out, lows, strict=True)
            for m, low in own.items()
        ):
            lows = [dict.fromkeys(own, 0.0) for own in lows]
            _, line = self.growth(body, _bounded(x, lows, highs))
        found = growth.stretch(line, growth.sizes(x), up, room, copies)
        if found.count == 1:
            return x, 1, y
        return _bounded(x, lows, found.most), found.count, _bounded(x, lows, found.end)

    def growth(self, module: Module | Step, x: Edges) -> tuple[Edges, Affine]:
        """The bounds on a part's output, and how they follow from its input's inside of `x`."""
        match module:
            case Leaf(op=op):
                y = self.sizes(module, x)
                type = self.types[module.id][0]
                start = op.at_zero(x, type)
                if start:
                    start = {m: product(self.norm(module), by) for m, by in start.items()}
                return y, growth.of_operation(x, y, self.gains(module, x), start)
            case Compose(steps=steps):
                return self.grown(steps, x)
            case Tuple(members=members):
                out: list[Edge] = []
                lines: dict[Key, growth.Line] = {}
                for member in members:
                    y, own = self.growth(member, x)
                    lines |= {(len(out) + j, m): line for (j, m), line in own.items()}
                    out += y
                return tuple(out), lines
            case Repeat(runs=runs):
                total: Affine | None = None
                for run in runs:
                    for entering, count in self.stretches(run.body, run.count, x):
                        x, one = self.growth(run.body, entering)
                        copies = growth.power(one, count)
                        total = copies if total is None else growth.after(total, copies)
                assert total is not None
                return x, total
            case Scan():
                y = self.flow(module, x)
                return y, growth.of_operation(x, y, "its steps are not followed", None)
            case Step(body=body):
                y, own = self.growth(body, x)
                kept = enumerate(x[len(y) :], len(y))
                same = {(i, m): growth.Line(0.0, {(i, m): 1.0}) for i, e in kept for m in e.tracked}
                return (*y, *x[len(y) :]), {**own, **same}
            case Around(body=body):
                return self.growth(body, x)
            case Hole():
                raise AssertionError("a hole got past the inference of shapes")

    def grown(self, steps: Sequence[Module], x: Edges) -> tuple[Edges, Affine]:
        """The same of one part after the other."""
        total: Affine | None = None
        for step in steps:
            x, one = self.growth(step, x)
            total = one if total is None else growth.after(total, one)
        assert total is not None
        return x, total

    # -- scans ---------------------------------------------------------------------------------

    def scan(self, module: Scan, x: Edges) -> Frame:
        """A scan: one look at its cell, with bounds on the states of all steps.

        How far the states move with what enters, or with the cell's weights, is the sum of all
        powers of the gains from one to the next: see `steps`.
        """
        entry = tuple(map(at_any, x))
        cell = self.frame(module.body, (*self.states(module, entry), *entry))
        y, kept = self.every(module, cell.y), len(cell.y)
        steps = self.steps(module, cell)
        text = "" if steps is None else self.outgrown(module, cell, steps)
        if steps is None:
            text = (
                "it may have any number of steps, and no bound was found below which how far a"
                " state moves with the one before stays under 1"
            )
            row = {(j, self.natural(edge)): math.inf for j, edge in enumerate(y)}
            gains: Matrix = {(i, self.natural(edge)): row for i, edge in enumerate(x)}
        else:
            entering = {key: row for key, row in cell.gains.items() if key[0] >= kept}
            found = after(entering, steps, cell.out, cell.out)
            gains = {
                (i - kept, lifted(m)): {(j, lifted(n)): gain for (j, n), gain in row.items()}
                for (i, m), row in found.items()
            }
        own = None
        if text:
            own = Reason(module.path, "Scan", self.mention(module.span), text, module.span)
        return Frame(module, x, y, gains, ((cell, 1),), cell.reason or own, own)

    def outgrown(self, module: Scan, cell: Frame, steps: Matrix) -> str:
        """What there is to say where a cell has bounds, and those of all steps leave the floats."""
        count, kept = self.length(module), len(cell.y)
        if isinstance(count, Symbol) or cell.reason is not None:
            return ""
        keys = [(j, self.natural(edge)) for j, edge in enumerate(cell.y)]

        def finite(gains: Matrix) -> bool:
            rows = [row_at(gains, key, cell.out) for key in keys]
            return all(math.isfinite(moved(row, key, cell.out)) for row in rows for key in keys)

        def sized(x: Edges) -> bool:
            return all(math.isfinite(edge.high(self.natural(edge))) for edge in x)

        if sized(cell.x[kept:]) and not sized(cell.y):
            return (
                f"over {count:,} steps its states may outgrow floats: each is larger than the last"
            )
        one = {key: row for key, row in cell.gains.items() if key[0] < kept}
        if finite(one) and not finite(steps):
            return (
                f"over {count:,} steps its states may move further than floats can say: each moves"
                " further than the last"
            )
        return ""

    def length(self, module: Scan) -> Size:
        return slots(self.types[module.id][1])[0].shape[1]

    def every(self, module: Scan, y: Edges) -> Edges:
        """The bounds on the states of all steps."""
        return tuple(at_all(edge, self.length(module)) for edge in y)

    def steps(self, module: Scan, cell: Frame) -> Matrix | None:
        """Bounds on the sum of all powers of the gains from a state to the next, below the number
        of steps; None where there are none."""
        count, kept = self.length(module), len(cell.y)
        own = {key: row for key, row in cell.gains.items() if key[0] < kept}
        if not isinstance(count, Symbol):
            return series(own, count, 1.0, cell.out)
        keys = [(j, self.natural(edge)) for j, edge in enumerate(cell.y)]
        return endless(own, cell.out, keys)

    def states(self, module: Scan, entry: Edges) -> Edges:
        """Bounds on what a cell gets for its state, at any step: 0, or what it gave before.

        They hold for what it gives whatever its state is, and so for what it gives for such a
        state, and so on. Where that says nothing, steps from 0 on are followed; of a free number of
        steps they hold for all if they hold for what the cell gives within them.
        """
        kept = slots(self.types[module.id][1])
        types = [one.type for one in map(at_any, map(Edge, kept))]
        zero = tuple(
            Edge(type, dict.fromkeys(tracked(type), Bound(0.0, 0.0)), True) for type in types
        )
        x = tuple(map(_lost, zero))
        for _ in range(FOLLOWED):
            before, x = x, _over(zero, self.flow(module.body, (*x, *entry)))
            if _alike(x, before, CLOSE) or self.looks > self.most:
                break
        # where only the end's bounds are asked for, it is for a λ, which nothing has behind a scan
        if all(map(_is_bounded, x)) or self.ends_only:
            return x
        count, step = self.length(module), Step(module.body, module.id)
        free = isinstance(count, Symbol)
        if free and not self.settles(module, zero, entry):
            return x
        stretches = self.stretches(
            step, MANY if isinstance(count, Symbol) else count, (*zero, *entry)
        )
        grown = _joined([entering[: len(zero)] for entering, _ in stretches])
        if free and not _within(self.flow(module.body, (*grown, *entry)), grown):
            return x
        return tuple(map(_both, x, grown))

    def settles(self, module: Scan, zero: Edges, entry: Edges) -> bool:
        """Whether the bounds on states grow less and less, as far as the first steps tell."""
        found = [zero]
        for _ in range(FOLLOWED):
            found.append(_over(zero, self.flow(module.body, (*found[-1], *entry))))

        def grown(n: int) -> list[float]:
            pairs = zip(found[n - 1], found[n], strict=True)
            return [y.high(m) - x.high(m) for x, y in pairs for m in x.tracked]

        late, early = grown(FOLLOWED), grown(FOLLOWED // 2)
        return all(one < other or one <= 0 for one, other in zip(late, early, strict=True))


def _over(x: Edges, y: Edges) -> Edges:
    """Bounds that hold for values of either."""
    return _joined([x, y])


def _both(one: Edge, other: Edge) -> Edge:
    """Bounds that hold where both do."""
    return one.rebounded(
        {
            m: Bound(max(one.low(m), other.low(m)), min(one.high(m), other.high(m)))
            for m in one.tracked
        }
    )


def _is_bounded(edge: Edge) -> bool:
    return all(math.isfinite(edge.high(m)) for m in edge.tracked)


def _bounded(x: Edges, lows: list[dict[Measure, float]], highs: Mapping[Key, float]) -> Edges:
    """Values of the same kinds with other bounds."""
    return tuple(
        edge.rebounded({m: Bound(min(own[m], highs[i, m]), highs[i, m]) for m in edge.tracked})
        for i, (edge, own) in enumerate(zip(x, lows, strict=True))
    )


def _alike(x: Edges, y: Edges, near: float) -> bool:
    """Whether the bounds are the same up to a relative difference."""
    return all(
        math.isclose(a.high(m), b.high(m), rel_tol=near)
        and math.isclose(a.low(m), b.low(m), rel_tol=near)
        for a, b in zip(x, y, strict=True)
        for m in a.tracked
    )


def _within(x: Edges, y: Edges) -> bool:
    """Whether the bounds of `x` imply those of `y`."""
    return all(
        a.high(m) <= b.high(m) and a.low(m) >= b.low(m)
        for a, b in zip(x, y, strict=True)
        for m in b.bounds
    )


def _lost(edge: Edge) -> Edge:
    """Nothing is known of the value any more."""
    return edge.rebounded(dict.fromkeys(edge.tracked, Bound(0.0, math.inf)))


def _is_lost(edge: Edge) -> bool:
    return all(math.isinf(bound.high) for bound in edge.bounds.values())


def _grouped(found: list[Edges]) -> Stretches:
    """Neighbours whose bounds are nearly the same, with common bounds."""
    groups: list[list[Edges]] = []
    for x in found:
        if groups and _alike(groups[-1][0], x, NEAR):
            groups[-1].append(x)
        else:
            groups.append([x])
    return [(_joined(group), len(group)) for group in groups]


def _joined(group: list[Edges]) -> Edges:
    """Bounds that hold for all."""
    return tuple(
        edges[0].rebounded(
            {
                m: Bound(min(e.low(m) for e in edges), max(e.high(m) for e in edges))
                for m in edges[0].tracked
            }
        )
        for edges in zip(*group, strict=True)
    )
