"""Bounds and gains of every part, for the inputs that reach it.

A *frame* is one look at a part: the bounds on its input and output, its matrix of gains, and the
frames of what stands in it. The copies of a repetition are looked at together where the same bounds
hold for their inputs.
"""

from __future__ import annotations

import math
from collections.abc import Hashable
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TypeAlias

from modnorm.diagnostics import Span
from modnorm.graph.modules import (
    Compose,
    Hole,
    Leaf,
    Module,
    Repeat,
    Scope,
    Shared,
    Tare,
    Tuple,
)
from modnorm.ops.edges import Bound, Edge, Matrix, Measure, natural, slots
from modnorm.ops.types import Tensor, Type
from modnorm.passes.certificate import Reason
from modnorm.passes.gains import after, beside, power
from modnorm.passes.program import Program

FOLLOWED = 24
"""After so many copies of a repetition one bound for all later ones is tried."""
MOST = 1024
"""Copies that are followed one by one, at most."""
LOOKS = 8_000
"""Operations whose outputs are bounded, at most, beside one look at each position: repetitions may
stand in repetitions."""
NEAR = 0.01
"""Copies with bounds closer than this, relatively, are looked at together."""
CLOSE = 1e-12
"""Bounds closer than this, relatively, may be those of a stack that has settled."""
ROUNDING = 1e-14
"""Relative rounding of what one copy computes, taken to be at most this."""

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


class Frames:
    """Makes the frames of a typed module tree. `whole`: images are spoken of in R, not P."""

    def __init__(self, program: Program, whole: bool) -> None:
        self.types = program.types
        self.source = program.source
        self.whole = whole
        self.looks = 0
        self.most = LOOKS + len(program.types)
        self.entered: dict[Hashable, Stretches] = {}
        self.mentions = [program.span]
        self.places: dict[int, Span] = {}  # of every operation, in the model's own file

    def natural(self, edge: Edge) -> Measure:
        return natural(edge.type, headed=edge.headed, whole=self.whole)

    def entry(self, type: Type) -> Edges:
        """The model's input: of norm at most 1."""
        found = []
        for tensor in slots(type):
            measure = natural(tensor, whole=self.whole)
            low = 1.0 if tensor.dtype == "int" else 0.0
            found.append(Edge(tensor, {measure: Bound(low, 1.0)}).completed())
        return tuple(found)

    def frame(self, module: Module, x: Edges) -> Frame:
        """The frame of a part for bounds on its input."""
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
            case Scope(body=body) | Shared(body=body) | Tare(body=body):
                self.mentions.append(self.mention(module.span))
                inner = self.frame(body, x)
                self.mentions.pop()
                return self.around(module, x, inner.y, inner.gains, [(inner, 1)])
            case Hole():
                raise AssertionError("a hole got past the inference of shapes")

    def mention(self, span: Span) -> Span:
        """The place itself, or, of one in another file, where the model's own mentions it."""
        return span if span.source.name == self.source.name else self.mentions[-1]

    def around(
        self, module: Module, x: Edges, y: Edges, gains: Matrix, parts: list[tuple[Frame, int]]
    ) -> Frame:
        reason = next((f.reason for f, _ in parts if f.reason is not None), None)
        return Frame(module, x, y, gains, tuple(parts), reason)

    def leaf(self, leaf: Leaf, x: Edges) -> Frame:
        op, type = leaf.op, self.types[leaf.id][0]
        place = self.places[leaf.id] = self.mention(leaf.span)
        y = self.sizes(leaf, x)
        gains, reason = op.gains(x, type), None
        if isinstance(gains, str):
            reason = Reason(leaf.path, op.label, place, gains, leaf.span)
            row = {(j, self.natural(edge)): math.inf for j, edge in enumerate(y)}
            gains = {(i, self.natural(edge)): row for i, edge in enumerate(x)}
        return Frame(leaf, x, y, gains, (), reason, reason)

    def sizes(self, leaf: Leaf, x: Edges) -> Edges:
        self.looks += 1
        into, out = self.types[leaf.id]
        bounds = leaf.op.sizes(x, into)
        headed = leaf.op.per_head
        if headed is None:
            headed = any(edge.headed for edge in x)
        pairs = zip(slots(out), bounds, strict=True)
        return tuple(Edge(t, b, headed).completed() for t, b in pairs)

    # -- values alone --------------------------------------------------------------------------

    def flow(self, module: Module, x: Edges) -> Edges:
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
            case Scope(body=body) | Shared(body=body) | Tare(body=body):
                return self.flow(body, x)
            case Hole():
                raise AssertionError("a hole got past the inference of shapes")

    # -- repetitions ---------------------------------------------------------------------------

    def repeat(self, module: Repeat, x: Edges) -> Frame:
        parts: list[tuple[Frame, int]] = []
        total: Matrix | None = None
        lost = False
        for run in module.runs:
            for entering, count in self.stretches(run.body, run.count, x):
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

    def stretches(self, body: Module, count: int, x: Edges) -> Stretches:
        """Bounds on what enters the copies, in order, each with the number that it holds for.

        The same bounds reach a repetition inside others again and again: they are followed once.
        """
        key = (body.id, count, tuple((e.headed, tuple(e.bounds.items())) for e in x))
        if key not in self.entered:
            self.entered[key] = self.followed(body, count, x)
        return self.entered[key]

    def followed(self, body: Module, count: int, x: Edges) -> Stretches:
        """Those stretches, by following the bounds from copy to copy."""
        if count > 1 and self.looks > self.most:
            return [(tuple(map(_lost, x)), count)]
        found = [x]
        while len(found) < count:
            x = self.flow(body, found[-1])
            left = count - len(found)
            if _alike(x, found[-1], CLOSE):
                last: Edges | None = found[-1]
                if not _within(x, found[-1]):
                    last = self.settled(body, found[-1], x, left)
                if last is not None:
                    return [*_grouped(found[:-1]), (last, left + 1)]
            if len(found) == FOLLOWED and (kept := self.invariant(body, found[-2:], x)) is not None:
                return [*_grouped(found), (kept, left)]
            if len(found) == MOST or self.looks > self.most:
                return [*_grouped(found), (tuple(map(_lost, x)), left)]
            found.append(x)
        return _grouped(found)

    def settled(self, body: Module, x: Edges, y: Edges, copies: int) -> Edges | None:
        """Bounds for all later copies of a stack whose bounds change by their rounding only.

        They leave room for the rounding of that many copies, and must not grow by more than that of
        one where they are looked at: a stack that magnifies a small excess is followed on.
        """
        room = 1 + 2 * ROUNDING * (copies + 1)
        wide = tuple(
            a.rebounded(
                {
                    m: Bound(min(a.low(m), b.low(m)) / room, max(a.high(m), b.high(m)) * room)
                    for m in a.tracked
                }
            )
            for a, b in zip(x, y, strict=True)
        )
        return wide if _within(self.flow(body, wide), wide, ROUNDING) else None

    def invariant(self, body: Module, before: list[Edges], x: Edges) -> Edges | None:
        """Bounds of `x` or more that the body's output keeps too, if such are found.

        They are guessed from the last steps, as of a sequence that approaches its limit
        geometrically, and then proved by one look.
        """
        for margin in (0.0, 1e-6, 1e-3, 0.1, 1.0, 10.0):
            steps = zip(*before, x, strict=True)
            guess = tuple(_limit(a, b, c, margin) for a, b, c in steps)
            if _within(self.flow(body, guess), guess):
                return guess
        return None


