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
            case Beside(parts=parts):
                done = [self.run(part, x, type) for part in parts]
                return tuple(y for y, _ in done), TupleType(tuple(t for _, t in done))
            case Tared(part=part) | Mention(part=part):
                return self.run(part, x, type)

    def apply(self, op: Op, key: Hashable, x: Any) -> Any:
        weighted = isinstance(op, Atom | Reader)
        return op.reference(x, self.weight(key)) if weighted else op.reference(x)

    def blur(self, y: Any) -> Any:
        def error(t: torch.Tensor) -> torch.Tensor:
            noise = torch.randn(t.shape, generator=self.generator, dtype=t.dtype)
            return 1 + self.noise * noise

        return scaled(y, error) if self.noise else y
