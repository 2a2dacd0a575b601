"""Targets: the size of every weight's update when the whole update has modular norm 1.

One reverse walk over the data flow: a value's downstream sensitivity is the sum, over its uses, of
the user's downstream sensitivity times the user's own sensitivity. On a tree this is the recursion
of Large et al. 2024; a weight used in several places gets the sum of its uses (the pooled rule).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import product
from typing import ClassVar, Literal, TypeAlias

from modnorm.diagnostics import Diagnostic, Diagnostics
from modnorm.graph import paths
from modnorm.graph.dataflow import Apply, Loop, Pack, Recurrence, Region
from modnorm.graph.numbers import fits_float
from modnorm.ops.base import Atom
from modnorm.ops.types import Real
from modnorm.passes.program import Level, Place, Program, Steps, Term, Weight
from modnorm.passes.sensitivity import divide, geometric, plus, power, times
from modnorm.passes.streams import At, Streams

Amount: TypeAlias = Mapping[tuple[Place, ...], Real]
"""A downstream sensitivity: the sum of numbers, each times what it is at places of streams that
differ from copy to copy."""
ONE: Amount = {(): 1}


def _plus(a: Amount, b: Amount) -> Amount:
    if not a:
        return b
    return {**a, **{places: plus(a.get(places, 0), value) for places, value in b.items()}}


def _times(a: Amount, b: Amount) -> Amount:
    total: Amount = {}
    for (first, one), (second, other) in product(a.items(), b.items()):
        total = _plus(total, {(*first, *second): times(one, other)})
    return total


@dataclass(frozen=True)
class _Use:
    """A use of a weight: the sensitivity downstream of its last copy, and the loops around it."""

    value: Apply
    downstream: Amount
    levels: tuple[Level, ...]


@dataclass(frozen=True)
class _Reverse:
    """The reverse walk.

    The sum behind k branches of a residual stream has the sensitivity that the stream's end has,
    times the stream's `reach[k]`: so on the way through a stream the end's is carried along, and
    multiplied where a branch, or the stream's start, goes off. Weights that take the sum itself
    are those of its mean: whatever reads that has the sensitivity that it has elsewhere.
    """

    streams: Streams
    steps: Mapping[int, Steps]
    passing: Mapping[int, Real]

    def region(
        self, region: Region, depth: int = 0, downstream: Amount = ONE
    ) -> tuple[list[_Use], Amount]:
        """Every use of a weight in a region, and the sensitivity from its input on.

        `downstream` is the sensitivity downstream of the region's output, and `depth` the number of
        repetitions around it.
        """
        below: dict[int, Amount] = {number: {} for number in region.numbers()}
        below[region.output] = downstream
        ends: dict[int, Amount] = {}  # of sums in streams, whatever reads them
        uses: list[_Use] = []
        for number in reversed(region.numbers()):
            value, here = region[number], ends.get(number, below[number])
            match value:
                case Apply(leaf=leaf, inputs=(x,)) if leaf in self.streams.sums:
                    at, found = self.streams.sums[leaf]
                    here = self.end(at, number, here, ends)
                    terms = list(region[x].inputs)
                    skip = terms.pop(found.skip)
                    ends[skip] = here if found.inner else self.before(at, here)
                    for term in terms:
                        below[term] = _plus(below[term], _times(here, self.of(at, depth, "reach")))
                case Apply(op=op, inputs=(x,)) if (
                    number in ends and op.is_identity and op.sensitivity == 1
                ):
                    ends[x] = here  # the skip
                case Apply(leaf=leaf, inputs=(x,)) if leaf in self.streams.passes:
                    if value.weight is not None:
                        reach = self.of(self.streams.passes[leaf], depth, "reach", "terms")
                        uses.append(_Use(value, _times(here, reach), ()))
                    ends[x] = here
                case Apply(op=op, inputs=(x,)) if op.picks_apart:
                    below[x] = _larger(below[x], here)
                case Apply(op=op, inputs=(x,)):
                    if value.weight is not None:
                        uses.append(_Use(value, here, ()))
                    below[x] = _plus(below[x], _times(here, {(): op.sensitivity}))
                case Pack(inputs=inputs):
                    for x in inputs:
                        below[x] = _plus(below[x], here)
                case Loop(inputs=(x,), node=node) if node in self.streams.loops:
                    at = self.streams.loops[node]
                    here = self.end(at, number, here, ends)
                    uses.extend(self.loop(value, here, depth)[0])
                    ends[x] = self.before(at, here, 0)
                case Loop(inputs=(x,)):
                    inner, here = self.loop(value, here, depth)
                    uses.extend(inner)
                    below[x] = _plus(below[x], here)
                case Recurrence(inputs=(x,), node=node):  # a weight moves at every step at once
                    every = _times(here, {(): self.steps[node].total})
                    uses.extend(reversed(self.region(value.region, depth, every)[0]))
                    below[x] = _plus(below[x], _times(here, {(): self.passing[node]}))
        uses.reverse()
        return uses, below[region.input]

    def loop(self, loop: Loop, downstream: Amount, depth: int) -> tuple[list[_Use], Amount]:
        uses: list[_Use] = []
        for run in reversed(loop.runs):
            inner, entering = self.region(run.region, depth + 1)
            ratio = 1 if loop.node in self.streams.loops else entering.get((), 0)
            level = Level(run.start, run.count, ratio)
            uses.extend(
                _Use(use.value, _times(downstream, use.downstream), (level, *use.levels))
                for use in reversed(inner)
            )
            downstream = _times(downstream, {(): power(ratio, run.count)})
        return uses, downstream

    def of(self, at: At, depth: int, *names: Literal["reach", "terms"]) -> Amount:
        """How far a stream's end moves with the sum at a place, or how many terms that has."""
        stream, found = self.streams.streams[at.stream], ONE
        for name in names:
            table = stream.reach if name == "reach" else tuple(map(float, stream.sizes))
            one: Amount = {(): table[at.start]}
            if at.strides:
                first = depth - len(at.strides)
                one = {(Place(at.stream, name, table, at.start, at.strides, first),): 1}
            found = _times(found, one)
        return found

    def end(self, at: At, number: int, here: Amount, ends: Mapping[int, Amount]) -> Amount:
        """The sensitivity of the end of a stream, at a sum or a repetition of sums in it.

        Behind the last one it is that of a mean of all terms.
        """
        if number in ends or at.strides:
            return here
        return _times(here, {(): divide(1, self.streams.streams[at.stream].sizes[-1])})

    def before(self, at: At, end: Amount, behind: int = 1) -> Amount:
        """What to carry on before a sum, or a repetition, of a stream that begins there or not."""
        starts = at.start == behind and not at.strides
        return _times(end, self.of(replace(at, start=0), 0, "reach")) if starts else end


