"""Warnings: what is legal and probably not meant."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

from modnorm.diagnostics import Diagnostic, Diagnostics, Label
from modnorm.graph.dataflow import Apply, Loop, Recurrence
from modnorm.graph.modules import (
    Around,
    Compose,
    Hole,
    Leaf,
    Module,
    Repeat,
    Scan,
    Shared,
    Tare,
    Tuple,
    children,
    walk,
)
from modnorm.graph.numbers import show
from modnorm.graph.paths import instance
from modnorm.ops.base import Atom
from modnorm.ops.types import Symbol
from modnorm.passes.program import Level, Program, Weight
from modnorm.passes.sensitivity import divide, power

TOLERANCE = 1e-9
APART = 1e6
"""Targets whose ratio is more than this are warned of."""
RESOLUTION = 2.0**-24
"""A float32 that changes by less than this part of it may stay as it is: half a unit of its last
place, and weights begin with norm 1 as a rule."""


@dataclass(frozen=True)
class Warnings:
    """Frozen weights, residual branches and repetitions whose sensitivity is not 1."""

    name: ClassVar[str] = "warnings"

    def run(self, program: Program, diagnostics: Diagnostics) -> Program:
        for module in walk(program.tree):
            if isinstance(module, Leaf):
                self.frozen(module, program, diagnostics)
            elif isinstance(module, Compose):
                self.residual(module, program, diagnostics)
            elif isinstance(module, Repeat):
                self.growing(module, program, diagnostics)
            elif isinstance(module, Scan):
                self.lengthening(module, program, diagnostics)
        self.assumed(program, diagnostics)
        self.buffers(program, diagnostics)
        self.unused(program, diagnostics)
        self.unread(program, diagnostics)
        self.apart(program, diagnostics)
        self.still(program, diagnostics)
        return program

    def frozen(self, leaf: Leaf, program: Program, diagnostics: Diagnostics) -> None:
        if isinstance(leaf.op, Atom) and program.leaf_masses[leaf.path] == 0:
            diagnostics.add(
                Diagnostic(
                    "W602",
                    f"`{leaf.op.label}` has mass 0: its weight is frozen",
                    leaf.span,
                    hint="give it a positive mass if it should learn",
                )
            )

    def residual(self, module: Compose, program: Program, diagnostics: Diagnostics) -> None:
        """A sum of the input, scaled or not, and something else."""
        for before, add in zip(module.steps, module.steps[1:], strict=False):
            if not (isinstance(before, Tuple) and isinstance(add, Leaf) and add.op.joins):
                continue
            skips = [m for m in before.members if _is_skip(m)]
            if not skips or len(skips) == len(before.members) or add.id in program.streams.sums:
                continue
            total = program.sensitivities[before.id] * program.sensitivities[add.id]
            if abs(float(total) - 1) <= TOLERANCE:
                continue
            parts = [
                Label(m.span, f"sensitivity {show(program.sensitivities[m.id])}")
                for m in before.members
            ]
            hint = (
                "weigh the two so that they sum to 1: `(1 - 1/n) * Identity + 1/n * f`, with n the"
                " number of branches"
            )
            reader = program.streams.failures.get(add.id)
            if reader is not None:
                what = f"`{reader.op.label}` reads the sum without a norm"
                parts.append(Label(reader.span, what))
                hint += (
                    "; or let only norms read the sum, `Identity + f @ norm` with a norm at the"
                    " end: then it counts as a mean"
                )
            diagnostics.add(
                Diagnostic(
                    "W603",
                    f"this residual branch has sensitivity {show(total)}, not 1",
                    add.span,
                    others=tuple(parts),
                    hint=hint,
                )
            )

    def growing(self, module: Repeat, program: Program, diagnostics: Diagnostics) -> None:
        total = program.sensitivities[module.id]
        if module.id in program.streams.loops:
            return
        if module.count > 1 and total > 1 + TOLERANCE:
            one = {program.sensitivities[run.body.id] for run in module.runs}
            each = f" of sensitivity {show(one.pop())}" if len(one) == 1 else ""
            hint = "bring the repeated module to sensitivity 1"
            if any(_carries(run.body) for run in module.runs):
                hint += ", or let copies carry the sum alone, `Identity + f @ norm` with a norm at"
                hint += " the end: what all of them read is mentioned by its name, as an input or a"
                hint += " `shared` module of inputs"
            diagnostics.add(
                Diagnostic(
                    "W604",
                    f"{module.count} copies{each} have sensitivity {show(total)} together:"
                    " it grows with depth",
                    module.span,
                    hint=f"updates of early copies shrink by the same factor; {hint}",
                )
            )

    def lengthening(self, module: Scan, program: Program, diagnostics: Diagnostics) -> None:
        steps = program.steps[module.id]
        if isinstance(steps.count, Symbol) or steps.count == 1 or steps.state <= 1 + TOLERANCE:
            return
        diagnostics.add(
            Diagnostic(
                "W604",
                f"a state moves {show(steps.state)} times as far as the one before,"
                f" {show(steps.total)} times in {steps.count} steps: it grows with their number",
                module.span,
                hint="updates of what stands before and in the cell shrink by that factor; bring"
                " the cell to sensitivity 1 in its state, or declare it: `Scan(cell, carry = 1)`",
            )
        )

    def assumed(self, program: Program, diagnostics: Diagnostics) -> None:
        """Assumptions that say what follows anyway."""
        for found in program.assumptions.values():
            if found.factor == 1:
                one = show(found.otherwise)
                message = f"this assumption changes nothing: the sensitivity is {one} without it"
                diagnostics.add(Diagnostic("W609", message, found.module.span, hint="leave it out"))

    def unused(self, program: Program, diagnostics: Diagnostics) -> None:
        """Weights that would move if the output depended on them."""
        moving = {weight.path for weight in program.weights if weight.target}
        idle: dict[str, Apply] = {}
        stack = [(program.flow, True)]
        while stack:
            region, counts = stack.pop()
            needed = region.needed() if counts else set()
            for number in region.numbers():
                value, used = region[number], number in needed
                if isinstance(value, Loop | Recurrence):
                    stack += [(inner, used) for inner in value.regions]
                elif isinstance(value, Apply) and value.weight in moving:
                    if used:
                        moving.discard(value.weight)
                    else:
                        idle.setdefault(value.weight, value)
        for path in sorted(moving & idle.keys(), key=lambda path: idle[path].leaf):
            value = idle[path]
            part = f"`{value.stored.part}` of " if value.stored else ""
            diagnostics.add(
                Diagnostic(
                    "W614",
                    f"nothing depends on {part}this `{value.called.label}`: it never learns",
                    value.span,
                    hint="use what it gives, leave it out, or freeze it with mass 0",
                )
            )

    def unread(self, program: Program, diagnostics: Diagnostics) -> None:
        """Inputs that are not named, in a model that reads all of its inputs by their names."""
        flow = program.flow
        named = {apply.op.gives for apply in flow.applies()}
        readers = [flow[number] for number in flow.uses(flow.input)]
        piped = any(not isinstance(r, Apply) or r.op.gives is None for r in readers)
        for index, entry in enumerate(program.inputs):
            if not piped and index not in named:
                message = f"the model does not read its input `{entry.name}`"
                hint = "use it, or take its declaration out"
                diagnostics.add(Diagnostic("W616", message, entry.span, hint=hint))

    def buffers(self, program: Program, diagnostics: Diagnostics) -> None:
        """Buffers of which somebody may think that each use has its own, or that they stay."""
        uses = Counter[str]()
        leaves: dict[str, Leaf] = {}
        frozen: set[str] = set()
        # with the number of copies around the innermost shared part, and around the part itself
        stack: list[tuple[Module, int, int, bool]] = [(program.tree, 1, 1, False)]
        while stack:
            module, shared, copies, still = stack.pop()
            if isinstance(module, Leaf) and module.op.buffers:
                uses[module.path] += shared
                leaves[module.path] = module
                frozen |= {module.path} if still else set()
            counts = [run.count for run in module.runs] if isinstance(module, Repeat) else [1]
            shared = copies if isinstance(module, Shared) else shared
            still = still or (isinstance(module, Tare) and module.mass == 0)
            inner = children(module)
            counts *= 1 if isinstance(module, Repeat) else len(inner)
            stack += [(p, shared, copies * n, still) for p, n in zip(inner, counts, strict=True)]
        for path, leaf in sorted(leaves.items(), key=lambda item: item[1].id):
            op, kept = leaf.op, " and ".join(f"`{name}`" for name in leaf.op.buffers)
            if uses[path] > 1:
                diagnostics.add(
                    Diagnostic(
                        "W613",
                        f"{uses[path]} uses of this `{op.label}` share one {kept}: in training each"
                        " of them updates it, and in `eval()` all read what that leaves",
                        leaf.span,
                        hint="with `def` instead of `shared` every use has its own",
                    )
                )
            if path in frozen:
                diagnostics.add(
                    Diagnostic(
                        "W613",
                        f"mass 0 freezes weights only: training goes on to update {kept} of this"
                        f" `{op.label}`",
                        leaf.span,
                        hint="call `eval()` on this part of the model after every `train()`",
                    )
                )

    def apart(self, program: Program, diagnostics: Diagnostics) -> None:
        """Targets so far apart that a learning rate that moves one weight throws another."""
        found = [end for weight in program.weights if weight.target for end in _extremes(weight)]
        if not found:
            return
        (low, small), (high, large) = min(found), max(found)
        if high <= APART * low:
            return
        diagnostics.add(
            Diagnostic(
                "W611",
                f"the targets are far apart: that of `{large}` is {high:.3g}, that of `{small}`"
                f" {low:.3g}",
                program.span,
                hint="a weight far from the output gets a larger update where the sensitivity"
                " between is below 1, a smaller one where it is above; give repeated modules"
                " sensitivity 1: `residual(f, n)` from std.nn is `(1 - 1/n) * Identity + 1/n * f`",
            )
        )

    def still(self, program: Program, diagnostics: Diagnostics) -> None:
        """Targets so small that updates of that size round away."""
        moving = [weight for weight in program.weights if weight.target]
        count = sum(map(_still, moving))
        if not count:
            return
        worst = min(moving, key=lambda weight: _extremes(weight)[0])
        least, path = _extremes(worst)[0]
        copies = sum(weight.copies for weight in program.weights)
        share = float(divide(worst.mass, program.mass))
        diagnostics.add(
            Diagnostic(
                "W615",
                hardly_moving(count, copies, path, least),
                worst.span,
                hint=f"the target is its share of the mass, {share:.3g}, over the sensitivity"
                f" behind it, {share / least:.3g}: `modnorm explain` shows what makes it up",
            )
        )

    def verify(self, program: Program) -> None:
        pass


def hardly_moving(count: int, of: int, name: str, target: float) -> str:
    """That weights stand still, `name` with the least target among them."""
    return (
        f"{count} of {of} weights will hardly move: the target of `{name}` is {target:.3g}, and in"
        f" float32 an update of less than {RESOLUTION:.1g} rounds away"
    )


def _still(weight: Weight) -> int:
    """How many copies of a weight have a target below the resolution of its type."""
    if _extremes(weight)[0][0] >= RESOLUTION:
        return 0
    targets = [float(weight.target) / later for later, _ in weight.along]
    plain = [level for n, level in enumerate(weight.levels) if n not in weight.streamed]
    *levels, longest = [Level(0, 1, 1), *sorted(plain, key=lambda level: level.count)]
    for level in levels:
        steps = [float(power(level.ratio, n)) for n in range(level.count)]
        targets = [target / step for target in targets for step in steps]
    return sum(_small(target, float(longest.ratio), longest.count) for target in targets)


def _small(last: float, ratio: float, count: int) -> int:
    """How many of so many copies are below it, if each target is the next one's over `ratio`."""
    if ratio == 1:
        return count if last < RESOLUTION else 0
    crossed = math.log(last / RESOLUTION) / math.log(ratio)  # so many copies before the last
    below = count - 1 - math.floor(crossed) if ratio > 1 else math.ceil(crossed)
    return min(max(below, 0), count)


