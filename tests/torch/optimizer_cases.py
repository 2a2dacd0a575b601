"""Parameters, gradients and runs that the tests of the optimizers share."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from modnorm.kernels import DualizedSGD, NormedAdam, NormedOptimizer, NormedSGD
from modnorm.kernels.weight import Weight

PLAN = (
    Weight("embed.weight", "Embed", (6, 4), "row_rms", 1.0, 0.25),
    Weight("conv.weight", "Conv2D", (4, 3, 3, 3), "spectral_taps", 1.0, 0.5),
    Weight("a.weight", "Linear", (5, 4), "spectral", 1.0, 0.2),
    Weight("b.weight", "Linear", (5, 4), "spectral", 1.0, 0.3),
    Weight("still.weight", "Linear", (3, 4), "spectral", 0.0, 0.0),
    Weight("bias.weight", "Bias", (5,), "rms", 1.0, 0.1),
    Weight("scale.weight", "Scale", (5,), "max", 1.0, 0.7),
    Weight("heads.weight", "HeadedLinear", (2, 3, 4), "spectral", 1.0, 0.4),
    Weight("row.weight", "Readout", (6, 4), "row", 1.0, 0.6),
    Weight("column.weight", "Linear", (6, 4), "column", 1.0, 0.2),
    Weight("sign.weight", "Linear", (5, 4), "sign", 1.0, 0.3),
    Weight("frobenius.weight", "Linear", (5, 4), "frobenius", 1.0, 0.5),
)
KINDS: list[Callable[..., NormedOptimizer]] = [NormedAdam, NormedSGD, DualizedSGD]
Named = list[tuple[str, nn.Parameter]]


def parameters(dtype: torch.dtype = torch.float32, plan: Iterable[Weight] = PLAN) -> Named:
    generator = torch.Generator().manual_seed(5)
    start = [(w.name, torch.randn(w.shape, generator=generator)) for w in plan]
    return [(name, nn.Parameter(value.to(dtype))) for name, value in start]


def give_gradients(named: Named, step: int = 0, scale: float = 1.0) -> None:
    generator = torch.Generator().manual_seed(100 + step)
    for _, p in named:
        p.grad = scale * torch.randn(p.shape, generator=generator).to(p.dtype)


def run(kind: Callable[..., NormedOptimizer], named: Named, steps: int, **options: Any) -> Any:
    scale = options.pop("scale", 1.0)
    optimizer = kind(named, **{"lr": 0.1, "plan": PLAN, **options})
    for step in range(steps):
        give_gradients(named, step, scale)
        optimizer.step()
    return optimizer


def values(named: Named) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in named}


def everything(optimizer: NormedOptimizer, named: Named) -> list[Tensor]:
    """All tensors that a step could change."""
    state = [x for _, p in named for x in optimizer.state.get(p, {}).values()]
    return [x.clone() for x in [*values(named).values(), *state]]


def norm(w: Weight, x: Tensor) -> float:
    """The norm of an update of weight w, from its definition."""
    x = x.double()
    if w.norm == "row":
        return math.sqrt(w.shape[1]) * float(x.norm(dim=1).max())
    if w.norm == "column":
        return float(x.norm(dim=0).max()) / math.sqrt(w.shape[0])
    if w.norm == "sign":
        return w.shape[1] * float(x.abs().max())
    if w.norm == "frobenius":
        return math.sqrt(w.shape[1] / w.shape[0]) * float(x.norm())
    if x.ndim == 3:
        return max(norm(w, matrix) for matrix in x)
    if w.norm == "row_rms":
        return float(x.square().mean(1).sqrt().max())
    if w.norm == "rms":
        return float(x.square().mean().sqrt())
    if w.norm == "max":
        return float(x.abs().max())
    taps = x.flatten(2).permute(2, 0, 1) if x.ndim > 2 else x.unsqueeze(0)
    sigma = float(torch.linalg.matrix_norm(taps, 2).max())
    return len(taps) * math.sqrt(x.shape[1] / x.shape[0]) * sigma
