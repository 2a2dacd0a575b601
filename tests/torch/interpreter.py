"""Runs a plain reading of a model: each operation's reference, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any

import torch

from modnorm.ops.base import Atom, Misfit, Op, Reader
from modnorm.ops.sequences import place, sequence
from modnorm.ops.types import Tensor, TupleType, Type
from tests.plain import Assumed, Beside, Chain, Leaf, Mention, Plain, Scanned, Tared

WIDTHS = range(1, 7)
"""Sizes of the last axis that a state may have."""


def type_of(x: Any) -> Type:
    if isinstance(x, tuple):
        return TupleType(tuple(map(type_of, x)))
    return Tensor("float" if x.is_floating_point() else "int", tuple(x.shape))


def scaled(x: Any, factor: Callable[[torch.Tensor], Any]) -> Any:
    """The value, each floating tensor in it multiplied by a factor."""
    if isinstance(x, tuple):
        return tuple(scaled(member, factor) for member in x)
    return x * factor(x) if x.is_floating_point() else x


def resolved(node: Plain, x: Type, inputs: Sequence[Type]) -> tuple[Plain, Type]:
    """The tree with what operations and scans make of the types that come to them; and its own."""

    def inner(part: Plain, x: Type) -> tuple[Plain, Type]:
        return resolved(part, x, inputs)

    match node:
        case Leaf(op=op) if getattr(op, "gives", None) is not None:
            return node, inputs[op.gives]
        case Leaf(op=op):
            op, x = op.resolve(x)
            return replace(node, op=op), x
        case Chain(parts=parts):
            done = []
            for part in parts:
                part, x = inner(part, x)
                done.append(part)
            return replace(node, parts=tuple(done)), x
        case Beside(parts=parts, names=names):
            pairs = [inner(part, x) for part in parts]
            type = TupleType(tuple(t for _, t in pairs), names)
            return replace(node, parts=tuple(part for part, _ in pairs)), type
        case Tared() | Mention() | Assumed():
            part, x = inner(node.part, x)
            return replace(node, part=part), x
        case Scanned():
            return along(node, x, inputs)


def along(scan: Scanned, x: Type, inputs: Sequence[Type]) -> tuple[Scanned, Type]:
    """A scan with the only state, up to one of two tensors, that its cell takes and gives again."""
    whole = x.members if isinstance(x, TupleType) else (x,)
    first = next(t for t in whole if isinstance(t, Tensor) and t.dtype == "float")
    entry: Type = each(place, x)
    one = [replace(place(first), shape=(*place(first).shape[:-1], width)) for width in WIDTHS]
    pairs = [TupleType(pair) for pair in product(one, one)]
    found = []
    for state in (*one, *pairs):
        with suppress(Misfit):
            cell, out = resolved(scan.cell, TupleType((state, entry)), inputs)
            if shapes(out) == shapes(state):
                found.append((cell, out))
    if len(found) != 1:
        raise Misfit(f"{len(found)} states")  # for what a scan around this one has tried
    ((cell, out),) = found
    length = first.shape[1]
    count = length if isinstance(length, int) else None
    type = each(lambda tensor: sequence(tensor, length), out)
    return replace(scan, cell=cell, count=count, state=out), type


def each(function: Callable[[Tensor], Tensor], type: Type) -> Type:
    """What a function makes of every tensor in a type."""
    if isinstance(type, TupleType):
        return type.of(each(function, member) for member in type.members)
    return function(type)


def shapes(type: Type) -> Any:
    """The shape of a tensor, or those of a tuple's."""
    return tuple(map(shapes, type.members)) if isinstance(type, TupleType) else list(type.shape)


def zeros(type: Type, like: torch.Tensor) -> Any:
    """Zeros of a type, with the sizes that are free, the first ones, as another value has them."""
    if isinstance(type, TupleType):
        return tuple(zeros(member, like) for member in type.members)
    free = [like.shape[0], *like.shape[2:-1]]
    fixed = [s for s in type.shape[len(free) :] if isinstance(s, int)]
    return like.new_zeros([*free, *fixed])


@dataclass
class Run:
    """Runs a plain tree. `weight` gives the tensor that a key names.

    With `noise`, every intermediate result is off by a random relative error of that size: what
    then changes by much more cannot be compared at all.
    """

    weight: Callable[[Hashable], torch.Tensor]
    noise: float = 0.0
    generator: torch.Generator = field(default_factory=lambda: torch.Generator().manual_seed(1))

    def __call__(self, node: Plain, type: Type, *inputs: Any) -> Any:
        """The output for inputs of a type, which may have free sizes."""
        self.inputs = inputs
        self.types = (type,) if len(inputs) == 1 else type.members  # type: ignore[union-attr]
        return self.run(node, inputs[0] if len(inputs) == 1 else inputs, type)[0]

    def run(self, node: Plain, x: Any, type: Type) -> tuple[Any, Type]:
        match node:
            case Leaf(op=op) if getattr(op, "gives", None) is not None:
                return self.inputs[op.gives], self.types[op.gives]
            case Leaf():
                op, out = node.op.resolve(type)
                return self.blur(self.apply(op, node.key, x)), out
            case Chain(parts=parts):
                for part in parts:
                    x, type = self.run(part, x, type)
                return x, type
            case Beside(parts=parts, names=names):
                done = [self.run(part, x, type) for part in parts]
                return tuple(y for y, _ in done), TupleType(tuple(t for _, t in done), names)
            case Tared(part=part) | Mention(part=part) | Assumed(part=part):
                return self.run(part, x, type)
            case Scanned():
                return self.along(node, x, type)

    def along(self, scan: Scanned, x: Any, type: Type) -> tuple[Any, Type]:
        """One step after the other, from zeros on."""
        whole = x if isinstance(x, tuple) else (x,)
        like = next(t for t in whole if t.is_floating_point())
        state = zeros(scan.state, like)
        entry, found = each(place, type), []
        for at in range(like.shape[1]):
            now = tuple(t.select(1, at) for t in whole)
            both = (state, now if isinstance(x, tuple) else now[0])
            state, _ = self.run(scan.cell, both, TupleType((scan.state, entry)))
            found.append(state if isinstance(state, tuple) else (state,))
        y = tuple(torch.stack(every, 1) for every in zip(*found, strict=True))
        first = type.members[0] if isinstance(type, TupleType) else type
        assert isinstance(first, Tensor)
        out = each(lambda one: sequence(one, first.shape[1]), scan.state)
        return (y if isinstance(state, tuple) else y[0]), out

    def apply(self, op: Op, key: Hashable, x: Any) -> Any:
        weighted = isinstance(op, Atom | Reader)
        return op.reference(x, self.weight(key)) if weighted else op.reference(x)

    def blur(self, y: Any) -> Any:
        def error(t: torch.Tensor) -> torch.Tensor:
            noise = torch.randn(t.shape, generator=self.generator, dtype=t.dtype)
            return 1 + self.noise * noise

        return scaled(y, error) if self.noise else y