def _extremes(weight: Weight) -> list[tuple[float, str]]:
    """The least and the largest target among a weight's copies, each with the copy's path."""
    ends = []
    for sign, most in ((1, max(weight.along)), (-1, min(weight.along))):
        target, indices = float(weight.target) / most[0], list(most[1])
        for n, level in enumerate(weight.levels):
            first = float(power(level.ratio, level.count - 1))
            if sign * first > sign:
                indices[n] = 0
                target /= first
        ends.append((target, instance(weight.path, tuple(indices))))
    return ends


def _carries(module: Module) -> bool:
    """Whether a part adds something to a member that it picks of a tuple."""
    composed = (part.steps for part in walk(module) if isinstance(part, Compose))
    return any(
        isinstance(before, Tuple)
        and isinstance(add, Leaf)
        and add.op.joins
        and any(isinstance(m, Leaf) and m.op.picks is not None for m in before.members)
        for steps in composed
        for before, add in pairwise(steps)
    )


def _is_skip(module: Module) -> bool:
    """Whether the module passes its input on, up to a constant factor."""
    match module:
        case Leaf(op=op):
            return op.is_identity or op.scalar is not None
        case Compose(steps=parts):
            return all(map(_is_skip, parts))
        case Around(body=body):
            return _is_skip(body)
        case Repeat() | Tuple() | Scan() | Hole():
            return False
