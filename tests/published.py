"""Optimizers as people publish them, small: Muons that differ in what they take for a matrix."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor


def newton_schulz(g: Tensor, steps: int = 5) -> Tensor:
    """About the orthogonal factor of each matrix in a stack (Jordan et al. 2024)."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = g.mT if g.size(-2) > g.size(-1) else g
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if g.size(-2) > g.size(-1) else x


def moved(group: dict[str, Any]) -> list[Tensor]:
    return [p for p in group["params"] if p.grad is not None]


class Muon(torch.optim.Optimizer):
    """`mapped` makes an update of the momentum; by default as in KellerJordan/Muon.

    There a kernel is flattened to (out, in·k·k), and the scale is from the last two axes of what
    comes in, which of a kernel are its sides.
    """

    def __init__(
        self, params: Any, lr: float = 0.02, momentum: float = 0.95, weight_decay: float = 0.0,
        **options: Any,
    ) -> None:  # fmt: skip
        own = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, **options}
        super().__init__(params, own)

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for p, u in self.updates(group):
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.add_(u, alpha=-group["lr"])

    def updates(self, group: dict[str, Any]) -> list[tuple[Tensor, Tensor]]:
        return [(p, self.mapped(p, self.momentum(p, group))) for p in moved(group)]

    def momentum(self, p: Tensor, group: dict[str, Any]) -> Tensor:
        """With Nesterov's look ahead."""
        assert p.grad is not None
        state = self.state[p]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(p)
        buffer: Tensor = state["momentum_buffer"]
        buffer.lerp_(p.grad, 1 - group["momentum"])
        return p.grad.lerp(buffer, group["momentum"])

    def mapped(self, p: Tensor, u: Tensor) -> Tensor:
        scale = max(1, u.size(-2) / u.size(-1)) ** 0.5
        return newton_schulz(u.flatten(1)).view_as(u) * scale


class KernelMuon(Muon):
    """The scale is that of the flattened kernel."""

    def mapped(self, p: Tensor, u: Tensor) -> Tensor:
        return super().mapped(p, u.flatten(1)).view_as(u)


class StackMuon(Muon):
    """One matrix for each index of the first axes."""

    def mapped(self, p: Tensor, u: Tensor) -> Tensor:
        return newton_schulz(u) * max(1, u.size(-2) / u.size(-1)) ** 0.5


class LastAxisMuon(Muon):
    """One matrix of all axes but the last, and that."""

    def mapped(self, p: Tensor, u: Tensor) -> Tensor:
        return super().mapped(p, u.flatten(0, -2)).view_as(u)


class TransposedMuon(Muon):
    """Of what is stored as (in, out)."""

    def mapped(self, p: Tensor, u: Tensor) -> Tensor:
        return super().mapped(p, u.mT).mT


class WideMuon(Muon):
    """Entries have an RMS near 1, as those of Adam's updates."""

    def mapped(self, p: Tensor, u: Tensor) -> Tensor:
        return newton_schulz(u) * max(u.shape) ** 0.5


class SplitMuon(Muon):
    """Groups with `rows`, lists of indices, have a matrix for each of these."""

    def updates(self, group: dict[str, Any]) -> list[tuple[Tensor, Tensor]]:
        found = super().updates(group)
        for p, u in found if group.get("rows") else ():
            g = self.state[p]["momentum_buffer"].lerp(p.grad, 1 - group["momentum"])
            for rows in group["rows"]:
                u[rows] = self.mapped(p, g[rows])
        return found


class BatchMuon(Muon):
    """Parameters of one shape together; `batched` makes their updates."""

    batched: Callable[[Tensor], Tensor]

    def updates(self, group: dict[str, Any]) -> list[tuple[Tensor, Tensor]]:
        shapes: dict[torch.Size, list[Tensor]] = {}
        for p in moved(group):
            shapes.setdefault(p.shape, []).append(p)
        found: list[tuple[Tensor, Tensor]] = []
        for many in shapes.values():
            x = torch.stack([self.momentum(p, group) for p in many])
            found += zip(many, self.batched(x), strict=True)
        return found


class LayersAsRows(BatchMuon):
    """Layers' kernels one below the other, as one matrix."""

    @staticmethod
    def batched(x: Tensor) -> Tensor:
        return newton_schulz(x.flatten(0, 1).flatten(1)).view_as(x)


class LayersApart(BatchMuon):
    """Layers' kernels as a batch of matrices."""

    @staticmethod
    def batched(x: Tensor) -> Tensor:
        return newton_schulz(x.flatten(2)).view_as(x)


class MuonWithAdam(torch.optim.Optimizer):
    """One optimizer: Muon in groups with `use_muon`, Adam in the others.

    clip: the largest norm of all updates together, of Muon's as they are mapped and of gradients.
    """

    def __init__(self, params: Any, clip: float | None = None) -> None:
        self.clip = clip
        super().__init__(params, {"lr": 0.02, "use_muon": False, "weight_decay": 0.0})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        own = [(group, p) for group in self.param_groups for p in moved(group)]
        for group, p in own:
            if group["use_muon"]:
                p.grad = newton_schulz(p.grad) * max(1, p.size(-2) / p.size(-1)) ** 0.5
        if self.clip is not None:
            torch.nn.utils.clip_grad_norm_([p for _, p in own], self.clip)
        for group, p in own:
            u = p.grad
            if not group["use_muon"]:
                state = self.state[p]
                if not state:
                    state["step"], state["m"], state["v"] = 0, u * 0, u * 0
                state["step"] += 1
                state["m"].lerp_(u, 0.1)
                state["v"].lerp_(u * u, 0.05)
                m = state["m"] / (1 - 0.9 ** state["step"])
                u = m / ((state["v"] / (1 - 0.95 ** state["step"])).sqrt() + 1e-10)
            p.mul_(1 - group["lr"] * group["weight_decay"]).add_(u, alpha=-group["lr"])


class Lion(torch.optim.Optimizer):
    """The sign of an interpolated momentum (Chen et al. 2023)."""

    def __init__(self, params: Any, lr: float = 1e-3, weight_decay: float = 0.0) -> None:
        super().__init__(params, {"lr": lr, "betas": (0.9, 0.99), "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            one, two = group["betas"]
            for p in moved(group):
                state = self.state[p]
                if not state:
                    state["exp_avg"] = torch.zeros_like(p)
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.add_(state["exp_avg"].lerp(p.grad, 1 - one).sign(), alpha=-group["lr"])
                state["exp_avg"].lerp_(p.grad, 1 - two)


__all__: Sequence[str] = [
    "KernelMuon", "LastAxisMuon", "LayersApart", "LayersAsRows", "Lion", "Muon", "MuonWithAdam",
    "SplitMuon", "StackMuon", "TransposedMuon", "WideMuon", "newton_schulz",
]  # fmt: skip