def _larger(a: Amount, b: Amount) -> Amount:
    """The larger of two that differ in their factors; where they differ otherwise, the sum."""
    if a and b and a.keys() != b.keys():
        return _plus(a, b)
    return {places: max(a.get(places, 0), b.get(places, 0)) for places in {**a, **b}}


def _over(amount: Amount, outer: tuple[Level, ...]) -> Amount:
    """The sum of a downstream sensitivity over all copies of the outermost repetitions."""
    total: Amount = {}
    for places, factor in amount.items():
        inside = {n for place in places for n in place.levels}
        for n, level in enumerate(outer):
            if n not in inside:
                factor = times(factor, geometric(level.ratio, level.count))
        ranges = [range(level.count if n in inside else 1) for n, level in enumerate(outer)]
        for indices in product(*ranges):
            left, own = [place.inside(indices) for place in places], factor
            for place in left:
                if not place.strides:
                    own = times(own, place.table[place.start])
            total = _plus(total, {tuple(place for place in left if place.strides): own})
    return total


def _holds(weight: Weight) -> bool:
    """Whether floats can hold a weight's mass and the target of every copy."""
    if not (fits_float(weight.mass) and fits_float(weight.target)):
        return False
    # how much more sensitivity is downstream of another copy than of the last
    (least, _), (most, _) = min(weight.along), max(weight.along)
    for level in weight.levels:
        first = float(power(level.ratio, level.count - 1))
        most, least = most * max(first, 1), least * min(first, 1)
    if not (math.isfinite(most) and least > 0):
        return False
    target = float(weight.target)
    return math.isfinite(target / least) and (target / most > 0 or weight.mass == 0)


