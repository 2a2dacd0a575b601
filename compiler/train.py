"""The loop that models are trained in, with room for its users between the parts of a step."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor


class Moves(Protocol):
    """What moves weights by their gradients: a torch optimizer, or what is used as one."""

    param_groups: list[dict[str, Any]]

    def zero_grad(self) -> None: ...

    def step(self) -> Any: ...


def train(
    objective: Callable[[], Tensor],
    optimizers: Sequence[Moves],
    steps: Iterable[int],
    *,
    factor: Callable[[int], float] | None = None,
    seen: Callable[[Tensor], None] | None = None,
    ready: Callable[[Tensor], None] | None = None,
) -> Iterator[Tensor]:
    """Train step by step; the loss from before each step is handed out after it.

    objective: makes the loss of the next batch. factor: what the learning rates that optimizers
    begin with are multiplied by in a step, by its number. seen: gets a loss before its gradients
    are made, and may raise to stop; ready: gets it when they are.
    """
    rates = [[group["lr"] for group in one.param_groups] for one in optimizers if factor]
    for step in steps:
        loss = objective()
        if seen is not None:
            seen(loss)
        for one in optimizers:
            one.zero_grad()
        if loss.requires_grad:
            torch.autograd.backward(loss)
        if ready is not None:
            ready(loss)
        if factor is not None:
            for one, before in zip(optimizers, rates, strict=True):
                for group, rate in zip(one.param_groups, before, strict=True):
                    group["lr"] = rate * factor(step)
        for one in optimizers:
            one.step()
        yield loss.detach()


def falling(schedule: str, steps: int) -> Callable[[int], float]:
    """What the learning rate is multiplied by in a step of so many, counted from 0.

    schedule: "linear" (to 0), "cosine", or anything else for a constant rate.
    """
    if schedule == "linear":
        return lambda done: 1 - done / steps
    if schedule == "cosine":
        return lambda done: (1 + math.cos(math.pi * done / steps)) / 2
    return lambda done: 1.0
