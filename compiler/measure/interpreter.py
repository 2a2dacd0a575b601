"""Runs the module tree as it was written, by every operation's reference.

The generated file computes the same after rewrites; `agreement` says how nearly.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch

from modnorm.graph.modules import (
    Assume,
    Compose,
    Hole,
    Leaf,
    Module,
    Repeat,
    Run,
    Scan,
    Scope,
    Shared,
    Tare,
    Tuple,
    children,
)
from modnorm.graph.paths import instance
from modnorm.measure.values import flatten

Indices: TypeAlias = tuple[int, ...]
"""The copy of each enclosing repetition, counted from 0 in its run, outermost first."""
Hook: TypeAlias = Callable[[Module, Indices, Any, Any], None]
"""Called with a module, its copy, its input and its output."""


def weight_name(leaf: Leaf, indices: Indices) -> str | None:
    """The name in `state_dict` of the weight that a copy of an operation uses."""
    return None if leaf.weight is None else f"{instance(leaf.weight, indices)}.weight"


def buffers(leaf: Leaf, indices: Indices) -> dict[str, str]:
    """The names in `state_dict` of the buffers that a copy of an operation keeps, by its own."""
    return {name: f"{instance(leaf.path, indices)}.{name}" for name in leaf.op.buffers}


@dataclass(frozen=True)
class Interpreter:
    """The module tree with weights and buffers, by their names in `state_dict`, as in `eval()`.

    `inputs` are those of the model, for their names in it.
    """

    weights: Mapping[str, torch.Tensor]
    inputs: Sequence[torch.Tensor]
    hook: Hook | None = None

    def run(self, module: Module, x: Any, indices: Indices = ()) -> Any:
        """The output of one copy of a module for an input."""
        y = self._run(module, x, indices)
        if self.hook is not None:
            self.hook(module, indices, x, y)
        return y

    def _run(self, module: Module, x: Any, indices: Indices) -> Any:
        match module:
            case Leaf(op=op):
                if op.buffers:
                    own = buffers(module, indices).items()
                    return op.reference(x, {name: self.weights[path] for name, path in own})
                if op.gives is not None:
                    return op.reference(x, self.inputs[op.gives])
                name = weight_name(module, indices)
                return op.reference(x) if name is None else op.reference(x, self.weights[name])
            case Compose(steps=steps):
                for step in steps:
                    x = self.run(step, x, indices)
                return x
            case Tuple(members=members):
                return tuple(self.run(member, x, indices) for member in members)
            case Repeat(runs=runs):
                for run in runs:
                    for index in range(run.count):
                        x = self.run(run.body, x, (*indices, index))
                return x
            case Scan():
                return self.along(module, x, indices)
            case Scope(body=body) | Tare(body=body) | Assume(body=body):
                return self.run(body, x, indices)
            case Shared(body=body):
                return self.run(body, x)  # its paths begin at the root again
            case Hole():
                raise AssertionError("a tree with holes is never run")

    def along(self, scan: Scan, x: Any, indices: Indices) -> Any:
        """The states of a cell along a sequence, or along the members of a tuple."""
        whole = x if isinstance(x, tuple) else (x,)
        like = next(one for one in whole if one.is_floating_point())
        state: Any = tuple(
            like.new_zeros([whole[s[0]].shape[s[1]] if isinstance(s, tuple) else s for s in sizes])
            for sizes in scan.start.sizes
        )
        found = []
        for places in zip(*(one.unbind(1) for one in whole), strict=True):
            entry = places if isinstance(x, tuple) else places[0]
            old = state if scan.start.several else state[0]
            new = self.run(scan.body, (old, entry), indices)
            state = new if scan.start.several else (new,)
            found.append(state)
        stacked = tuple(torch.stack(one, dim=1) for one in zip(*found, strict=True))
        return stacked if scan.start.several else stacked[0]


def chosen(run: Run, every: bool) -> tuple[int, ...]:
    """The copies of a run that are looked at: the first, the one in the middle and the last."""
    if every:
        return tuple(range(run.count))
    return tuple(sorted({0, run.count // 2, run.count - 1}))


def copies(
    module: Module, every: bool = False, indices: Indices = ()
) -> Iterator[tuple[Module, Indices]]:
    """Every position of the tree with the copies that are looked at, parents first."""
    yield module, indices
    match module:
        case Repeat(runs=runs):
            for run in runs:
                for index in chosen(run, every):
                    yield from copies(run.body, every, (*indices, index))
        case Shared(body=body):
            yield from copies(body, every)
        case _:
            for child in children(module):
                yield from copies(child, every, indices)


def agreement(found: Any, expected: Any) -> float:
    """The largest difference of two values, relative to the largest entry of the second."""
    worst = 0.0
    for a, b in zip(flatten(found), flatten(expected), strict=True):
        if a.shape != b.shape:
            return float("inf")
        scale = float(b.double().abs().amax()) if b.numel() else 0.0
        off = float((a.double() - b.double()).abs().amax()) if b.numel() else 0.0
        worst = max(worst, off / scale if scale else off)
    return worst
