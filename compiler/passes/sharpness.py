"""Sharpness (α, β, γ) of every part, where every operation in it has one."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from modnorm.diagnostics import Diagnostics
from modnorm.graph.modules import Assume, Leaf, Run, Scan
from modnorm.ops.base import LINEAR, Sharpness
from modnorm.passes.fold import fold
from modnorm.passes.program import Program
from modnorm.passes.streams import RunOf, branches


@dataclass(frozen=True)
class Second:
    """A module's mass, sensitivity and sharpness: what the rules of composition need."""

    mass: float
    mu: float
    sharp: Sharpness


IDENTITY = Second(0.0, 1.0, LINEAR)


def shrunk(module: Second, factor: float) -> Second:
    """A module behind a factor. Source: Large et al. 2024 (arXiv 2405.14813)."""
    alpha, beta, gamma = dataclasses.astuple(module.sharp)
    sharp = Sharpness(alpha, factor * beta, factor * factor * gamma)
    return Second(module.mass, factor * module.mu, sharp)


def after(first: Second, second: Second) -> Second:
    """`second @ first`. Source: Large et al. 2024 (arXiv 2405.14813).

    A part without mass moves nothing, so that what ignores its input may stand behind it.
    """
    mass = first.mass + second.mass
    p1, p2 = (first.mass / mass, second.mass / mass) if mass else (0.0, 0.0)
    m1, m2, a, b = first.mu, second.mu, first.sharp, second.sharp
    moved = p1 / m2 if p1 else 0.0  # by a change of the first
    return Second(
        mass,
        m1 * m2,
        Sharpness(
            p1 * moved * a.alpha
            + p2 * p2 * b.alpha
            + 2 * moved * p2 * b.beta
            + moved * moved * b.gamma,
            p1 * a.beta + m1 * p2 * b.beta + m1 * moved * b.gamma,
            m2 * a.gamma + m1 * m1 * b.gamma,
        ),
    )


def beside(parts: list[Second]) -> Second:
    """A tuple. Source: Large et al. 2024 (arXiv 2405.14813)."""
    mass = sum(p.mass for p in parts)
    shares = [p.mass / mass if mass else 0.0 for p in parts]
    pairs = list(zip(shares, parts, strict=True))
    return Second(
        mass,
        sum(p.mu for p in parts),
        Sharpness(
            sum(s * s * p.sharp.alpha for s, p in pairs),
            sum(s * p.sharp.beta for s, p in pairs),
            sum(p.sharp.gamma for p in parts),
        ),
    )


def apart(parts: list[Second]) -> Second:
    """A tuple whose members read different members of one: of what comes in, the largest counts."""
    whole = beside(parts)
    shares = [p.mass / whole.mass if whole.mass else 0.0 for p in parts]
    beta = max(s * p.sharp.beta for s, p in zip(shares, parts, strict=True))
    sharp = Sharpness(whole.sharp.alpha, beta, max(p.sharp.gamma for p in parts))
    return Second(whole.mass, max(p.mu for p in parts), sharp)


def repeated(part: Second, count: int) -> Second:
    """`count` copies composed, by squaring: composition is associative in all five numbers."""
    result, square = IDENTITY, part
    while count:
        if count & 1:
            result = after(result, square)
        count >>= 1
        if count:
            square = after(square, square)
    return result


def within(rule: Callable[..., Second], *parts: Any) -> Second | None:
    """What a rule gives, or None where a product leaves the range of floats."""
    try:
        return rule(*parts)
    except (OverflowError, ZeroDivisionError):
        return None


@dataclass(frozen=True)
class SharpnessPass:
    """Compose the declared second-order constants: bounds where the declared sensitivities are.

    None where an operation is not smooth, or a weight is used more than once.
    """

    name: ClassVar[str] = "sharpness"

    def run(self, program: Program, diagnostics: Diagnostics) -> Program:
        algebra = _Composed(program)
        fold(program.tree, algebra, algebra.found)
        found = {i: _finite(second) for i, second in algebra.found.items()}
        return replace(program, sharpness=found)

    def verify(self, program: Program) -> None:
        assert program.tree.id in program.sharpness


def _finite(second: Second | None) -> Sharpness | None:
    """The sharpness, if floats hold it."""
    known = second is not None and all(map(math.isfinite, dataclasses.astuple(second.sharp)))
    return second.sharp if second is not None and known else None


class _Composed:
    """The rules, where there may be no sharpness."""

    unit: Second | None = IDENTITY

    def __init__(self, program: Program) -> None:
        self.masses = program.leaf_masses
        self.streams = program.streams
        self.passing = program.passing
        self.found: dict[int, Second | None] = {}
        self.shared = {weight.path for weight in program.weights if weight.uses > 1}

    def leaf(self, leaf: Leaf) -> Second | None:
        # a shared weight moves all its uses at once, which no rule for trees covers
        if leaf.op.sharpness is None or leaf.weight in self.shared:
            return None
        if leaf.id in self.streams.inside:  # of a mean of terms, but it stands before a sum of them
            return None
        mass = float(self.masses.get(leaf.path, 0))
        second = Second(mass, float(leaf.op.sensitivity), leaf.op.sharpness)
        return shrunk(second, 1 / float(self.streams.size(leaf.id)))

    def after(self, first: Second | None, second: Second | None) -> Second | None:
        return None if first is None or second is None else within(after, first, second)

    def beside(self, parts: Sequence[Second | None]) -> Second | None:
        known = [part for part in parts if part is not None]
        return within(beside, known) if len(known) == len(parts) else None

    def apart(self, parts: Sequence[Second | None]) -> Second | None:
        known = [part for part in parts if part is not None]
        return within(apart, known) if len(known) == len(parts) else None

    def repeat(self, part: Second | None, run: Run) -> Second | None:
        if part is None:
            return None
        stream = self.streams.runs.get(run.body.id)
        return within(repeated, part, run.count) if stream is None else self.along(stream, run)

    def scan(self, cell: Second | None, scan: Scan) -> Second | None:
        return None  # the cell's weights move at every step at once

    def assumed(self, module: Assume, body: Second | None) -> Second | None:
        """Another sensitivity, and the same second derivatives."""
        return body and replace(body, mu=float(self.passing[module.id]))

    def along(self, stream: RunOf, run: Run) -> Second | None:
        """Copies in a residual stream: of sums whose branches read more and more terms."""
        sizes = self.streams.streams[stream.at.stream].sizes
        added: dict[int, Second | None] = {}
        for branch in branches(stream.items):
            at, _ = self.streams.sums[branch.key]
            known = [one for m in branch.members if (one := self.found[m]) is not None]
            # of a stream of one term
            whole = within(beside, known) if len(known) == len(branch.members) else None
            added[branch.key] = whole and within(shrunk, whole, float(sizes[at.last - 1]))
        total: Second | None = IDENTITY
        copies = (branch for _ in range(run.count) for branch in branches(stream.items))
        for branch, size in zip(copies, sizes[stream.at.last :], strict=False):
            one = added[branch.key]
            own = one and within(beside, [IDENTITY, shrunk(one, 1 / float(size))])
            total = total and own and within(after, total, own)
        return total
