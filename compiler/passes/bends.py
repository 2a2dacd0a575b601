"""Certified sharpness: how far the derivatives of a model move, with the norms of its certificate.

One walk forwards through the frames carries, for every direction, how far values move (to first
order), and for every pair of directions how far that moves again:

    P' = G·P + t·push        A' = G·A + Γ(P, P) + 2·t·Λ(P)        and so on for each pair,

with the gains G of an operation, the bound Γ on its second derivative and the bound Λ on how its
gains move with its weight. A direction is a move of the input by 1, or of all weights that stand
outside of the same repetitions by their targets t; all uses of a shared weight move at once. Copies
of a repetition are composed by doubling, in the measures that values are spoken of in. Source: the
chain rule, as in Large et al. 2024 (arXiv 2405.14813); docs/mathematics.md.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement
from typing import TypeAlias

from modnorm.graph.modules import Leaf, Repeat, Scan, Tuple, walk
from modnorm.graph.paths import depth
from modnorm.ops.base import Sharpness
from modnorm.ops.edges import Form, Key, Measure, lower, moved, product, summed
from modnorm.passes.frames import Frame, Frames
from modnorm.passes.gains import Types, Vector, after
from modnorm.passes.program import Program
from modnorm.passes.sensitivity import power as raised

SIMILAR = 0.1
"""Copies with bounds closer than this, relatively, are taken to have the larger ones."""

Direction: TypeAlias = tuple[str, int]
"""("x", slot) of an input, or ("w", n): the weights that stand outside of n repetitions."""
Pair: TypeAlias = tuple[Direction, Direction]


@dataclass(frozen=True)
class Jet:
    """How far a value moves in each direction, and for each pair of them (the smaller first)."""

    first: Mapping[Direction, Vector]
    second: Mapping[Pair, Vector]


def certified_sharpness(
    program: Program, frames: Frames, frame: Frame, out: Sequence[Measure]
) -> Sharpness:
    """(α, β, γ) of the model, in the norms of its certificate; infinite where there is no bound."""
    start = {("x", i): {(i, frames.natural(e)): 1.0} for i, e in enumerate(frame.x)}
    jet = _Walk(program, frames).through(frame, Jet(start, {}), ())
    sizes = {
        pair: sum(moved(v, (j, m), frame.out) for j, m in enumerate(out))
        for pair, v in jet.second.items()
    }
    weights = [d for d in jet.first if d[0] == "w"]
    alpha = sum(sizes.get(_pair(a, b), 0.0) for a in weights for b in weights)
    beta = max((sum(sizes.get(_pair(w, x), 0.0) for w in weights) for x in start), default=0.0)
    gamma = max((sizes.get(_pair(a, b), 0.0) for a in start for b in start), default=0.0)
    return Sharpness(alpha, beta, gamma)


def _pair(a: Direction, b: Direction) -> Pair:
    return (a, b) if a <= b else (b, a)


class _Walk:
    def __init__(self, program: Program, frames: Frames) -> None:
        self.program = program
        self.frames = frames
        self.targets = {weight.path: float(weight.target) for weight in program.weights}

    def through(self, frame: Frame, jet: Jet, scales: tuple[float, ...]) -> Jet:
        """The jet behind a part. `scales`, of each repetition around it: this copy's target over
        the last one's."""
        match frame.module:
            case Leaf():
                return self.leaf(frame.module, frame, jet, scales)
            case Repeat():
                return self.copies(frame.module, frame, jet, scales)
            case Scan():
                return self.steps(frame.module, frame, jet, scales)
            case Tuple():
                first: dict[Direction, dict[Key, float]] = {}
                second: dict[Pair, dict[Key, float]] = {}
                start = 0
                for part, _ in frame.parts:
                    own = self.through(part, jet, scales)
                    for d, v in own.first.items():
                        first.setdefault(d, {}).update(_shifted(v, start))
                    for pair, v in own.second.items():
                        second.setdefault(pair, {}).update(_shifted(v, start))
                    start += len(part.y)
                return Jet(first, second)
            case _:
                for part, _ in frame.parts:
                    jet = self.through(part, jet, scales)
                return jet

    def leaf(self, leaf: Leaf, frame: Frame, jet: Jet, scales: tuple[float, ...]) -> Jet:
        op, type = leaf.op, self.program.types[leaf.id][0]
        into, out = [edge.type for edge in frame.x], frame.out
        passed = after(jet.first, frame.gains, into, out)
        again = after(jet.second, frame.gains, into, out)
        first: dict[Direction, Vector] = dict(passed)
        own, target, mixed = ("", 0), 0.0, {}
        if leaf.weight is not None:
            outer = len(scales) - depth(leaf.weight)
            target = self.targets[leaf.weight] * math.prod(scales[outer:])
            own = ("w", outer)
            push = {(0, m): product(target, size) for m, size in op.pushes(frame.x, type).items()}
            natural = (0, self.frames.natural(frame.y[0]))
            parts = [first.get(own, {}), push or {natural: math.inf if target else 0.0}]
            first[own] = summed([part for part in parts if part], out)
            found = op.mixes(frame.x, type)
            known = after(jet.first, self.known(frame, found), into, out)
            mixed = {d: {k: product(target, v) for k, v in row.items()} for d, row in known.items()}
        form = self.form(frame, op.curvature(frame.x, type))
        second: dict[Pair, Vector] = {}
        for a, b in combinations_with_replacement(sorted(first), 2):
            parts = [again.get((a, b), {})]
            if form and a in jet.first and b in jet.first:
                parts.append(_bent(form, jet.first[a], jet.first[b], into, out))
            parts += [mixed[e] for d, e in ((a, b), (b, a)) if d == own and e in mixed]
            parts = [part for part in parts if part]
            if parts:
                second[a, b] = summed(parts, out)
        return Jet(first, second)

    def steps(self, scan: Scan, frame: Frame, jet: Jet, scales: tuple[float, ...]) -> Jet:
        """A scan, of whose steps second derivatives are not followed: there is no bound on them."""
        nothing = self.nothing(frame)
        first: dict[Direction, Vector] = dict(
            after(jet.first, frame.gains, [edge.type for edge in frame.x], frame.out)
        )
        for leaf in walk(scan.body):
            if isinstance(leaf, Leaf) and leaf.weight is not None:
                first["w", len(scales) - depth(leaf.weight)] = nothing
        pairs = combinations_with_replacement(sorted(first), 2)
        return Jet(first, dict.fromkeys(pairs, nothing))

    def known(
        self, frame: Frame, found: Mapping[Key, Mapping[Key, float]] | str
    ) -> Mapping[Key, Mapping[Key, float]]:
        """A matrix, or one without any bound in its place."""
        if not isinstance(found, str):
            return found
        nothing = self.nothing(frame)
        return dict.fromkeys(self.keys(frame), nothing)

    def form(self, frame: Frame, found: Form | str) -> Form:
        if not isinstance(found, str):
            return found
        keys, nothing = self.keys(frame), self.nothing(frame)
        return {(a, b): nothing for a in keys for b in keys}

    def keys(self, frame: Frame) -> list[Key]:
        return [(i, self.frames.natural(edge)) for i, edge in enumerate(frame.x)]

    def nothing(self, frame: Frame) -> dict[Key, float]:
        return {(j, self.frames.natural(edge)): math.inf for j, edge in enumerate(frame.y)}

    # -- repetitions -----------------------------------------------------------------------------

    def copies(self, repeat: Repeat, frame: Frame, jet: Jet, scales: tuple[float, ...]) -> Jet:
        depth, parts = len(scales), list(frame.parts)
        for run in repeat.runs:
            grows = self.program.growth(run)
            looks: list[tuple[Frame, int]] = []
            while sum(count for _, count in looks) < run.count:
                looks.append(parts.pop(0))
            done = 0
            for part, count in _clustered(looks):
                done += count
                last = float(raised(grows, run.count - done))
                if count == 1:
                    jet = self.through(part, jet, (*scales, last))
                    continue
                start = {("x", i): {key: 1.0} for i, key in enumerate(self.keys(part))}
                own = self.through(part, Jet(start, {}), (*scales, 1.0))
                body = _Short.of(own, self.ends(part), part.out)
                body = body.copies(count, grows, depth).scaled(last, depth)
                before = _Short.of(jet, self.keys(part), [e.type for e in part.x])
                jet = before.then(body).jet(self.ends(part))
        return jet

    def ends(self, frame: Frame) -> list[Key]:
        return [(j, self.frames.natural(edge)) for j, edge in enumerate(frame.y)]


