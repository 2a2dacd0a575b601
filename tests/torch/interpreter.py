"""Runs a plain reading of a model: each operation's reference, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any

import torch

from modnorm.ops.base import Atom, Op, Reader
from modnorm.ops.types import Tensor, TupleType, Type
from tests.plain import Beside, Chain, Leaf, Mention, Plain, Tared


def type_of(x: Any) -> Type:
    if isinstance(x, tuple):
        return TupleType(tuple(map(type_of, x)))
    return Tensor("float" if x.is_floating_point() else "int", tuple(x.shape))


def scaled(x: Any, factor: Callable[[torch.Tensor], Any]) -> Any:
    """The value, each floating tensor in it multiplied by a factor."""
    if isinstance(x, tuple):
        return tuple(scaled(member, factor) for member in x)
    return x * factor(x) if x.is_floating_point() else x


@dataclass
class Run:
    """Runs a plain tree. `weight` gives the tensor that a key names.

    With `noise`, every intermediate result is off by a random relative error of that size: what
    then changes by much more cannot be compared at all.
    """

    weight: Callable[[Hashable], torch.Tensor]
    noise: float = 0.0
    generator: torch.Generator = field(default_factory=lambda: torch.Generator().manual_seed(1))

    def __call__(self, node: Plain, *inputs: Any) -> Any:
        return self.run(node, inputs[0] if len(inputs) == 1 else inputs)

    def run(self, node: Plain, x: Any) -> Any:
        match node:
            case Leaf():
                return self.blur(self.apply(node, x))
            case Chain(parts=parts):
                for part in parts:
                    x = self.run(part, x)
                return x
            case Beside(parts=parts):
                return tuple(self.run(part, x) for part in parts)
            case Tared(part=part) | Mention(part=part):
                return self.run(part, x)

    def apply(self, leaf: Leaf, x: Any) -> Any:
        op: Op = leaf.op.resolve(type_of(x))[0]
        weighted = isinstance(op, Atom | Reader)
        return op.reference(x, self.weight(leaf.key)) if weighted else op.reference(x)

    def blur(self, y: Any) -> Any:
        def error(t: torch.Tensor) -> torch.Tensor:
            noise = torch.randn(t.shape, generator=self.generator, dtype=t.dtype)
            return 1 + self.noise * noise

        return scaled(y, error) if self.noise else y
