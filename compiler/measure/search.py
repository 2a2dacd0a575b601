"""Searches for what stretches a function most, and for the update that moves a model most.

What is sought is the largest ‖J(x, w)·h‖/‖h‖ of the derivative J in x. It is convex in h, and in w
for what is linear in w: so h and w go to the steepest point of their balls, which never makes the
ratio smaller (a power iteration between norms: Boyd 1974; Higham 1992). In x there is no such step;
x goes along the gradient and is brought back into its ball. Every ratio that is met on the way is a
lower bound of the Lipschitz constant on that ball.

An update of modular norm 1 moves every weight by its target at most, in that weight's norm (Large
et al. 2024, arXiv 2405.14813). The output's change is linear in the update, so the steepest one is
sought in the same way.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from modnorm.codegen.plan import Record
from modnorm.graph.modules import Module
from modnorm.measure.interpreter import Interpreter
from modnorm.measure.values import (
    Ball,
    Tensors,
    derivative,
    flatten,
    norm,
    smooth_norm,
    steepest_all,
)
from modnorm.ops.base import Atom
from modnorm.ops.edges import Measure

Function = Callable[[Tensors, torch.Tensor | None], Tensors]
"""The outputs for inputs and, where the weight is sought too, the weight."""

RATE = 0.15
"""The first step of an input, relative to its size; later ones are shorter."""


@dataclass(frozen=True)
class Effort:
    """How long to search: steps from each start, the number of starts, and steps at one input."""

    steps: int
    starts: int
    here: int


EFFORTS = {1: Effort(12, 3, 3), 2: Effort(50, 4, 6), 3: Effort(250, 8, 15)}


@dataclass(frozen=True)
class Problem:
    """A function with the norms of its inputs and outputs, and where its inputs may be."""

    function: Function
    into: Sequence[Measure]
    out: Sequence[Measure]
    balls: Sequence[Ball]
    like: Tensors
    """Inputs of the right shapes: a start, brought into the balls."""
    atom: Atom | None = None
    weight: torch.Tensor | None = None
    """The weight to begin with, where it is sought too; `atom` has its duality map."""
    generator: torch.Generator = field(default_factory=torch.Generator)


def largest_stretch(problem: Problem, effort: Effort) -> float:
    """The largest ratio found over inputs in the balls; 0 where the output does not move."""
    best = 0.0
    for start in range(effort.starts):
        xs = _start(problem, start)
        best = max(best, _climb(problem, xs, effort.steps, moving=True))
    return best


def stretch_at(problem: Problem, xs: Tensors, effort: Effort) -> float:
    """The largest ratio found at given inputs."""
    return _climb(problem, xs, effort.here, moving=False)


def _start(problem: Problem, number: int) -> Tensors:
    """The inputs as given; later ones random: gaussian or of two values, large or small."""
    if number == 0:
        found = [t.clone() for t in problem.like]
    else:
        size = (1.0, 0.1, 1.0, 0.01)[(number - 1) % 4]
        found = []
        for t, ball, measure in zip(problem.like, problem.balls, problem.into, strict=True):
            raw = torch.randn(t.shape, generator=problem.generator, dtype=t.dtype)
            if number % 4 == 3:
                raw = raw.sign()
            radius = ball.radius(measure)
            radius = radius if math.isfinite(radius) else 1.0
            found.append(raw * size * radius)
    return [ball.project(t) for ball, t in zip(problem.balls, found, strict=True)]


def _climb(problem: Problem, xs: Tensors, steps: int, *, moving: bool) -> float:
    """The largest ratio met on a way uphill from some inputs."""
    xs = [x.detach().clone().requires_grad_() for x in xs]
    hs = [torch.randn(x.shape, generator=problem.generator, dtype=x.dtype) for x in xs]
    size = norm(hs, problem.into)
    hs = [h / size for h in hs]
    weight = problem.weight
    scales = [max(float(x.detach().abs().amax()), 1e-3) if x.numel() else 1.0 for x in xs]
    ascent = Ascent([(x, RATE * s) for x, s in zip(xs, scales, strict=True)])
    best = 0.0
    for step in range(steps):
        hs = [h.detach().requires_grad_() for h in hs]
        if weight is not None:
            weight = weight.detach().requires_grad_()
        changes = derivative(problem.function(xs, weight), xs, hs)
        ratio = float(norm([c.detach() for c in changes], problem.out))
        if not math.isfinite(ratio):
            return best
        if not moving or all(b.has(x.detach()) for b, x in zip(problem.balls, xs, strict=True)):
            best = max(best, ratio)
        # to the end for the largest group alone, before that for all of them
        objective = (smooth_norm if 3 * step < 2 * steps else norm)(changes, problem.out)
        if not objective.requires_grad or ratio == 0:
            return best
        wanted = [*hs, *(xs if moving else []), *([weight] if weight is not None else [])]
        found = torch.autograd.grad(objective, wanted, allow_unused=True)
        slopes = [
            torch.zeros_like(t) if g is None else g for g, t in zip(found, wanted, strict=True)
        ]
        # direction and weight take turns: going both at once they might chase each other
        if weight is not None and problem.atom is not None and step % 2 and bool(slopes[-1].any()):
            weight = problem.atom.dualize(slopes[-1])
        else:
            hs = steepest_all(slopes[: len(hs)], problem.into)
            if not any(bool(h.any()) for h in hs):
                return best
        if moving:
            ascent.step(slopes[len(hs) : 2 * len(hs)], 1 - step / steps)
            with torch.no_grad():
                for x, ball in zip(xs, problem.balls, strict=True):
                    x.copy_(ball.project(x))
    return best


class Ascent:
    """Adam uphill, to the bit as torch's, with a rate for each tensor.

    The first of torch's optimizers that is made imports all of its compiler, which takes longer
    than most checks.
    """

    BETAS, EPS = (0.9, 0.999), 1e-8

    def __init__(self, xs: Sequence[tuple[torch.Tensor, float]]) -> None:
        self.steps = 0
        self.state = [(x, rate, torch.zeros_like(x), torch.zeros_like(x)) for x, rate in xs]

    @torch.no_grad()
    def step(self, slopes: Sequence[torch.Tensor], part: float) -> None:
        """Move along the slopes, by a part of the rates; what is not finite counts as 0."""
        self.steps += 1
        one, two = self.BETAS
        corrected = math.sqrt(1 - two**self.steps)
        for (x, rate, mean, square), slope in zip(self.state, slopes, strict=True):
            slope = slope.nan_to_num(0.0, 0.0, 0.0)
            mean.lerp_(slope, 1 - one)
            square.mul_(two).addcmul_(slope, slope, value=1 - two)
            size = (square.sqrt() / corrected).add_(self.EPS)
            x.addcdiv_(mean, size, value=rate * part / (1 - one**self.steps))


# --- updates --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Changes:
    """First-order changes of the output by updates, over the size of the update.

    `random` is the largest for updates of random directions, `steepest` that for the steepest
    found; `alone` has what each weight does alone, its update being of its target's size.
    """

    random: float
    steepest: float
    alone: Mapping[str, float]


def measure_changes(
    tree: Module,
    plan: Sequence[Record],
    weights: Mapping[str, torch.Tensor],
    x: Any,
    out: Sequence[Measure],
    generator: torch.Generator,
    steps: int,
    alone: Collection[str],
    tick: Callable[[str], None],
) -> Changes:
    """The changes of the output by random and by the steepest updates, at a batch x.

    `alone` names the weights that are measured each for itself.
    """
    moving = {record.name: record for record in plan if record.target}
    if not moving:
        return Changes(0.0, 0.0, {})

    def change(deltas: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """The norm of the outputs' derivative along changes of weights."""
        at = {name: weights[name].detach().requires_grad_() for name in deltas}
        y = Interpreter({**weights, **at}, flatten(x)).run(tree, x)
        return norm(derivative(flatten(y), list(at.values()), list(deltas.values())), out)

    def steepest(name: str, gradient: torch.Tensor) -> torch.Tensor:
        """The update of the target's size along a gradient; none for a gradient of 0."""
        if not bool(gradient.any()):
            return torch.zeros_like(gradient)
        return moving[name].target * moving[name].weight.op.dualize(gradient)

    def drawn(name: str) -> torch.Tensor:
        w = weights[name]
        return steepest(name, torch.randn(w.shape, generator=generator, dtype=w.dtype))

    def climb(deltas: dict[str, torch.Tensor]) -> float:
        """The largest change met on the way to the steepest update."""
        best = 0.0
        for step in range(steps):
            deltas = {name: d.detach().requires_grad_() for name, d in deltas.items()}
            size = change(deltas)
            reached = float(size.detach())
            best = max(best, reached)
            if step == steps - 1 or not size.requires_grad or not reached:
                break
            slopes = torch.autograd.grad(size, list(deltas.values()), allow_unused=True)
            deltas = {
                name: steepest(name, torch.zeros_like(d) if g is None else g)
                for (name, d), g in zip(deltas.items(), slopes, strict=True)
            }
        return best

    tick("updates of all weights")
    random = best = 0.0
    for _ in range(2):
        start = {name: drawn(name) for name in moving}
        random = max(random, float(change(start).detach()))
        best = max(best, climb(start))
    found: dict[str, float] = {}
    for name in moving:
        if name in alone:
            tick(name)
            found[name] = climb({name: drawn(name)})
    return Changes(random, max(best, random), found)
