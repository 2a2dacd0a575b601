"""A plain reading of a model, to hold the compiler against: nothing is rewritten, nothing counted.

A model is a tree of seven kinds of nodes with every copy written out; the cell of a scan stands
once. Its targets are the recursion of Large et al. 2024 (arXiv 2405.14813): mass fractions and
downstream sensitivities handed down from the root. A weight used several times, as that of a cell
is at every step, has the sum of its uses' sensitivities.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, TypeAlias

from modnorm.graph import modules
from modnorm.ops.base import Atom
from modnorm.ops.experts import Member
from modnorm.ops.joins import Select
from modnorm.ops.types import Real


@dataclass(frozen=True, eq=False)
class Leaf:
    """An operation. `key` names the weight that it has or reads."""

    op: Any
    key: Hashable = None


@dataclass(frozen=True, eq=False)
class Chain:
    """Modules one after the other."""

    parts: tuple[Plain, ...]


@dataclass(frozen=True, eq=False)
class Beside:
    """Modules on the same input; `names` are those of the members, if they have any."""

    parts: tuple[Plain, ...]
    names: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Tared:
    """A module with its masses rescaled to sum to `mass`."""

    part: Plain
    mass: Real


@dataclass(frozen=True, eq=False)
class Mention:
    """A mention of the shared module `name`."""

    name: str
    part: Plain


@dataclass(frozen=True, eq=False)
class Scanned:
    """A cell along axis 1; `count` is how many steps there are, where that is known.

    `state` is what the cell keeps, once types are known.
    """

    cell: Plain
    carry: Real | None = None
    count: int | None = None
    state: Any = None


@dataclass(frozen=True, eq=False)
class Assumed:
    """A module that is said to have a sensitivity."""

    part: Plain
    sensitivity: Real


Plain: TypeAlias = Leaf | Chain | Beside | Tared | Mention | Scanned | Assumed


def inside(node: Plain) -> tuple[Plain, ...]:
    match node:
        case Leaf():
            return ()
        case Chain(parts=parts) | Beside(parts=parts):
            return parts
        case Tared(part=part) | Mention(part=part) | Assumed(part=part) | Scanned(cell=part):
            return (part,)


def leaves(node: Plain) -> Iterator[Leaf]:
    """Every use of an operation, in execution order."""
    if isinstance(node, Leaf):
        yield node
    for part in inside(node):
        yield from leaves(part)


def is_atom(leaf: Leaf) -> bool:
    return isinstance(leaf.op, Atom)


# -- from the compiler's module tree -----------------------------------------------------------


def unroll(tree: modules.Module, indices: tuple[int, ...] = ()) -> Plain:
    """A placed module tree with every repetition written out; weights are named by their paths."""
    match tree:
        case modules.Leaf(op=op, weight=weight):
            return Leaf(op, None if weight is None else named(weight, indices))
        case modules.Compose(steps=steps):
            return Chain(tuple(unroll(step, indices) for step in steps))
        case modules.Tuple(members=members, names=names):
            return Beside(tuple(unroll(member, indices) for member in members), names)
        case modules.Repeat(runs=runs):
            bodies = [run.body for run in runs for _ in range(run.count)]
            return Chain(tuple(unroll(b, (*indices, i)) for i, b in enumerate(bodies)))
        case modules.Tare(body=body, mass=mass):
            return Tared(unroll(body, indices), mass)
        case modules.Scope(body=body):
            return unroll(body, indices)
        case modules.Scan(body=body, carry=carry):
            return Scanned(unroll(body, indices), carry)
        case modules.Assume(body=body, sensitivity=assumed):
            return Assumed(unroll(body, indices), assumed)
        case modules.Shared(key=key, body=body):
            return Mention(key, unroll(body))  # its path begins at the root again


def named(template: str, indices: tuple[int, ...]) -> str:
    """A path with its placeholders replaced; a shared weight read in a repetition has none."""
    copies = iter(indices)
    return re.sub(r"\{\d+\}", lambda _: str(next(copies)), template) + ".weight"


# -- masses, sensitivities, targets ------------------------------------------------------------


class Mistake(Exception):
    """A program that the compiler has to refuse; `code` is the diagnostic's."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


