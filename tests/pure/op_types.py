"""Types of values, written briefly, for tests of operations."""

from __future__ import annotations

from modnorm.ops.types import Size, Symbol, Tensor, TupleType, Type

B, T, H, W = (Symbol((n,)) for n in ("batch", "seq", "h", "w"))


def f(*shape: Size) -> Tensor:
    return Tensor("float", shape)


def i(*shape: Size, bound: Size | None = None) -> Tensor:
    return Tensor("int", shape, bound)


def b(*shape: Size) -> Tensor:
    return Tensor("bool", shape)


def bare(type: Type) -> Type:
    """The type with nothing known of its axes."""
    if isinstance(type, TupleType):
        return tup(*map(bare, type.members))
    return Tensor(type.dtype, type.shape, type.bound)


def tup(*members: Type) -> TupleType:
    return TupleType(members)
