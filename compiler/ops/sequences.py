"""Sequences, (batch, seq, …): what is known of one place of them, and of all from that of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from modnorm.ops.base import Misfit
from modnorm.ops.edges import Bound, Edge, Measure, tracked
from modnorm.ops.types import Role, Size, Tensor, TupleType, Type


def place(type: Tensor) -> Tensor:
    """One place of a sequence: axis 1 is gone."""
    (first, _, *shape), (role, _, *roles) = type.shape, _roles(type, 2)
    return replace(type, shape=(first, *shape), roles=(role, *roles))


def _roles(type: Tensor, least: int = 1) -> list[Role]:
    """The roles of a value's axes, with that of the channels where nothing says it."""
    roles, at = list(type.roles), type.channels
    if type.dtype == "float" and at > 0:
        roles[at if at >= least else -1] = "channel"
    return roles


def sequence(type: Tensor, length: Size) -> Tensor:
    """Values of a type at every place of a sequence."""
    (first, *rest), (role, *roles) = type.shape, _roles(type)
    found: tuple[Role, ...] = (role, "other", *roles)
    return replace(type, shape=(first, length, *rest), roles=found)


def lifted(measure: Measure) -> Measure:
    """The largest, over the places of a sequence, of what a measure says of one place."""
    axes = tuple(axis + 1 if axis > 0 else axis for axis in measure.axes)
    return Measure(axes, measure.total)


def at_any(edge: Edge) -> Edge:
    """What is known of every place of a sequence."""
    type = place(edge.type)
    known = ((m, lifted(m)) for m in tracked(type))
    return Edge(type, {m: Bound(edge.low(n), edge.high(n)) for m, n in known}).completed()


def at_all(edge: Edge, length: Size) -> Edge:
    """What is known of a sequence, from what is known of every place of it."""
    bounds = {lifted(m): bound for m, bound in edge.bounds.items()}
    return Edge(sequence(edge.type, length), bounds).completed()


def entries(x: Type) -> tuple[Tensor, ...]:
    """The sequences that a scan goes along: one, or the members of a tuple; of any length alike.

    Raises:
        Misfit: where they are none.
    """
    found = x.members if isinstance(x, TupleType) else (x,)
    hint = "a sequence is declared as `input x: float[batch, seq, 16]`"
    for one in found:
        if isinstance(one, TupleType):
            raise Misfit(
                f"`Scan` goes along the members of a tuple, but one of them is a tuple itself:"
                f" {one}",
                hint="brackets inside brackets make a tuple in the tuple: write one for all",
                code="E402",
            )
        least = 3 if one.dtype == "float" else 2
        if len(one.shape) < least:
            raise Misfit(
                f"`Scan` takes sequences (batch, seq, …), but its input is {x}",
                hint=hint
                if len(one.shape) < 2 or one.dtype != "float"
                else f"{hint}; an axis of one number at every place is made by `Unsqueeze(-1)`",
                code="E402",
            )
        behind("Scan(cell)", one)
    tensors = tuple(one for one in found if isinstance(one, Tensor))
    if not any(one.dtype == "float" for one in tensors):
        raise Misfit(
            f"`Scan` takes real numbers, but its input is {x}",
            hint="turn integers into vectors before it: `Scan(cell) @ Embed(count, dim)`",
            code="E402",
        )
    if len({one.shape[:2] for one in tensors}) > 1:
        raise Misfit(
            f"`Scan` goes along sequences of one length, but its input is {x}",
            hint="bring them to as many places along axis 1",
        )
    return tensors


def behind(op: str, x: Tensor) -> None:
    """Raise a Misfit where axis 1 has a value's channels, and no places of a sequence."""
    if x.axis("channel") == 1:
        raise Misfit(
            f"`{op}` works along axis 1, but in its input {x} that has the channels",
            hint=f"put them last before it: `{op} @ Transpose(1, 2)`",
            code="E402",
        )


def states(state: Type, x: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """The values that a cell keeps of sequences: one, or the members of a tuple.

    Raises:
        Misfit: where they are not what a state can be.
    """
    found = state.members if isinstance(state, TupleType) else (state,)
    for one in found:
        if isinstance(one, TupleType) or one.dtype != "float":
            raise Misfit(
                "the state of a `Scan` is a value of real numbers, or a tuple of such, but its cell"
                f" gives {state}",
                hint="what the cell gives is its state at the next place",
                code="E402",
            )
        if len(one.shape) < 2 or one.shape[0] != x[0].shape[0]:
            raise Misfit(
                f"a `Scan` keeps a state for each example, but its cell gives {one}",
                hint=f"its first axis is to be that of the input, `{x[0].shape[0]}`",
                code="E402",
            )
    return tuple(one for one in found if isinstance(one, Tensor))


class Start(NamedTuple):
    """The zeros that a scan begins with, in a tuple or not.

    A size is a number, or that of one of the sequences, by its place among them and an axis.
    """

    sizes: tuple[tuple[int | tuple[int, int], ...], ...] = ()
    several: bool = False


def start(state: Type, kept: Sequence[Tensor], x: Sequence[Tensor]) -> Start:
    """The zeros for a state of some values, along some sequences.

    Raises:
        Misfit: where a size is known only when the model runs, and is none of the sequences'.
    """
    places = [(i, at) for i, one in enumerate(x) for at in range(len(one.shape))]
    axes = {x[i].shape[at]: (i, at) for i, at in reversed(places)}

    def of(one: Tensor, size: Size) -> int | tuple[int, int]:
        if isinstance(size, int):
            return size
        if size in axes:
            return axes[size]
        raise Misfit(
            f"the state of a `Scan` begins at 0, but of {one} the size `{size}` is none of its"
            " input's",
            hint="give the size a number in the `input` declaration",
            code="E402",
        )

    sizes = tuple(tuple(of(one, size) for size in one.shape) for one in kept)
    return Start(sizes, isinstance(state, TupleType))