@dataclass
class Target:
    """What the recursion says about one weight."""

    key: Hashable
    op: Atom
    mass: Real
    downstream: Real = 0
    target: Real = 0


def sensitivity(node: Plain) -> Real:
    """Products along compositions, sums over tuples."""
    match node:
        case Leaf(op=op):
            return op.sensitivity  # type: ignore[no-any-return]
        case Chain(parts=parts):
            result: Real = 1
            for part in parts:
                result *= sensitivity(part)
            return result
        case Beside(parts=parts):
            # members of a tuple that are read apart: its norm is the sum of theirs
            firsts = [next(leaves(part), None) for part in parts]
            apart = firsts and all(leaf and isinstance(leaf.op, Member) for leaf in firsts)
            join = max if apart else sum
            return join(map(sensitivity, parts))
        case Tared(part=part) | Mention(part=part):
            return sensitivity(part)
        case Assumed():
            return sensitivity(node.part) * rescaled(node)
        case Scanned():
            return largest(node.cell, 1) * steps(node)


def in_inputs(node: Plain) -> Real:
    """The sensitivity in the inputs that are mentioned by name."""
    match node:
        case Leaf(op=op):
            return 0 if getattr(op, "gives", None) is None else 1
        case Chain(parts=parts):
            result: Real = 0
            for part in parts:
                result = result * sensitivity(part) + in_inputs(part)
            return result
        case Beside(parts=parts):
            return sum(map(in_inputs, parts))
        case Tared(part=part) | Mention(part=part):
            return in_inputs(part)
        case Assumed():
            return in_inputs(node.part) * rescaled(node)
        case Scanned():
            return in_inputs(node.cell) * steps(node)


def rescaled(node: Assumed) -> Real:
    """What is assumed, by what follows from the parts."""
    total = sensitivity(node.part) + in_inputs(node.part)
    if total == 0:
        raise Mistake("E501")
    return (
        node.sensitivity / total
        if isinstance(total, float)
        else node.sensitivity * Fraction(1) / total
    )


def steps(scan: Scanned) -> Real:
    """How many times one step counts what enters at every one: 1 + μ + μ² + …"""
    state = largest(scan.cell, 0) if scan.carry is None else scan.carry
    if scan.count is not None:
        return sum(state**k for k in range(scan.count))
    if state >= 1:
        raise Mistake("E501")
    return 1 / (1 - state)


def largest(cell: Plain, member: int) -> Real:
    """The sensitivity of a cell in its state, 0, or its entry, 1: in the largest tensor of it."""
    return max(in_member((cell,), (member, tensor)) for tensor in range(4))


def in_member(parts: tuple[Plain, ...], at: tuple[int, ...]) -> Real:
    """How far the last of some modules moves with one member of what comes to the first."""
    first, *rest = parts
    match first:
        case Chain(parts=inner):
            return in_member((*inner, *rest), at)
        case Tared(part=part) | Mention(part=part):
            return in_member((part, *rest), at)
        case Leaf(op=Select(picks=picks)):
            if picks != at[0]:
                return 0
            return in_member(tuple(rest), at[1:]) if rest else 1
        case Beside(parts=members):
            reach = sum(in_member((member,), at) for member in members)
        case _:
            reach = sensitivity(first)
    return reach * sensitivity(Chain(tuple(rest)))


