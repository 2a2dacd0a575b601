"""How far the output moves when the weights do, each by its target.

An update of modular norm 1 moves every weight by its target at most, in that weight's norm (Large
et al. 2024, arXiv 2405.14813). The steepest one is sought as in `search`: the output's change is
linear in the update, so its norm is convex, and going to the steepest point of every weight's ball
never makes it smaller.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from modnorm.codegen.plan import Record
from modnorm.graph.modules import Module
from modnorm.measure.interpreter import Interpreter
from modnorm.measure.values import Tensors, derivative, flatten, norm
from modnorm.ops.edges import Measure

Tick = Callable[[str], None]


@dataclass(frozen=True)
class Changes:
    """First-order changes of the output by updates, over the size of the update.

    `random` is the largest for updates of random directions, `steepest` that for the steepest
    found; `alone` has what each weight does alone, its update being of its target's size.
    """

    random: float
    steepest: float
    alone: Mapping[str, float]


@dataclass(frozen=True)
class _Model:
    """A model's output as a function of some of its weights, at a batch."""

    tree: Module
    weights: Mapping[str, torch.Tensor]
    x: Any
    out: Sequence[Measure]

    def change(self, deltas: Mapping[str, torch.Tensor]) -> Tensors:
        """The derivative of the outputs along changes of weights."""
        at = {name: self.weights[name].detach().requires_grad_() for name in deltas}
        y = Interpreter({**self.weights, **at}).run(self.tree, self.x)
        return derivative(flatten(y), list(at.values()), list(deltas.values()))

    def climb(
        self, deltas: dict[str, torch.Tensor], records: Mapping[str, Record], steps: int
    ) -> float:
        """The largest change met on the way to the steepest update."""
        best = 0.0
        for step in range(steps):
            deltas = {name: d.detach().requires_grad_() for name, d in deltas.items()}
            size = norm(self.change(deltas), self.out)
            reached = float(size.detach())
            best = max(best, reached)
            if step == steps - 1 or not size.requires_grad or not reached:
                break
            slopes = torch.autograd.grad(size, list(deltas.values()), allow_unused=True)
            deltas = {
                name: steepest(records[name], torch.zeros_like(d) if g is None else g)
                for (name, d), g in zip(deltas.items(), slopes, strict=True)
            }
        return best


def steepest(record: Record, gradient: torch.Tensor) -> torch.Tensor:
    """The update of the target's size along a gradient; none for a gradient of 0."""
    if not bool(gradient.any()):
        return torch.zeros_like(gradient)
    return record.target * record.weight.op.dualize(gradient)


def measure_changes(
    tree: Module,
    records: Sequence[Record],
    weights: Mapping[str, torch.Tensor],
    x: Any,
    out: Sequence[Measure],
    generator: torch.Generator,
    steps: int,
    alone: Collection[str],
    tick: Tick,
) -> Changes:
    """The changes of the output by random and by the steepest updates, at a batch x.

    `alone` names the weights that are measured each for itself.
    """
    moving = {record.name: record for record in records if record.target}
    if not moving:
        return Changes(0.0, 0.0, {})
    model = _Model(tree, weights, x, out)

    def drawn(name: str) -> torch.Tensor:
        w = weights[name]
        return torch.randn(w.shape, generator=generator, dtype=w.dtype)

    tick("updates of all weights")
    random = 0.0
    best = 0.0
    for _ in range(2):
        start = {name: steepest(record, drawn(name)) for name, record in moving.items()}
        random = max(random, float(norm(model.change(start), out).detach()))
        best = max(best, model.climb(start, moving, steps))
    found: dict[str, float] = {}
    for name, record in moving.items():
        if name in alone:
            tick(name)
            found[name] = model.climb({name: steepest(record, drawn(name))}, moving, steps)
    return Changes(random, max(best, random), found)