def _shifted(v: Vector, by: int) -> dict[Key, float]:
    return {(j + by, m): value for (j, m), value in v.items()}


def _bent(form: Form, v: Vector, u: Vector, into: Types, out: Types) -> dict[Key, float]:
    """How far the output's derivative along v moves along u."""
    parts: dict[tuple[int, int], dict[Key, float]] = {}
    for (a, b), row in form.items():
        size = product(moved(v, a, into), moved(u, b, into))
        lower(parts.setdefault((a[0], b[0]), {}), row, size)
    return summed(list(parts.values()), out)


def _clustered(parts: Sequence[tuple[Frame, int]]) -> list[tuple[Frame, int]]:
    """Neighbours with similar bounds, with the frame of one whose bounds hold for the other."""
    found: list[tuple[Frame, int]] = []
    for part, count in parts:
        before, copies = found[-1] if found else (part, 0)
        if found and _covers(before, part):
            found[-1] = (before, copies + count)
        elif found and _covers(part, before):
            found[-1] = (part, copies + count)
        else:
            found.append((part, count))
    return found


def _covers(one: Frame, other: Frame) -> bool:
    """Whether the bounds of one hold for the other, and are not much larger."""
    return all(
        b.high(m) <= a.high(m) <= b.high(m) * (1 + SIMILAR)
        and a.low(m) <= b.low(m) <= a.low(m) * (1 + SIMILAR)
        for a, b in zip(one.x, other.x, strict=True)
        for m in a.tracked
    )


