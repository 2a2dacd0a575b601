"""Shape rules that several operations share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from modnorm.ops.base import Advice, Misfit, Op, amount, expect_tensor
from modnorm.ops.types import (
    Role,
    Size,
    Symbol,
    Tensor,
    TupleType,
    Type,
    axis_index,
    product,
    quotient,
    vectors,
)

Axes = int | tuple[int, ...]


def members(op: str, x: Type, joins: str) -> tuple[Tensor, ...]:
    """The members of a tuple of float tensors, or a Misfit; `joins` says what the tuple is for."""
    if not isinstance(x, TupleType):
        raise Misfit(
            f"`{op}` takes a tuple {joins}, but its input is one value {x}",
            hint=f"give it several modules: `{op} @ (a, b)`",
            code="E402",
        )
    for member in x.members:
        if isinstance(member, TupleType):
            raise Misfit(
                f"`{op}` takes a tuple {joins}, but a member of it is itself a tuple: {member}",
                hint="brackets inside brackets make a tuple in the tuple: join its members first,"
                " or pick one with `Select(i)`; a mixture of experts is `Experts(f, count)`",
                code="E402",
            )
    return tuple(expect_tensor(op, member) for member in x.members)


def each(op: str, x: Type, rule: Callable[[Tensor], Tensor]) -> Type:
    """A rule for one float value applied to it, or to each member of a tuple."""
    if isinstance(x, TupleType):
        return x.of(each(op, member, rule) for member in x.members)
    return rule(expect_tensor(op, x))


def map_each(function: Callable[[Any], Any], x: Any) -> Any:
    """A function applied to a value, or to each member of a tuple, also of expressions."""
    return tuple(map_each(function, m) for m in x) if isinstance(x, tuple) else function(x)


def is_routed(x: Type) -> bool:
    """Whether it is a tuple (vectors, sizes): so many vectors for each expert."""
    if not isinstance(x, TupleType) or len(x.members) != 2:
        return False
    vectors, sizes = x.members
    floats = isinstance(vectors, Tensor) and vectors.dtype == "float" and len(vectors.shape) == 2
    ints = isinstance(sizes, Tensor) and sizes.dtype == "int" and len(sizes.shape) == 1
    return floats and ints


def of_experts(op: Op, x: Type, count: int) -> Tensor:
    """The input as (…, experts, vector), for an operation with something for each expert.

    Or the vectors of a tuple (vectors, sizes), one expert's after the other's.
    """
    if is_routed(x):
        assert isinstance(x, TupleType)
        return expect_tensor(op.label, x.members[0], rank=2)
    x = expect_tensor(op.label, x, rank=2)
    if x.shape[-2] != count:
        raise Misfit(
            f"`{op.label}` takes a vector for each of {amount(count, 'expert')}, but its input is"
            f" {x}",
            code="E402",
        )
    return x


def broadcast(op: str, tensors: Sequence[Tensor]) -> tuple[Size, ...]:
    """The common shape, by the rule of numpy and torch: axes are aligned at the end, 1 stretches.

    Raises:
        Misfit: where two sizes clash, with both.
    """
    shape: list[Size] = []
    for axis in range(1, max((len(t.shape) for t in tensors), default=0) + 1):
        size: Size = 1
        chosen: Tensor | None = None
        for tensor in tensors:
            other = tensor.shape[-axis] if axis <= len(tensor.shape) else 1
            if other == 1 or other == size:
                continue
            if size != 1:
                assert chosen is not None
                raise Misfit(
                    f"`{op}` cannot join {chosen} and {tensor}:"
                    f" their sizes {size} and {other} clash",
                    hint=_mend_ranks(chosen, tensor) or _mend_clash(size, other),
                )
            size, chosen = other, tensor
        shape.append(size)
    whole = tuple(reversed(shape))
    longest = max(tensors, key=lambda t: len(t.shape), default=None)
    for tensor in tensors:
        if longest is None or not 0 < len(tensor.shape) < len(whole):
            continue
        if tensor.roles[0] == longest.roles[0] == "batch" and tensor.shape[0] != 1:
            raise Misfit(
                f"`{op}` cannot join {longest} and {tensor}: axes are aligned at the end, where the"
                " batch of the second would stand beside that of the first",
                hint=_mend_ranks(longest, tensor),
            )
    return whole


def _mend_ranks(one: Tensor, other: Tensor) -> str:
    """What to do where a batch meets another axis, since axes are aligned at the end."""
    short, long = sorted((one, other), key=lambda t: len(t.shape))
    if len(short.shape) == len(long.shape) or short.roles[0] != "batch":
        return ""
    places = len(long.shape) - len(short.shape)
    more = " @ ".join(["Unsqueeze(1)"] * places)
    return f"axes are aligned at the end: give {short} an axis behind its batch with `{more}`"


def _mend_clash(a: Size, b: Size) -> str:
    if isinstance(a, Symbol) == isinstance(b, Symbol):
        return "all members need the same sizes, or 1"
    symbol, known = (a, b) if isinstance(a, Symbol) else (b, a)
    return f"if `{symbol}` is always {known}, give it that number in the `input` declaration"


def joined(op: str, tensors: Sequence[Tensor]) -> Tensor:
    """The type of values that are joined entry by entry: their common shape, by `broadcast`.

    An axis has a role where all have it for whom it does not stretch.
    """
    shape = broadcast(op, tensors)
    roles: list[Role] = []
    for axis in range(-len(shape), 0):
        found = {
            t.roles[axis] for t in tensors if -axis <= len(t.shape) and t.shape[axis] == shape[axis]
        }
        roles.append(found.pop() if len(found) == 1 else "other")
    return Tensor("float", shape, None, tuple(roles))


def agreed(tensors: Sequence[Tensor]) -> tuple[Role, ...]:
    """The roles of axes on which values with as many axes as each other agree."""
    found = (set(roles) for roles in zip(*(t.roles for t in tensors), strict=True))
    return tuple(roles.pop() if len(roles) == 1 else "other" for roles in found)


def put_in(x: Tensor, axis: int, size: Size) -> Tensor:
    """A value with one axis more, which nothing is known of."""
    shape, roles = list(x.shape), list(x.roles)
    shape.insert(axis, size)
    roles.insert(axis, "other")
    return Tensor(x.dtype, tuple(shape), x.bound, tuple(roles))


def new_axis(op: str, dim: int, x: Tensor) -> int:
    """Where a new axis stands in the output, from 0, or a Misfit where it cannot."""
    rank = len(x.shape) + 1
    index = axis_index(dim, rank)
    if index is None:
        raise Misfit(
            f"`{op}` puts a new axis in place {dim}, but with it {x} has {amount(rank, 'axis')}",
            hint=f"places go from {-rank} to {rank - 1}",
            argument="dim",
        )
    return index


def mixed(op: str, x: Tensor, axis: int) -> tuple[Advice, ...]:
    """A warning about what works along the axis of the batch."""
    if axis or x.roles[:1] != ("batch",):
        return ()
    what = f"`{op}` works along axis 0 of {x}, `{x.shape[0]}`: it mixes the examples of a batch"
    hint = "what an example gives then depends on the others; axes of one example begin at 1"
    return (Advice("W606", what, hint),)


def known(op: str, x: Tensor, axis: int, what: str, argument: str = "") -> int:
    """The size of an axis as a number, or a Misfit where it is symbolic."""
    size = x.shape[axis]
    if isinstance(size, Symbol):
        raise Misfit(
            f"`{op}` needs to know {what}, but in its input {x} it is `{size}`",
            hint="give the size a number in the `input` declaration",
            argument=argument,
        )
    return size


def channels_of(op: str, x: Tensor) -> int:
    """How many channels stand along axis 1, or a Misfit where they are not known to."""
    grid, at = GRIDS.get(len(x.shape) - 2), x.axis("channel")
    if grid is not None and isinstance(x.shape[1], Symbol) and at not in (None, 1):
        raise Misfit(
            f"`{op}` takes {grid.name} {grid.axes}, but its input {x} has its channels"
            f" along axis {at}",
            hint=f"along axis 1 it has `{x.shape[1]}`, which is no number of channels",
            code="E402",
        )
    return known(op, x, 1, "the number of channels")


def entries(
    op: str, x: Tensor, axis: int, given: int | None, kind: str = "channel", argument: str = ""
) -> int:
    """How many numbers an operation keeps that has one for each place along an axis.

    Raises:
        Misfit: where that is not `given`, or not known: then `argument` may be to blame.
    """
    what = "the number of channels" if kind == "channel" else f"the size of axis {axis}"
    size = known(op, x, axis, what, argument)
    if given is not None and given != size:
        raise Misfit(
            f"`{op}` has {amount(given, 'entry')}, but its input {x} has {amount(size, kind)}"
            f" along axis {axis}",
            argument="size",
        )
    return size


def mend_in(op: Op, size: int) -> str:
    """What to do where a given `in` is not the size that comes: it may stand in torch's order."""
    given, out = (getattr(op, name) for name in ("in_", "out"))
    order = "sizes are (out, in), as in the weight's shape"
    if out == size:
        return f"{order}: write `{op.label}({given}, {size})`, or `{op.label}({given})`"
    return f"{order}; `in` may be left out: `{op.label}({out})` takes what comes"


