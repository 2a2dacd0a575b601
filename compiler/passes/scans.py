"""The state of a scan: of which type it is follows from what its cell gives for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple, TypeAlias

from modnorm.graph.modules import Around, Compose, Module, Repeat, Tuple
from modnorm.ops.sequences import place
from modnorm.ops.types import Tensor, TupleType, Type

ROUNDS = 8
"""How often a cell is given what it gave, at most, to see what its state is."""
RANKS = (2, 3, 4, 5)
"""Numbers of axes that a state may have, beside that of what enters."""
FREE = 3
"""A size that no cell is likely to ask for."""

Trial: TypeAlias = Callable[[Type], tuple[Type | None, bool]]
"""What a cell gives for a state, where that is known, and whether nothing was wrong."""


class Found(NamedTuple):
    """A state; or, where `settled` is not, what to say it of: `gives` is what the cell makes of it.

    `free`: the cell takes and gives a state of any size. Not `good`: something in it is wrong.
    """

    state: Type
    gives: Type | None
    settled: bool
    free: bool = False
    good: bool = True


def find_state(cell: Module, x: Sequence[Tensor], trial: Trial) -> Found:
    """The state of a cell along some sequences.

    A first guess is given to the cell, then what it gives, until that is the same. The guess is a
    single number for each example, since that stretches to whatever it is joined with.
    """
    best: Found | None = None
    longest = 0
    for guess in _guesses(cell, x):
        found, rounds = _settle(guess, trial)
        if found.settled and found.good:
            other = _loose(found.state, guess)
            if other == found.state:
                return found
            again, _ = _settle(other, trial)
            return found._replace(free=again.settled and same(again.state, other))
        if best is None or rounds > longest:
            best, longest = found, rounds
    assert best is not None
    return best


def _settle(state: Type, trial: Trial) -> tuple[Found, int]:
    """What becomes of a guess, and after how many rounds."""
    seen: list[Type] = []
    for number in range(ROUNDS):
        gives, good = trial(state)
        if gives is None:
            return Found(state, None, False), number
        if good and gives == state:
            return Found(state, gives, True), number
        if good and gives in seen and same(gives, state):  # but for what its axes mean
            return Found(forgotten(state), gives, True), number
        if not good and same(gives, state):
            return Found(state, gives, True, good=False), number
        seen.append(state)
        state, before = gives, state
    return Found(before, state, False), ROUNDS


def _guesses(cell: Module, x: Sequence[Tensor]) -> Iterator[Type]:
    entry = place(next(one for one in x if one.dtype == "float"))
    yield _sized(_like(cell, entry), 1)
    yield _like(cell, entry)
    for rank in RANKS:
        if rank != len(entry.shape):
            yield _like(cell, Tensor("float", (entry.shape[0], *(1,) * (rank - 1))))


def _like(cell: Module, one: Tensor) -> Type:
    """A value of as many members as the cell gives, each of one type."""
    match cell:
        case Tuple(members=members, names=names):
            return TupleType(tuple(_like(member, one) for member in members), names)
        case Repeat(runs=runs):
            return _like(runs[-1].body, one)
        case Compose(steps=(*_, last)):
            return _like(last, one)
        case Around(body=body):
            return _like(body, one)
        case _:
            return one


def _sized(type: Type, size: int) -> Type:
    """The type with one size for all axes but the first."""
    if isinstance(type, TupleType):
        return type.of(_sized(member, size) for member in type.members)
    return replace(type, shape=(type.shape[0], *(size for _ in type.shape[1:])))


def _loose(state: Type, guess: Type) -> Type:
    """The state with another size where nothing has changed the single number of a guess."""
    if isinstance(state, TupleType):
        if not isinstance(guess, TupleType) or len(guess.members) != len(state.members):
            return state
        return state.of(map(_loose, state.members, guess.members))
    return _sized(state, FREE) if same(state, guess) and 1 in state.shape[1:] else state


def same(a: Type, b: Type) -> bool:
    """Whether two types are one but for what is known of the entries and the axes."""
    return _bare(a) == _bare(b)


def _bare(type: Type) -> object:
    """A type's dtype and shape, of a tuple those of its members."""
    if isinstance(type, TupleType):
        return tuple(map(_bare, type.members))
    return type.dtype, type.shape


def forgotten(type: Type) -> Type:
    """The type with nothing known of its axes."""
    if isinstance(type, TupleType):
        return type.of(map(forgotten, type.members))
    return replace(type, roles=())
