"""How far the output moves with each value of a run, measured by random cotangents."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from modnorm.adopting.execute import execute
from modnorm.adopting.roles import MATRICES, Found
from modnorm.adopting.trace import Trace

DRAWS = 4
"""Random cotangents: each value's squares are averaged over them."""


def of_norm_one(trace: Trace, weights: Iterable[Found]) -> dict[int, Tensor]:
    """By number of a value, random weights of about norm 1 for parameters.

    That is where sensitivities of the modular norm are meant (Large et al. 2024): wherever a model
    begins, be it with zeros in a gate or the second matrix of a LoRA pair, its weights go there as
    they learn. Matrices are Gaussian, with the mean square of an orthogonal one of norm 1; gains
    are 1 and biases 0.
    """
    seed = torch.Generator().manual_seed(1)
    found: dict[int, Tensor] = {}
    numbers = trace.whole()
    for weight in weights:
        value = numbers.get(weight.parameter)
        if value is None or value.leaf is None or weight.role == "opaque":
            continue
        whole = found.setdefault(value.number, value.leaf.clone())
        part = whole if weight.layout is None else weight.layout.view(whole)
        if weight.role in ("gain", "bias"):
            part.fill_(float(weight.role == "gain"))
            continue
        size = 1.0
        if weight.role in MATRICES:
            kernel = len(weight.shape) == 4
            rows, columns = weight.shape[:2] if kernel else weight.shape[-2:]
            taps = math.prod(weight.shape[2:]) if kernel else 1
            taps //= weight.shape[2] if weight.norm == "spectral_groups" else 1
            size = min(rows, columns) ** 0.5 / (columns * taps)
        part.copy_(size * torch.randn(part.shape, generator=seed).to(part))
    return found


def gradients(
    trace: Trace, values: Iterable[int], outputs: Iterable[int], given: Mapping[int, Tensor],
    draws: int = DRAWS,
) -> dict[int, Tensor]:  # fmt: skip
    """For each value, the mean over random cotangents v of (Jᵀv)², entry by entry.

    J is the output's derivative by it, and v has independent entries of size 1, so that the sum of
    what comes back is ‖J‖² (in the Frobenius norm): so far a random change moves the output.
    `given` stand in the places of weights.
    """
    values, outputs = list(values), list(outputs)
    leaves = {
        v.number: given.get(v.number, v.leaf).detach().requires_grad_()
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
    trace: Trace, places: Mapping[object, tuple[int, Tensor | None]], outputs: Iterable[int],
    given: Mapping[int, Tensor],
) -> dict[object, float]:  # fmt: skip
    """By place, how far the output moves with a random change of RMS 1 there, in its own RMS.

    A place is a value, and labels of the rows whose features change, or None for all.
    """
    outputs = list(outputs)
    squares = gradients(trace, {number for number, _ in places.values()}, outputs, given)
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
