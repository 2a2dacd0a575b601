"""How far the output moves with each value of a run, measured at the weights as they are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from modnorm.adopting.execute import execute
from modnorm.adopting.trace import Trace

DRAWS = 4
"""Random cotangents: each value's squares are averaged over them."""


def gradients(
    trace: Trace, values: Iterable[int], outputs: Iterable[int], draws: int = DRAWS
) -> dict[int, Tensor]:
    """For each value, the mean over random cotangents v of (Jᵀv)², entry by entry.

    J is the output's derivative by it, and v has independent entries of size 1, so that the sum of
    what comes back is ‖J‖² (in the Frobenius norm): so far a random change moves the output.
    """
    values, outputs = list(values), list(outputs)
    leaves = {
        v.number: v.leaf.clone().requires_grad_()
        for v in trace.values
        if v.leaf is not None and v.floating and v.live
    }
    with torch.enable_grad(), torch.random.fork_rng(devices=()):
        run = execute(trace, [*values, *outputs], leaves)
        tensors = {n: run[n] for n in values if run[n].requires_grad}
        ends = [run[n] for n in outputs if run[n].requires_grad]
        found = {n: torch.zeros_like(x) for n, x in tensors.items()}
        seed = torch.Generator().manual_seed(0)
        for draw in range(draws):
            noise = [torch.randn(x.shape, generator=seed).to(x) for x in ends]
            got = torch.autograd.grad(
                ends, list(tensors.values()), noise, retain_graph=draw < draws - 1,
                allow_unused=True,
            )  # fmt: skip
            for number, gradient in zip(tensors, got, strict=True):
                if gradient is not None:
                    found[number] += gradient.square() / draws
    return found


def sensitivities(
    trace: Trace, places: Mapping[object, tuple[int, Tensor | None]], outputs: Iterable[int]
) -> dict[object, float]:
    """By place, how far the output moves with a random change of RMS 1 there, in its own RMS.

    A place is a value, and labels of the rows whose features change, or None for all.
    """
    outputs = list(outputs)
    squares = gradients(trace, {number for number, _ in places.values()}, outputs)
    whole = sum(torch.Size(trace.values[n].shape).numel() for n in outputs)
    found = {}
    for key, (number, rows) in places.items():
        if number not in squares:
            found[key] = 0.0
            continue
        own = squares[number]
        labels = trace.features.get(number)
        if rows is not None and labels is not None:
            own = own * torch.isin(labels.tensor(), rows).to(own)
        found[key] = float(own.double().sum() / max(whole, 1)) ** 0.5
    return found


__all__ = ["DRAWS", "gradients", "sensitivities"]
