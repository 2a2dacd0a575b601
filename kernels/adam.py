"""Adam's updates, normed."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.optim.adam import adam

from .optimizer import NormedOptimizer
from .rule import Rule
from .weight import Weight


# modnorm: begin
class Adam(Rule):
    """Adam's update (Kingma & Ba 2015, arXiv 1412.6980).

    eps only guards 0/0; the bias corrections, one factor a weight, drop out.
    """

    moments = ("exp_avg", "exp_avg_sq")
    kernel = "adam"

    @classmethod
    def update(
        cls, group: Any, states: Any, grads: list[Tensor], views: list[Tensor]
    ) -> list[Tensor]:
        first, second = ([state[name] for state in states] for name in cls.moments)
        # torch's fused kernel makes both moments and u in one pass: Adam with lr -1 on zeros, and
        # zeros by a decay of all that the memory held.
        fused = views[0].device.type in ("cpu", "cuda") and hasattr(torch, "_fused_adamw_")
        run: Any = torch._fused_adamw_ if fused else partial(adam, decoupled_weight_decay=True)
        one = torch.ones((), device=views[0].device)
        run(
            views, grads, first, second, [], [one if fused else one.clone()] * len(views),
            lr=-1.0, beta1=group["betas"][0], beta2=group["betas"][1], eps=group["eps"],
            weight_decay=-1.0, amsgrad=False, maximize=False,
        )  # fmt: skip
        if group["eps"] < 1e-15:  # then float32 may not hold a moment that is divided by it
            for u in views:
                u.nan_to_num_(0.0, 0.0, 0.0)
        return views

    @classmethod
    def direction(cls, group: Any, state: Any, grad: Tensor | None) -> Tensor:
        beta1, beta2 = group["betas"]
        first, second = (state[name].double() for name in cls.moments)
        u: Tensor = first / (1 - beta1) / ((second / (1 - beta2)).sqrt() + group["eps"])
        return u


class NormedAdam(NormedOptimizer):
    """u is Adam's update (Kingma & Ba 2015, arXiv 1412.6980); see NormedOptimizer.

    eps only guards 0/0; the bias corrections, one factor a weight, drop out.
    """

    rule = Adam

    def __init__(
        self, params: Any, lr: float | Tensor | str = 0.4, betas: tuple[float, float] = (0.9, 0.99),
        eps: float = 1e-15, weight_decay: float = 0.0, nonfinite: str = "raise",
        missing: str = "raise", iterations: int = 1, plan: Iterable[Weight] | None = None,
        smoothness: float | str | None = None,
    ) -> None:  # fmt: skip
        super().__init__(
            params, plan, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay,
            nonfinite=nonfinite, missing=missing, iterations=iterations, smoothness=smoothness,
        )  # fmt: skip


# modnorm: end