def headed(x: Tensor, heads: int, d: int) -> Tensor:
    """(…, heads, seq, d) for an input (…, seq, width)."""
    *lead, seq, _ = x.shape
    return vectors((*lead, heads, seq, d), (*x.roles[:-2], "head", x.roles[-2]))


class Grid(NamedTuple):
    """What values with channels along axis 1 are called, by how many axes of pixels they have."""

    name: str
    axes: str
    declare: str
    pixels: str
    sides: str


GRIDS = {
    1: Grid(
        "signals",
        "(batch, channels, length)",
        "three axes, such as `float[batch, 3, 100]`",
        "places",
        "one axis",
    ),
    2: Grid(
        "images",
        "(batch, channels, height, width)",
        "four axes, such as `float[batch, 3, 32, 32]`",
        "pixels",
        "two axes",
    ),
}
"""By the number of axes of pixels: signals have one, images two."""


def image(op: str, x: Type, places: tuple[int, ...] = (2, 1), hint: str = "") -> Tensor:
    """The input as (batch, channels, height, width), or (batch, channels, length).

    `places` says how many axes of pixels it may have, the usual number first.
    """
    x = expect_tensor(op, x)
    if len(x.shape) - 2 not in places:
        taken = " or ".join(f"{GRIDS[n].name} {GRIDS[n].axes}" for n in places)
        declare = f"declare the input with {GRIDS[places[0]].declare}"
        raise Misfit(
            f"`{op}` takes {taken}, but its input is {x}",
            hint=f"{hint}, or {declare}" if hint else declare,
            code="E402",
        )
    return x


