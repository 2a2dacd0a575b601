"""Equal neighbours of a `compose` over a range become one run, so that they stay one node."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from modnorm.graph.modules import (
    Assume,
    Compose,
    Hole,
    Leaf,
    Module,
    Repeat,
    Run,
    Scan,
    Scope,
    Shared,
    Tare,
    Tuple,
)


def equal_runs(bodies: Sequence[Module]) -> tuple[Run, ...]:
    """Neighbours that are the same module, wherever they were written, grouped."""
    numbers: dict[Hashable, int] = {}
    runs: list[Run] = []
    last: int | None = None
    for body in bodies:
        key = _number(body, numbers)
        if key == last:
            runs[-1] = Run(runs[-1].body, runs[-1].count + 1)
        else:
            runs.append(Run(body, 1))
        last = key
    return tuple(runs)


def _number(module: Module, numbers: dict[Hashable, int]) -> int:
    """The same number for equal modules: hash-consing from the leaves up."""

    def inner(m: Module) -> int:
        return _number(m, numbers)

    key: Hashable
    match module:
        case Leaf(op=op):
            key = ("op", op)
        case Hole():
            key = ("hole",)
        case Compose(steps=steps):
            key = ("compose", *map(inner, steps))
        case Tuple(members=members, names=names):
            key = ("tuple", names, *map(inner, members))
        case Repeat(runs=runs):
            key = ("repeat", *((inner(r.body), r.count) for r in runs))
        case Scope(name=name, body=body):
            key = ("scope", name, inner(body))
        case Shared(key=shared):
            key = ("shared", shared)
        case Tare(body=body, mass=mass):
            key = ("tare", inner(body), mass)
        case Scan(body=body, carry=carry):
            key = ("scan", inner(body), carry)
        case Assume(body=body, sensitivity=sensitivity):
            key = ("assume", inner(body), sensitivity)
    return numbers.setdefault(key, len(numbers))
