"""The expressions of a file that is being written."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TypeAlias

from modnorm.graph.renames import Recipe


@dataclass(frozen=True)
class Word:
    """An operation, or the name of something shared or of an input, as it is written.

    What its weights are made of does not count where two are compared.
    """

    text: str
    weights: tuple[Recipe, ...] = field(default=(), compare=False)
    buffers: tuple[tuple[str, Recipe], ...] = field(default=(), compare=False)
    shared: bool = False


@dataclass(frozen=True)
class Chain:
    """One after the other, the first first."""

    items: tuple[Expr, ...]


@dataclass(frozen=True)
class Both:
    """A sum ("+") or a product ("*") of members."""

    sign: str
    members: tuple[Expr, ...]


@dataclass(frozen=True)
class Several:
    """A tuple; with names, one of the model's outputs."""

    members: tuple[Expr, ...]
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Named:
    """A part of the model, by the name that it has there."""

    name: str
    body: Expr


@dataclass(frozen=True)
class Repeat:
    """Equal parts one after the other; `copies` are all of them, of which the first stands here."""

    part: Named
    count: int
    copies: tuple[Named, ...] = field(default=(), compare=False)


Expr: TypeAlias = Word | Chain | Both | Several | Named | Repeat
IDENTITY = Word("Identity")


def chain(*items: Expr) -> Expr:
    """Items one after the other, without what does nothing and chains in chains."""
    flat: list[Expr] = []
    for item in items:
        flat += item.items if isinstance(item, Chain) else [item]
    flat = [item for item in flat if item != IDENTITY]
    if not flat:
        return IDENTITY
    return flat[0] if len(flat) == 1 else Chain(tuple(flat))


def children(expr: Expr) -> tuple[Expr, ...]:
    """What stands in an expression, in order of execution; of a repetition all copies."""
    match expr:
        case Chain(items=items):
            return items
        case Both(members=members) | Several(members=members):
            return members
        case Named(body=body):
            return (body,)
        case Repeat(copies=copies):
            return copies
        case Word():
            return ()


def words(expr: Expr) -> Iterator[Word]:
    """The words of an expression in order of execution; those shared that a repetition first
    mentions before it, as the compiler has them."""
    if isinstance(expr, Word):
        yield expr
        return
    if isinstance(expr, Repeat):
        yield from (w for w in words(expr.part) if w.shared)
    for child in children(expr):
        yield from words(child)


def first_copy(expr: Expr) -> tuple[Expr, ...]:
    """What stands in an expression as it is written."""
    return (expr.part,) if isinstance(expr, Repeat) else children(expr)