@dataclass(frozen=True)
class _Short:
    """A jet in one measure a tensor: how far each moves, by direction and by pair."""

    first: Mapping[Direction, tuple[float, ...]]
    second: Mapping[Pair, tuple[float, ...]]
    width: int

    @classmethod
    def of(cls, jet: Jet, keys: Sequence[Key], types: Types) -> _Short:
        first = {d: tuple(moved(v, key, types) for key in keys) for d, v in jet.first.items()}
        second = {d: tuple(moved(v, key, types) for key in keys) for d, v in jet.second.items()}
        return cls(first, second, len(keys))

    def jet(self, keys: Sequence[Key]) -> Jet:
        first = {d: dict(zip(keys, v, strict=True)) for d, v in self.first.items()}
        second = {d: dict(zip(keys, v, strict=True)) for d, v in self.second.items()}
        return Jet(first, second)

    def then(self, body: _Short) -> _Short:
        """`body` behind this: its directions ("x", i) are the tensors that this one moves."""
        inputs: list[Direction] = [
            ("x", i) for i in range(len(next(iter(self.first.values()), ())))
        ]
        zero = (0.0,) * body.width

        def sent(
            v: Sequence[float], rows: Sequence[Sequence[float]], more: Sequence[float]
        ) -> tuple[float, ...]:
            sums = list(more)
            for size, row in zip(v, rows, strict=True):
                sums = [s + product(size, r) for s, r in zip(sums, row, strict=True)]
            return tuple(sums)

        slopes = [body.first.get(x, zero) for x in inputs]
        directions = sorted({*self.first, *(d for d in body.first if d[0] == "w")})
        none = (0.0,) * len(inputs)
        moves = {d: self.first.get(d, none) for d in directions}
        first = {
            d: sent(moves[d], slopes, body.first.get(d, zero) if d[0] == "w" else zero)
            for d in directions
        }
        second: dict[Pair, tuple[float, ...]] = {}
        for a, b in combinations_with_replacement(directions, 2):
            total = sent(self.second.get((a, b), none), slopes, zero)
            for i, x in enumerate(inputs):
                bent = [body.second.get(_pair(x, y), zero) for y in inputs]
                row = sent(moves[b], bent, zero)
                total = sent((moves[a][i],), (row,), total)
            for d, e in ((a, b), (b, a)):
                if d[0] == "w":
                    total = sent(
                        moves[e], [body.second.get(_pair(d, x), zero) for x in inputs], total
                    )
            if a[0] == b[0] == "w":
                total = tuple(map(sum, zip(total, body.second.get((a, b), zero), strict=True)))
            second[a, b] = total
        return _Short(first, second, body.width)

    def copies(self, count: int, grows: float, depth: int) -> _Short:
        """`count` ≥ 1 copies; the weights of each move `grows` times as far as the next one's."""
        total, done = self, 1
        for bit in bin(count)[3:]:
            total = total.scaled(float(raised(grows, done)), depth).then(total)
            done *= 2
            if bit == "1":
                total, done = total.scaled(grows, depth).then(self), done + 1
        return total

    def scaled(self, factor: float, depth: int) -> _Short:
        """The weights of the copies of the repetition at a depth move by a factor."""

        def of(*directions: Direction) -> float:
            own = sum(d[0] == "w" and d[1] <= depth for d in directions)
            return float(raised(factor, own)) if own else 1.0

        return _Short(
            {d: tuple(product(of(d), s) for s in v) for d, v in self.first.items()},
            {p: tuple(product(of(*p), s) for s in v) for p, v in self.second.items()},
            self.width,
        )
