"""One fold of the module tree: what rules say of compositions, tuples and repetitions."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import Protocol, TypeVar

from modnorm.graph.modules import (
    Around,
    Assume,
    Compose,
    Hole,
    Leaf,
    Module,
    Repeat,
    Run,
    Scan,
    Tuple,
    takes_apart,
)

T = TypeVar("T")


class Algebra(Protocol[T]):
    """What is known of a part, from what is known of those in it."""

    @property
    def unit(self) -> T:
        """Of the identity."""
        ...

    def leaf(self, leaf: Leaf) -> T:
        """An operation."""
        ...

    def after(self, first: T, second: T) -> T:
        """`second @ first`."""
        ...

    def beside(self, parts: Sequence[T]) -> T:
        """A tuple."""
        ...

    def apart(self, parts: Sequence[T]) -> T:
        """A tuple of which each member reads another one of the tuple that comes in."""
        ...

    def repeat(self, part: T, run: Run) -> T:
        """The copies of a run, composed."""
        ...

    def scan(self, cell: T, scan: Scan) -> T:
        """A cell along a sequence."""

    def assumed(self, module: Assume, body: T) -> T:
        """A body whose sensitivity is assumed."""
        ...


def fold(module: Module, algebra: Algebra[T], values: dict[int, T]) -> T:
    """What an algebra says of a part; `values` gets that of every part in it, by id."""

    def inner(part: Module) -> T:
        return fold(part, algebra, values)

    value: T
    match module:
        case Leaf():
            value = algebra.leaf(module)
        case Compose(steps=steps):
            value = reduce(algebra.after, map(inner, steps), algebra.unit)
        case Tuple(members=members):
            join = algebra.apart if takes_apart(module) else algebra.beside
            value = join([*map(inner, members)])
        case Repeat(runs=runs):
            copies = (algebra.repeat(inner(run.body), run) for run in runs)
            value = reduce(algebra.after, copies, algebra.unit)
        case Scan(body=body):
            value = algebra.scan(inner(body), module)
        case Assume(body=body):
            value = algebra.assumed(module, inner(body))
        case Around(body=body):
            value = inner(body)
        case Hole():
            raise AssertionError("a hole got past the inference of shapes")
    values[module.id] = value
    return value
