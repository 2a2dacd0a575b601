"""Sizes, which may be symbolic, and the types of values that flow through a model."""

from __future__ import annotations

from collections.abc import Iterable
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


@dataclass(frozen=True)
class Tensor:
    """A tensor type. `bound` is an exclusive upper bound of integer entries, where known."""

    dtype: Literal["float", "int"]
    shape: tuple[Size, ...]
    bound: Size | None = None

    def __str__(self) -> str:
        text = f"{self.dtype}[{', '.join(map(str, self.shape))}]"
        return f"{text} < {self.bound}" if self.bound is not None else text


@dataclass(frozen=True)
class TupleType:
    """The type of a tuple of values."""

    members: tuple[Type, ...]

    def __str__(self) -> str:
        return f"({', '.join(map(str, self.members))})"


Type: TypeAlias = Tensor | TupleType


def axis_index(axis: int, rank: int) -> int | None:
    """A Python axis (negative counts from the end) as an index, or None if out of range."""
    return axis % rank if -rank <= axis < rank else None