class Masses:
    """Masses of a plain tree, by identity of its nodes.

    A shared body counts once: it is a child of the deepest node that holds all of its mentions.
    """

    def __init__(self, root: Plain) -> None:
        self.root = root
        self.bodies: dict[str, Plain] = {}
        self.above: dict[str, set[str]] = {}
        self.collect(root, None)
        self.extra: dict[int, list[Plain]] = {}
        for name in self.outermost_first():
            paths = [way for way in self.ways(root, ()) if self.mentions(way[-1], name)]
            common = [node for node in paths[0] if all(node in way for way in paths)]
            self.extra.setdefault(id(common[-1]), []).append(self.bodies[name])
        self.total: dict[int, Real] = {}
        self.leaf: dict[Hashable, Real] = {}
        self.mass = self.sum(root)
        self.hand_down(root, 1)

    def collect(self, node: Plain, within: str | None) -> None:
        """The shared modules, and for each the shared modules whose bodies mention it."""
        if isinstance(node, Mention):
            self.above.setdefault(node.name, set())
            if within is not None:
                self.above[node.name].add(within)
            if node.name in self.bodies:
                return
            self.bodies[node.name] = node.part
            within = node.name
        for part in inside(node):
            self.collect(part, within)

    def outermost_first(self) -> list[str]:
        order: list[str] = []
        while len(order) < len(self.bodies):
            order += [n for n in self.bodies if n not in order and self.above[n] <= set(order)]
        return order

    def parts(self, node: Plain) -> tuple[Plain, ...]:
        own = () if isinstance(node, Mention) else inside(node)
        return (*own, *self.extra.get(id(node), ()))

    def ways(self, node: Plain, above: tuple[Plain, ...]) -> Iterator[tuple[Plain, ...]]:
        """The way from the root to every node."""
        yield (*above, node)
        for part in self.parts(node):
            yield from self.ways(part, (*above, node))

    @staticmethod
    def mentions(node: Plain, name: str) -> bool:
        return isinstance(node, Mention) and node.name == name

    def sum(self, node: Plain) -> Real:
        mass: Real = node.op.mass if isinstance(node, Leaf) and is_atom(node) else 0
        mass += sum(map(self.sum, self.parts(node)))
        if isinstance(node, Tared):
            mass = self.tared(node, mass)
        self.total[id(node)] = mass
        return mass

    def tared(self, node: Tared, inner: Real) -> Real:
        if inner == 0 and node.mass != 0:
            raise Mistake("E307")
        return inner and node.mass

    def hand_down(self, node: Plain, factor: Real) -> None:
        if isinstance(node, Leaf) and is_atom(node):
            self.leaf[node.key] = node.op.mass * factor
        inner = factor
        if isinstance(node, Tared):
            before = sum(self.total[id(part)] for part in self.parts(node))
            if before:
                inner = factor * node.mass / before
        for part in self.parts(node):
            self.hand_down(part, inner)


def targets(root: Plain) -> tuple[Real, list[Target]]:
    """The whole mass, and every weight in the order in which atoms are first used.

    Raises:
        Mistake: where a tare, or the whole model, has no mass, where a weight is only read, or
            nothing depends on it.
    """
    atoms = [leaf for leaf in leaves(root) if is_atom(leaf)]
    if {leaf.key for leaf in leaves(root)} - {leaf.key for leaf in atoms} - {None}:
        raise Mistake("E308")
    masses = Masses(root)
    if atoms and masses.mass == 0:
        raise Mistake("E307")
    found: dict[Hashable, Target] = {}
    for leaf in atoms:
        found.setdefault(leaf.key, Target(leaf.key, leaf.op, masses.leaf[leaf.key]))

    def hand_down(node: Plain, downstream: Real) -> None:
        match node:
            case Leaf(key=key) if key is not None:
                found[key].downstream += downstream
            case Leaf():
                pass
            case Chain(parts=parts):
                for part in reversed(parts):
                    hand_down(part, downstream)
                    downstream *= sensitivity(part)
            case Beside(parts=parts):
                for part in parts:
                    hand_down(part, downstream)
            case Tared(part=part) | Mention(part=part) | Assumed(part=part):
                hand_down(part, downstream)
            case Scanned(cell=cell):
                hand_down(cell, downstream * steps(node))

    hand_down(root, 1)
    if any(target.downstream == 0 for target in found.values()):
        raise Mistake("E306")
    for target in found.values():
        target.target = target.mass / masses.mass / target.downstream
    return masses.mass, list(found.values())