def _is_dead(uses: list[_Use]) -> bool:
    """Whether nothing depends on a weight, or on all but the last copy of one."""
    copies = any(level.ratio == 0 and level.count > 1 for use in uses for level in use.levels)
    return copies or not any(any(use.downstream.values()) for use in uses)


@dataclass(frozen=True)
class Targets:
    """target = (mass / whole mass) / downstream sensitivity.

    Source: Large et al. 2024 (arXiv 2405.14813); docs/mathematics.md.
    """

    name: ClassVar[str] = "targets"

    def run(self, program: Program, diagnostics: Diagnostics) -> Program:
        uses, _ = _Reverse(program.streams, program.steps, program.passing).region(program.flow)
        by_weight: dict[str, list[_Use]] = {}
        for use in uses:
            assert use.value.weight is not None
            by_weight.setdefault(use.value.weight, []).append(use)
        weights: list[Weight] = []
        for path, group in by_weight.items():
            if _is_dead(group):
                self.dead(group, diagnostics)
                continue
            weight = self.weight(path, group, program)
            if weight is None or not _holds(weight):
                self.out_of_range(path, group, diagnostics)
            else:
                weights.append(weight)
        return replace(program, weights=tuple(weights))

    def dead(self, uses: list[_Use], diagnostics: Diagnostics) -> None:
        """E306 for a weight that the output does not depend on, whatever its value is."""
        use = next(use for use in uses if isinstance(use.value.op, Atom))
        part = f"`{use.value.stored.part}` of " if use.value.stored else ""
        what = f"{part}this `{use.value.called.label}`"
        if not any(use.downstream.values()):
            message = f"what comes after {what} ignores its input: it could never learn"
            hint = "leave it out, or use what it gives: `(a, b)` gives both the same input"
        else:
            message = f"copies of {what} ignore those before them: only the last could learn"
            hint = "leave the repetition out, or add what is before: `Identity + f`"
        diagnostics.add(Diagnostic("E306", message, use.value.span, hint=hint))

    def out_of_range(self, path: str, uses: list[_Use], diagnostics: Diagnostics) -> None:
        first = paths.first(path)
        diagnostics.add(
            Diagnostic(
                "E501",
                f"the target of `{first}` is more or less than a float can hold",
                next(use.value.span for use in uses if isinstance(use.value.op, Atom)),
                hint="a target is the weight's share of the mass, divided by the sensitivity"
                " downstream of it",
            )
        )

    def weight(self, path: str, uses: list[_Use], program: Program) -> Weight | None:
        own = next(use for use in uses if isinstance(use.value.op, Atom))
        op = own.value.op
        assert isinstance(op, Atom)
        levels = own.levels[len(own.levels) - paths.depth(path) :]
        whole: Amount = {}
        copies = 0
        for use in uses:
            # repetitions outside a shared module repeat its use, not its weight
            outer = use.levels[: len(use.levels) - len(levels)]
            whole = _plus(whole, _over(use.downstream, outer))
            copies += math.prod(level.count for level in outer)
        terms = [Term(float(factor), places) for places, factor in whole.items()]
        last = tuple(level.count - 1 for level in levels)
        downstream: Real = sum(term(last) for term in terms) if any(whole) else whole.get((), 0)
        if not (downstream > 0 and fits_float(downstream)):
            return None
        mass = program.leaf_masses[path]
        share = divide(mass, program.mass) if program.mass != 0 else 0
        target = divide(share, downstream)
        stored = own.value.stored
        found = Weight(path, op, own.value.span, mass, downstream, target, levels, copies, stored)
        return replace(found, terms=tuple(terms)) if any(whole) else found

    def verify(self, program: Program) -> None:
        if program.mass == 0:
            return
        total = 0.0
        for weight in program.weights:
            # target times downstream sensitivity is the same for every copy
            total += float(weight.target) * float(weight.downstream) * weight.copies
        assert abs(total - 1) < 1e-6, total
