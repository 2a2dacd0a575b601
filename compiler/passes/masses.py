"""Masses: what every weight declares, rescaled by every `tare` around it, and sums of them.

A shared weight counts once, in the smallest part of the tree that holds all its mentions; a `tare`
inside that part, around only some of them, does not rescale it.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import ClassVar

from modnorm.diagnostics import Diagnostic, Diagnostics
from modnorm.graph.modules import (
    Leaf,
    Module,
    Repeat,
    Shared,
    Tare,
    children,
    counted,
)
from modnorm.graph.numbers import fits_float, show
from modnorm.ops.base import Atom
from modnorm.ops.types import Real
from modnorm.passes.program import Program, Tared
from modnorm.passes.sensitivity import divide, plus, times

EXACT_BITS = 16_384
"""Exact masses longer than this continue as floats."""


def add(a: Real, b: Real) -> Real:
    return plus(a, b, EXACT_BITS)


def scaled(a: Real, b: Real) -> Real:
    return times(a, b, EXACT_BITS)


class _Masses:
    def __init__(self, tree: Module, diagnostics: Diagnostics) -> None:
        self.diagnostics = diagnostics
        self.mass: dict[int, Real] = {}
        self.bodies: dict[str, Shared] = {}
        self.total = Counter[str]()
        self.completes: dict[int, list[str]] = {}
        self.leaf: dict[str, Real] = {}
        self.tares: dict[str, tuple[Tared, ...]] = {}
        self.count_mentions(tree)
        self.sum(tree)
        self.scale(tree, 1, ())

    def count_mentions(self, module: Module) -> None:
        """How often every shared module is mentioned; a shared body is counted once.

        The body counted is that of the first mention outside repetitions, if there is one.
        """
        stack: list[tuple[Module, int]] = [(module, 1)]
        repeated: list[tuple[Module, int]] = []
        while stack or repeated:
            if not stack:
                stack, repeated = repeated[::-1], []
            node, copies = stack.pop()
            match node:
                case Shared():
                    self.total[node.key] += copies
                    if node.key not in self.bodies:
                        self.bodies[node.key] = node
                        stack.append((node.body, 1))
                case _:
                    inside = [(part, copies * count) for part, count in counted(node)]
                    if isinstance(node, Repeat):
                        repeated.extend(inside)
                    else:
                        stack.extend(reversed(inside))

    def sum(self, module: Module) -> Counter[str]:
        """Fill in the mass of every part; return the shared modules mentioned, not all inside."""
        mentioned = Counter[str]()
        mass: Real = 0
        match module:
            case Leaf(op=op):
                mass = op.mass if isinstance(op, Atom) else 0
            case Tare(body=body):
                mentioned = self.sum(body)
                mass = self.mass[body.id]
                if mass == 0 and module.mass != 0:
                    self.no_mass(module)
                elif mass != 0:
                    mass = module.mass
            case Shared(key=key):
                mentioned[key] = 1
            case _:
                for part, count in counted(module):
                    inner = self.sum(part)
                    mentioned += Counter({key: n * count for key, n in inner.items()})
                    mass = add(mass, scaled(self.mass[part.id], count))
        self.mass[module.id] = mass
        return self.complete(module, mentioned)

    def complete(self, module: Module, mentioned: Counter[str]) -> Counter[str]:
        """Add the shared modules whose mentions are all inside this part to its mass."""
        while True:
            done = [key for key, n in mentioned.items() if n == self.total[key]]
            if not done:
                return mentioned
            for key in done:
                del mentioned[key]
                body = self.bodies[key].body
                mentioned += self.sum(body)
                self.mass[module.id] = add(self.mass[module.id], self.mass[body.id])
                self.completes.setdefault(module.id, []).append(key)

    def no_mass(self, module: Tare) -> None:
        self.diagnostics.add(
            Diagnostic(
                "E307",
                f"`tare` cannot bring a module without mass to mass {show(module.mass)}",
                module.span,
                hint="every mass in it is 0, or belongs to a shared module mentioned elsewhere too",
            )
        )

    def scale(self, module: Module, factor: Real, tares: tuple[Tared, ...]) -> None:
        """Hand every enclosing tare's factor down to the weights."""
        for key in self.completes.get(module.id, ()):
            self.scale(self.bodies[key].body, factor, tares)
        if factor != 1:
            self.mass[module.id] = scaled(self.mass[module.id], factor)
        match module:
            case Leaf(op=op):
                if isinstance(op, Atom):
                    self.leaf[module.path] = self.mass[module.id]
                    self.tares[module.path] = tares
            case Tare(body=body):
                inner = self.mass[body.id]
                if inner != 0:
                    own = Tared(module, inner, divide(module.mass, inner))
                    factor, tares = scaled(own.factor, factor), (*tares, own)
                self.scale(body, factor, tares)
            case Shared():
                pass
            case _:
                for part in children(module):
                    self.scale(part, factor, tares)


@dataclass(frozen=True)
class Masses:
    """Sum and rescale masses.

    Source: Large et al. 2024 (arXiv 2405.14813); docs/mathematics.md for sharing.
    """

    name: ClassVar[str] = "masses"

    def run(self, program: Program, diagnostics: Diagnostics) -> Program:
        masses = _Masses(program.tree, diagnostics)
        mass, leaves = dict(masses.mass), dict(masses.leaf)
        for key, body in masses.bodies.items():
            assert key in masses.total, body
        if not fits_float(mass[program.tree.id]):
            diagnostics.add(
                Diagnostic(
                    "E307",
                    f"the masses of `{program.name}` sum to {show(mass[program.tree.id])},"
                    " which no float can hold",
                    program.span,
                    hint="only the masses' ratios matter: make all of them smaller",
                )
            )
        if not diagnostics.errors and mass[program.tree.id] == 0 and leaves:
            diagnostics.add(
                Diagnostic(
                    "E307",
                    f"the whole model `{program.name}` has mass 0: nothing would learn",
                    program.span,
                    hint="give at least one atom a positive mass",
                )
            )
        return replace(program, masses=mass, leaf_masses=leaves, tares=masses.tares)

    def verify(self, program: Program) -> None:
        total: Real = 0
        seen: set[str] = set()
        for path, copies in _copies(program.tree):
            if path not in seen:
                seen.add(path)
                total += program.leaf_masses[path] * copies
        expected = float(program.mass)
        assert abs(float(total) - expected) <= 1e-9 * max(1.0, expected), (total, expected)


def _copies(tree: Module) -> list[tuple[str, int]]:
    """Every atom's path with its number of copies; a shared one is not multiplied outside."""
    found: list[tuple[str, int]] = []
    stack: list[tuple[Module, int]] = [(tree, 1)]
    while stack:
        node, copies = stack.pop()
        match node:
            case Leaf(op=op):
                if isinstance(op, Atom):
                    found.append((node.path, copies))
            case Shared(body=body):
                stack.append((body, 1))
            case _:
                stack.extend((part, copies * count) for part, count in counted(node))
    return found
