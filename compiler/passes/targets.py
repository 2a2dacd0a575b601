"""Targets: the size of every weight's update when the whole update has modular norm 1.

One reverse walk over the data flow: a value's downstream sensitivity is the sum, over its uses, of
the user's downstream sensitivity times the user's own sensitivity. On a tree this is the recursion
of Large et al. 2024; a weight used in several places gets the sum of its uses (the pooled rule).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

from modnorm.diagnostics import Diagnostic, Diagnostics
from modnorm.graph import paths
from modnorm.graph.dataflow import Apply, Loop, Pack, Region
from modnorm.graph.numbers import fits_float
from modnorm.ops.base import Atom
from modnorm.ops.types import Real
from modnorm.passes.program import Level, Program, Weight
from modnorm.passes.sensitivity import divide, geometric, plus, power, times


@dataclass(frozen=True)
class _Use:
    """A use of a weight: the sensitivity downstream of its last copy, and the loops around it."""

    value: Apply
    downstream: Real
    levels: tuple[Level, ...]


def reverse(region: Region, downstream: Real = 1) -> tuple[list[_Use], Real]:
    """Every use of a weight in a region, and the sensitivity from its input on.

    `downstream` is the sensitivity downstream of the region's output.
    """
    below: dict[int, Real] = dict.fromkeys(region.numbers(), 0)
    below[region.output] = downstream
    uses: list[_Use] = []
    for number in reversed(region.numbers()):
        value, here = region[number], below[number]
        match value:
            case Apply(op=op, inputs=(x,)):
                if value.weight is not None:
                    uses.append(_Use(value, here, ()))
                below[x] = plus(below[x], times(here, op.sensitivity))
            case Pack(inputs=inputs):
                for x in inputs:
                    below[x] = plus(below[x], here)
            case Loop(inputs=(x,)):
                inner, here = _loop(value, here)
                uses.extend(inner)
                below[x] = plus(below[x], here)
    uses.reverse()
    return uses, below[region.input]


def _loop(loop: Loop, downstream: Real) -> tuple[list[_Use], Real]:
    uses: list[_Use] = []
    for run in reversed(loop.runs):
        inner, ratio = reverse(run.region)
        level = Level(run.start, run.count, ratio)
        uses.extend(
            _Use(use.value, times(downstream, use.downstream), (level, *use.levels))
            for use in reversed(inner)
        )
        downstream = times(downstream, power(ratio, run.count))
    return uses, downstream


def _holds(weight: Weight) -> bool:
    """Whether floats can hold a weight's mass and the target of every copy."""
    if not (fits_float(weight.mass) and fits_float(weight.target)):
        return False
    most = least = 1.0  # how much more sensitivity is downstream of another copy than of the last
    for level in weight.levels:
        first = float(power(level.ratio, level.count - 1))
        most, least = most * max(first, 1), least * min(first, 1)
    if not (math.isfinite(most) and least > 0):
        return False
    target = float(weight.target)
    return math.isfinite(target / least) and (target / most > 0 or weight.mass == 0)


@dataclass(frozen=True)
class Targets:
    """target = (mass / whole mass) / downstream sensitivity.

    Source: Large et al. 2024 (arXiv 2405.14813); docs/mathematics.md.
    """

    name: ClassVar[str] = "targets"

    def run(self, program: Program, diagnostics: Diagnostics) -> Program:
        uses, _ = reverse(program.flow)
        by_weight: dict[str, list[_Use]] = {}
        for use in uses:
            assert use.value.weight is not None
            by_weight.setdefault(use.value.weight, []).append(use)
        weights: list[Weight] = []
        for path, group in by_weight.items():
            weight = self.weight(path, group, program)
            if weight is None or not _holds(weight):
                self.out_of_range(path, group, diagnostics)
            else:
                weights.append(weight)
        return replace(program, weights=tuple(weights))

    def out_of_range(self, path: str, uses: list[_Use], diagnostics: Diagnostics) -> None:
        first = paths.first(path)
        if not any(use.downstream for use in uses):
            use = next(use for use in uses if isinstance(use.value.op, Atom))
            message = f"nothing depends on `{first}`: behind it stands the name of an input"
            hint = "a name gives the input's value, whatever is piped into it: leave one out"
            diagnostics.add(Diagnostic("E501", message, use.value.span, hint=hint))
            return
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
        downstream: Real = 0
        copies = 0
        for use in uses:
            # repetitions outside a shared module repeat its use, not its weight
            outer = use.levels[: len(use.levels) - len(levels)]
            part, count = use.downstream, 1
            for level in outer:
                part = times(part, geometric(level.ratio, level.count))
                count *= level.count
            downstream = plus(downstream, part)
            copies += count
        if not (downstream > 0 and fits_float(downstream)):
            return None
        mass = program.leaf_masses[path]
        share = divide(mass, program.mass) if program.mass != 0 else 0
        target = divide(share, downstream)
        stored = own.value.stored
        return Weight(path, op, own.value.span, mass, downstream, target, levels, copies, stored)

    def verify(self, program: Program) -> None:
        if program.mass == 0:
            return
        total = 0.0
        for weight in program.weights:
            # target times downstream sensitivity is the same for every copy
            total += float(weight.target) * float(weight.downstream) * weight.copies
        assert abs(total - 1) < 1e-6, total
