"""Sharpness (α, β, γ) of every part, where every operation in it has one."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

from modnorm.diagnostics import Diagnostics
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
from modnorm.ops.base import LINEAR, Sharpness
from modnorm.passes.program import Program


@dataclass(frozen=True)
class Second:
    """A module's mass, sensitivity and sharpness: what the rules of composition need."""

    mass: float
    mu: float
    sharp: Sharpness


IDENTITY = Second(0.0, 1.0, LINEAR)


def after(first: Second, second: Second) -> Second:
    """`second @ first`. Source: Large et al. 2024, Proposition 5; MATH A.1."""
    mass = first.mass + second.mass
    p1, p2 = (first.mass / mass, second.mass / mass) if mass else (0.0, 0.0)
    m1, m2, a, b = first.mu, second.mu, first.sharp, second.sharp
    return Second(
        mass,
        m1 * m2,
        Sharpness(
            p1 * p1 * a.alpha / m2
            + p2 * p2 * b.alpha
            + 2 * p1 * p2 * b.beta / m2
            + p1 * p1 * b.gamma / (m2 * m2),
            p1 * a.beta + m1 * p2 * b.beta + m1 / m2 * p1 * b.gamma,
            m2 * a.gamma + m1 * m1 * b.gamma,
        ),
    )


def beside(parts: list[Second]) -> Second:
    """A tuple. Source: Large et al. 2024, Proposition 6; MATH A.1."""
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


@dataclass(frozen=True)
class SharpnessPass:
    """Compose the declared second-order bounds; None where an operation is not smooth."""

    name: ClassVar[str] = "sharpness"

    def run(self, program: Program, diagnostics: Diagnostics) -> Program:
        values: dict[int, Sharpness | None] = {}
        self.of(program.tree, program, values)
        return replace(program, sharpness=values)

    def of(
        self, module: Module, program: Program, values: dict[int, Sharpness | None]
    ) -> Second | None:
        second = self.inner(module, program, values)
        finite = second is not None and all(
            map(math.isfinite, (second.sharp.alpha, second.sharp.beta, second.sharp.gamma))
        )
        values[module.id] = second.sharp if second is not None and finite else None
        return second

    def inner(
        self, module: Module, program: Program, values: dict[int, Sharpness | None]
    ) -> Second | None:
        match module:
            case Leaf(op=op):
                if op.sharpness is None:
                    return None
                # a shared leaf's own mass is in leaf_masses; MATH B.4 treats its uses as copies
                mass = float(program.leaf_masses.get(module.path, 0))
                return Second(mass, float(op.sensitivity), op.sharpness)
            case Compose(steps=parts):
                total: Second | None = IDENTITY
                for part in parts:
                    inner = self.of(part, program, values)
                    total = None if total is None or inner is None else after(total, inner)
                return total
            case Tuple(members=parts):
                inners = [self.of(part, program, values) for part in parts]
                known = [i for i in inners if i is not None]
                return beside(known) if len(known) == len(inners) else None
            case Repeat(runs=runs):
                total = IDENTITY
                for run in runs:
                    inner = self.of(run.body, program, values)
                    if total is not None and inner is not None:
                        total = after(total, repeated(inner, run.count))
                    else:
                        total = None
                return total
            case Scope(body=body) | Shared(body=body) | Tare(body=body):
                return self.of(body, program, values)
            case Hole():
                raise AssertionError("a hole got past the inference of shapes")

    def verify(self, program: Program) -> None:
        assert program.tree.id in program.sharpness
