"""Sizes, which may be symbolic, and the types of values that flow through a model."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import prod
from typing import Literal, TypeAlias

Real: TypeAlias = int | Fraction | float
"""A number of the language: exact (int, Fraction) until `sqrt` or `log2` makes it a float."""


@dataclass(frozen=True)
class Symbol:
    """A size known only when the model runs: `factor` times a product of named sizes.

    `names` is sorted, so that equal sizes compare equal: `batch*seq` is `seq*batch`.
    """

    names: tuple[str, ...]
    factor: int = 1

    def __str__(self) -> str:
        head = [str(self.factor)] if self.factor != 1 else []
        return "*".join([*head, *self.names])


Size: TypeAlias = int | Symbol


def product(sizes: Iterable[Size]) -> Size:
    """The product of sizes; an int if all are ints."""
    sizes = list(sizes)
    factor = prod(s if isinstance(s, int) else s.factor for s in sizes)
    names = sorted(n for s in sizes if isinstance(s, Symbol) for n in s.names)
    return Symbol(tuple(names), factor) if names else factor


def quotient(size: Size, divisor: int) -> Size | None:
    """`size / divisor` where that is whole, else None."""
    factor = size if isinstance(size, int) else size.factor
    if factor % divisor:
        return None
    return factor // divisor if isinstance(size, int) else Symbol(size.names, factor // divisor)


def total(sizes: Iterable[Size]) -> Size:
    """The sum of sizes; an int if all are ints."""
    constant = 0
    counts: dict[tuple[str, ...], int] = {}
    for size in sizes:
        names, factor, by = _parts(size)
        constant += by
        if names:
            counts[names] = counts.get(names, 0) + factor
    terms = [Symbol(names, factor) for names, factor in sorted(counts.items())]
    if not terms:
        return constant
    if len(terms) == 1 and not constant:
        return terms[0]
    tail = f" {'+' if constant > 0 else '-'} {abs(constant)}" if constant else ""
    return Symbol((f"({' + '.join(map(str, terms))}{tail})",))


def shifted(size: Size, by: int) -> Size:
    """`size + by`."""
    return total((size, by))


_SHIFTED = re.compile(r"\((?P<names>[\w*]+) (?P<sign>[+-]) (?P<by>\d+)\)")
"""How `total` writes a product of names and a number that is added."""


def _parts(size: Size) -> tuple[tuple[str, ...], int, int]:
    """A size as factor times names, plus a number."""
    if isinstance(size, int):
        return (), 0, size
    match = _SHIFTED.fullmatch(size.names[0]) if len(size.names) == 1 else None
    if match is None or size.factor != 1:
        return size.names, size.factor, 0
    head, *rest = match["names"].split("*")
    names, factor = ((head, *rest), 1) if not head.isdigit() else (tuple(rest), int(head))
    return names, factor, int(match["sign"] + match["by"])


Role: TypeAlias = Literal["batch", "head", "channel", "space", "map", "other"]
"""What is counted along an axis: examples, heads, the entries of a vector, pixels of an image or
places of a signal, or what were channels before vectors were made along the length of a signal.

`other` is all that no rule asks for, such as places in a sequence, and what is not known.
"""


Dtype: TypeAlias = Literal["float", "int", "bool"]
"""Real numbers; integers; true or false, as in a mask."""


@dataclass(frozen=True)
class Tensor:
    """A tensor type. `bound` is an exclusive upper bound of integer entries, where known.

    `roles` has one for each axis; if it is left out, nothing is known of any.
    """

    dtype: Dtype
    shape: tuple[Size, ...]
    bound: Size | None = None
    roles: tuple[Role, ...] = ()

    def __post_init__(self) -> None:
        if len(self.roles) != len(self.shape):
            object.__setattr__(self, "roles", ("other",) * len(self.shape))

    def __str__(self) -> str:
        text = f"{self.dtype}[{', '.join(map(str, self.shape))}]"
        return f"{text} < {self.bound}" if self.bound is not None else text

    def axis(self, role: Role) -> int | None:
        """The last axis of a role, from 0."""
        found = [axis for axis, own in enumerate(self.roles) if own == role]
        return found[-1] if found else None

    @property
    def channels(self) -> int:
        """The axis of the channels, the entries of a vector.

        Where no role says it, axis 1 of four, as of an image, and else the last axis.
        """
        known = self.axis("channel")
        if known is not None:
            return known
        return 1 if len(self.shape) == 4 else max(len(self.shape) - 1, 0)

    @property
    def is_image(self) -> bool:
        """Whether channels stand before other axes, which are those of pixels."""
        return self.channels < len(self.shape) - 1


def declared(dtype: Dtype, shape: tuple[Size, ...], bound: Size | None) -> Tensor:
    """The type of an input.

    The first of several axes is the batch, where its size is free. Real numbers have their channels
    along the last axis. Four axes are an image (batch, channels, h, w) where h and w are equal or
    both free, and three are a signal (batch, channels, length) where the last alone is free. It is
    not known where they may be either: two different numbers h and w, or a length that is a number.
    """
    roles: list[Role] = ["other"] * len(shape)
    if dtype == "float" and shape:
        free = [isinstance(size, Symbol) for size in shape[-2:]]
        match len(shape):
            case 3 if free == [False, True]:
                roles[1:] = "channel", "space"
            case 3 if free == [False, False]:
                pass
            case 4 if free == [False, True]:
                pass
            case 4 if all(free) or shape[2] == shape[3]:
                roles[1:] = "channel", "space", "space"
            case 4 if not any(free):
                pass
            case _:
                roles[-1] = "channel"
    if len(shape) > 1 and isinstance(shape[0], Symbol):
        roles[0] = "batch"
    return Tensor(dtype, shape, bound, tuple(roles))


def vectors(shape: tuple[Size, ...], before: Sequence[Role], last: Role = "other") -> Tensor:
    """Real vectors along the last axis; `before` are the roles of the other axes.

    What counted channels there does so no more; `last` is what stood where the vectors stand now.
    """
    one: Role = "map" if last == "space" and "space" not in before else "other"
    lead: list[Role] = [one if role == "channel" else role for role in before]
    return Tensor("float", shape, None, (*lead, "channel"))


@dataclass(frozen=True)
class TupleType:
    """The type of a tuple of values; `names` has one for each member, or none at all."""

    members: tuple[Type, ...]
    names: tuple[str, ...] = ()

    def __str__(self) -> str:
        named = (f"{name} = " for name in self.names or ())
        heads = named if self.names else ("" for _ in self.members)
        return f"({', '.join(f'{h}{m}' for h, m in zip(heads, self.members, strict=True))})"

    @property
    def keys(self) -> Sequence[int | str]:
        """What leads to the members: their names, or their numbers."""
        return self.names or range(len(self.members))

    def of(self, members: Iterable[Type]) -> TupleType:
        """The type of a tuple of other members, under the same names."""
        return TupleType(tuple(members), self.names)


Type: TypeAlias = Tensor | TupleType


def is_named(type: Type) -> bool:
    """Whether members of a tuple in it have names."""
    return isinstance(type, TupleType) and (bool(type.names) or any(map(is_named, type.members)))


def axis_index(axis: int, rank: int) -> int | None:
    """A Python axis (negative counts from the end) as an index, or None if out of range."""
    return axis % rank if -rank <= axis < rank else None