def image_of(x: Tensor, channels: Size, *sides: Size) -> Tensor:
    """Images or signals of other sizes, as many as there are in `x`."""
    space: list[Role] = ["space"] * len(sides)
    shape = (x.shape[0], channels, *sides)
    return Tensor("float", shape, None, (x.roles[0], "channel", *space))


def mistaken(op: Op, x: Type) -> tuple[Advice, ...]:
    """A warning about what is taken for an image or a signal and has its channels elsewhere."""
    assert isinstance(x, Tensor)
    grid, at = GRIDS.get(len(x.shape) - 2), x.axis("channel")
    if grid is None or at in (None, 1):
        return ()
    what = f"`{op.label}` takes {x} for {grid.name}, with {x.shape[1]} channels along axis 1"
    what += f", but it has channels along axis {at}"
    return (Advice("W607", what, f"it needs {grid.name}: {grid.axes}"),)


Window = int | tuple[int, ...]


def along_sides(op: str, argument: str, value: Window, places: int) -> tuple[int, ...]:
    """An argument that is one number, or one for each axis of pixels, as one for each.

    Raises:
        Misfit: where there are too many, or too few.
    """
    if isinstance(value, int):
        return (value,) * places
    if len(value) != places:
        grid = GRIDS[places]
        raise Misfit(
            f"`{argument}` of `{op}` has {amount(len(value), 'number')}, but {grid.name} have"
            f" {grid.sides} of {grid.pixels}",
            hint=f"write one number, or {places}",
            argument=argument,
            code="E302",
        )
    return value


def by_sides(sizes: Sequence[object]) -> str:
    """Sizes along axes for a message: `3 × 3`."""
    return " × ".join(map(str, sizes))


def plain(sizes: Sequence[int]) -> Window:
    """The numbers as one, where they are all the same."""
    return sizes[0] if len(set(sizes)) == 1 else tuple(sizes)


def windows_along(size: Size, extent: int, stride: int, padding: int) -> Size:
    """How many windows over `extent` pixels there are along an axis.

    `padding` counts the pixels before the axis and behind it together.
    """
    return scaled_size(size, 1, padding - extent + stride, stride)


def scaled_size(size: Size, factor: int, added: int, divisor: int = 1) -> Size:
    """factor·size + added, at least 0, divided by a number and rounded down."""
    if isinstance(size, int):
        return max(0, (factor * size + added) // divisor)
    whole = product((size, factor))
    if added:
        whole = Symbol((f"({whole} {'+' if added > 0 else '-'} {abs(added)})",))
    exact = quotient(whole, divisor)
    return Symbol((f"({whole} // {divisor})",)) if exact is None else exact


def axes(op: str, dim: Axes, x: Tensor) -> Axes:
    """The axes in the one way in which they are kept.

    The last axis alone is -1; otherwise axes count from 0, and several are a sorted tuple.

    Raises:
        Misfit: for an axis that the input does not have, or one named twice.
    """
    rank = len(x.shape)
    given = dim if isinstance(dim, tuple) else (dim,)
    found: set[int] = set()
    for axis in given:
        index = index_of(op, axis, x, "dim")
        if index in found:
            raise Misfit(f"`{op}` names axis {axis} of {x} twice", argument="dim")
        found.add(index)
    ordered = tuple(sorted(found))
    if len(ordered) > 1:
        return ordered
    return one_axis(ordered[0], rank)


def index_of(op: str, axis: int, x: Tensor, argument: str) -> int:
    """A Python axis from 0, or a Misfit where the input does not have it."""
    rank = len(x.shape)
    index = axis_index(axis, rank)
    if index is None:
        raise Misfit(
            f"`{op}` names axis {axis}, but its input {x} has {amount(rank, 'axis')}",
            hint=f"axes go from {-rank} to {rank - 1}" if rank else "it has no axis to name",
            argument=argument,
        )
    return index


def one_axis(index: int, rank: int) -> int:
    """An axis in the one way in which it is kept."""
    return -1 if index == rank - 1 else index


def indices(dim: Axes, rank: int) -> tuple[int, ...]:
    """Axes as sorted indices from 0."""
    given = dim if isinstance(dim, tuple) else (dim,)
    return tuple(sorted(axis % rank for axis in given))
