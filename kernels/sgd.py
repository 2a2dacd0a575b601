"""Running averages of the gradients, normed or under the duality map."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from .dualized import DualizedOptimizer
from .optimizer import NormedOptimizer
from .rule import Rule
from .weight import Weight


# modnorm: begin
class SGD(Rule):
    """A running average of the gradients; with nesterov, the gradient counts once more."""

    moments = ("momentum",)
    kernel = "sgd"

    @classmethod
    def update(
        cls, group: Any, states: Any, grads: list[Tensor], views: list[Tensor]
    ) -> list[Tensor]:
        new, momentum = 1 - group["momentum"], [state["momentum"] for state in states]
        if not group.get("nesterov"):
            torch._foreach_lerp_(momentum, grads, new)
            return momentum
        for average, grad, view in zip(momentum, grads, views, strict=True):
            torch.lerp(average.lerp_(grad, new), grad, new, out=view)
        return views

    @classmethod
    def direction(cls, group: Any, state: Any, grad: Tensor | None) -> Tensor:
        u: Tensor = state["momentum"].double()
        if group.get("nesterov") and grad is not None:
            u = u.lerp(grad.double(), 1 - group["momentum"])  # not in the state
        return u


class NormedSGD(NormedOptimizer):
    """u is a running average of the gradients; see NormedOptimizer."""

    rule = SGD

    def __init__(
        self, params: Any, lr: float | Tensor | str = 0.4, momentum: float = 0.9,
        weight_decay: float = 0.0, nonfinite: str = "raise", missing: str = "raise",
        iterations: int = 1, plan: Iterable[Weight] | None = None,
        smoothness: float | str | None = None,
    ) -> None:  # fmt: skip
        super().__init__(
            params, plan, lr=lr, momentum=momentum, weight_decay=weight_decay,
            nonfinite=nonfinite, missing=missing, iterations=iterations, smoothness=smoothness,
        )  # fmt: skip


class DualizedSGD(DualizedOptimizer):
    """u/‖u‖ is the duality map of a running average of the gradients (arXiv 2410.21265).

    For matrices that is orthogonalisation, in six steps of full precision: singular values of a
    matrix with a condition number of up to 1000 end between 0.907 and 1.041. steps: 3 to 5 are
    cheaper, above all on a GPU, but end in wider bands (BANDS), for 3 in [0.592, 1.406].
    nesterov: as in Muon, the gradient counts once more.
    """

    rule = SGD

    def __init__(
        self, params: Any, lr: float | Tensor | str = 0.4, momentum: float = 0.8,
        nesterov: bool = True, weight_decay: float = 0.0, nonfinite: str = "raise",
        missing: str = "raise", steps: int | None = None, plan: Iterable[Weight] | None = None,
        smoothness: float | str | None = None,
    ) -> None:  # fmt: skip
        super().__init__(
            params, plan, lr=lr, momentum=momentum, nesterov=nesterov, weight_decay=weight_decay,
            nonfinite=nonfinite, missing=missing, steps=steps, smoothness=smoothness,
        )  # fmt: skip


# modnorm: end