def _alike(x: Edges, y: Edges, near: float) -> bool:
    """Whether the bounds are the same up to a relative difference."""
    return all(
        math.isclose(a.high(m), b.high(m), rel_tol=near)
        and math.isclose(a.low(m), b.low(m), rel_tol=near)
        for a, b in zip(x, y, strict=True)
        for m in a.tracked
    )


def _within(x: Edges, y: Edges, room: float = 0.0) -> bool:
    """Whether the bounds of `x` imply those of `y`, but for a relative excess."""
    return all(
        a.high(m) <= b.high(m) * (1 + room) and a.low(m) * (1 + room) >= b.low(m)
        for a, b in zip(x, y, strict=True)
        for m in b.bounds
    )


def _lost(edge: Edge) -> Edge:
    """Nothing is known of the value any more."""
    return edge.rebounded(dict.fromkeys(edge.tracked, Bound(0.0, math.inf)))


def _is_lost(edge: Edge) -> bool:
    return all(math.isinf(bound.high) for bound in edge.bounds.values())


def _limit(first: Edge, second: Edge, third: Edge, margin: float) -> Edge:
    """Where three steps may lead, and a little further; nothing is known from below."""
    bounds = {}
    for measure in third.tracked:
        high = third.high(measure)
        step = high - second.high(measure)
        last = second.high(measure) - first.high(measure)
        if 0 < step < last:
            high += step * step / (last - step)
        bounds[measure] = Bound(0.0, high * (1 + margin))
    return third.rebounded(bounds)


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
