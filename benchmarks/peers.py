"""The optimizers that the benchmark compares: ours and others', as functions that make one step.

Others that run only where they are installed, and on a GPU: heavyball, gram-newton-schulz and dion.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from modnorm.kernels import DualizedSGD, NormedAdam, NormedSGD
from modnorm.kernels.weight import Weight

LR, DECAY = 1e-3, 0.01
HEADS = 4
Plan = tuple[Weight, ...]
Step = Callable[[], object]


class Subject:
    """Parameters with fixed random gradients, which all optimizers share."""

    def __init__(self, plan: Plan, device: str, dtype: torch.dtype) -> None:
        self.plan, self.device, self.dtype = plan, device, dtype
        torch.manual_seed(0)
        self.params = [
            nn.Parameter(torch.randn(w.shape, device=device).mul_(0.02).to(dtype)) for w in plan
        ]
        for p in self.params:
            p.grad = torch.randn_like(p)
        self.named = [(w.name, p) for w, p in zip(plan, self.params, strict=True)]
        self.entries = sum(p.numel() for p in self.params)

    def split(self) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
        """The blocks' matrices, for Muon, and the rest."""
        inside = [p for n, p in self.named if n.startswith("block") and p.ndim == 2]
        chosen = set(inside)
        return inside, [p for p in self.params if p not in chosen]


def torchs(subject: Subject) -> Iterator[tuple[str, Callable[[], Step]]]:
    options: Any = {"lr": LR, "weight_decay": DECAY}
    optim = torch.optim
    yield "torch AdamW, fused", lambda: optim.AdamW(subject.params, fused=True, **options).step
    yield "torch AdamW, foreach", lambda: optim.AdamW(subject.params, foreach=True, **options).step
    momentum: Any = {"momentum": 0.9, "fused": True}
    yield "torch SGD, fused", lambda: optim.SGD(subject.params, **momentum, **options).step
    inside, outside = subject.split()
    if inside:
        yield (
            "torch Muon + AdamW, fused",
            lambda: both(
                optim.Muon(inside, **options),
                optim.AdamW(outside, fused=True, **options) if outside else None,
            ),
        )


def both(first: Any, second: Any) -> Step:
    def step() -> None:
        first.step()
        if second is not None:
            second.step()

    return step


def ours(subject: Subject) -> Iterator[tuple[str, Callable[[], Step]]]:
    options: Any = {"lr": LR, "weight_decay": DECAY, "plan": subject.plan}
    if subject.device != "cpu":
        options["nonfinite"] = "skip"
    for kind in (NormedAdam, NormedSGD, DualizedSGD):
        yield kind.__name__, lambda kind=kind: kind(subject.named, **options).step


def modulas(subject: Subject) -> Iterator[tuple[str, Callable[[], Step]]]:
    """What modula's example script does between backward pass and next forward pass, with Adam."""
    shapes = {w.name: w.shape for w in subject.plan}
    if "token" in shapes and subject.dtype == torch.float32:
        yield "modula, Adam", lambda: modula_step(subject, shapes)


def modula_step(subject: Subject, shapes: dict[str, tuple[int, ...]]) -> Step:
    from modula.compound import GPT
    from modula.vector import Vector

    (vocab, width), (context, _) = shapes["token"], shapes["position"]
    depth, head = sum(name.endswith(".up") for name in shapes), width // HEADS
    model = GPT(vocab, context, HEADS, width, head, head, depth)
    weights = model.initialize(device=subject.device)
    if [tuple(weight.shape) for weight in weights] != [tuple(p.shape) for p in subject.params]:
        raise SystemExit("modula's GPT has other weights than this benchmark's")
    beta1, beta2, count = 0.9, 0.99, 0
    grad = Vector([p.grad for p in subject.params])
    with torch.no_grad():
        first, second = 0 * weights, 0 * weights

    @torch.no_grad()
    def step() -> None:
        nonlocal count, first, second, weights
        first += (1 - beta1) ** (count / (count + 1)) * (grad - first)
        second += (1 - beta2) ** (count / (count + 1)) * (grad**2 - second)
        update = first / second**0.5
        update.zero_nans()
        model.normalize(update, target_norm=LR)
        weights -= update
        model.regularize(weights, strength=LR * DECAY)
        count += 1

    return step


def installed(subject: Subject) -> Iterator[tuple[str, Callable[[], Step]]]:
    """Peers for a GPU, where their packages are."""
    inside, outside = subject.split()
    if subject.device == "cpu" or not inside:
        return
    rest = torch.optim.AdamW(outside, lr=LR, fused=True) if outside else None
    if version("heavyball"):
        from heavyball import ForeachMuon

        yield "heavyball Muon + AdamW", lambda: both(ForeachMuon(inside, lr=LR), rest)
    if version("dion"):
        from dion import Muon

        yield "dion Muon (Triton) + AdamW", lambda: both(Muon(inside, lr=LR, use_triton=True), rest)
    if version("gram-newton-schulz"):
        from gram_newton_schulz import GramNewtonSchulz

        yield "gram-newton-schulz + AdamW", lambda: both(Mapped(inside, GramNewtonSchulz()), rest)


class Mapped:
    """Momentum, somebody's orthogonalisation of each matrix, and the update: a bare Muon."""

    def __init__(self, params: list[nn.Parameter], function: Callable[[Tensor], Tensor]) -> None:
        self.params, self.function = params, function
        self.momentum = [torch.zeros_like(p) for p in params]

    @torch.no_grad()
    def step(self) -> None:
        grads: Any = [p.grad for p in self.params]
        torch._foreach_lerp_(self.momentum, grads, 0.05)
        for p, m in zip(self.params, self.momentum, strict=True):
            p.add_(self.function(m), alpha=-LR)


def version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def contenders(subject: Subject) -> dict[str, Callable[[], Step]]:
    """By name, what makes each optimizer; the first one is what the others are compared with."""
    makers = (torchs, modulas, ours, installed)
    return {name: make for maker in makers for name, make in maker(subject)}
