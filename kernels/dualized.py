"""Updates that are images under the duality map, instead of being brought to size."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from .optimizer import STATE_TYPES, NormedOptimizer, apply
from .plan import NORMS, level
from .polar import polar_update
from .schemes import BANDS, Scheme
from .state import Item
from .weight import Weight


# modnorm: begin
class DualizedOptimizer(NormedOptimizer):
    """u/‖u‖ is the image of u under the duality map of the norm (arXiv 2410.21265).

    Groups have an option steps: how many to take for a matrix, or None for what the plan says.
    """

    dual = True

    def match(self, whole: bool = False) -> None:
        super().match(whole)
        self._work: dict[Any, Tensor] = {}

    def _apply_stack(
        self, items: list[Item], states: Any, weights: Any, updates: Any, memory: Tensor
    ) -> None:
        (group, _, w), shape = items[0], (len(items), *items[0][2].shape)
        u = memory[: math.prod(shape)].view(shape)
        for view, update in zip(u.unbind(), updates, strict=True):
            if view.data_ptr() != update.data_ptr():
                view.copy_(update)
        _, top = level(u)
        moved = (top > 0) & (top < math.inf)
        self._mark(items, top, moved.flatten())
        self._factors.update(dict.fromkeys((w.name for _, _, w in items), 1.0))
        if w.norm == "spectral":
            targets, factor = [w.target for _, _, w in items], math.sqrt(w.shape[-2] / w.shape[-1])
            scheme, lr, decay = self._scheme(group, w), group["lr"], group["weight_decay"]
            if polar_update(u, scheme, factor, weights, lr, decay, targets):
                return
        left = self._sound(u, top)
        duals = self._dualize(group, w, u).unbind()
        if left is not None:
            self._apply_left(left, items, weights, duals, list(left.to(u.dtype).unbind()))
            return
        for (_, _, w), p, dual in zip(items, weights, duals, strict=True):
            apply(p, dual, 1.0, float(group["lr"]) * w.target, group["weight_decay"])

    def _scheme(self, group: Any, w: Weight) -> Scheme:
        scheme = self.plan.scheme(w.shape)
        return scheme if group["steps"] is None else scheme._replace(steps=group["steps"])

    def reach(self, group: Any, w: Weight) -> float:
        return BANDS[self._scheme(group, w).steps][1] if NORMS[w.norm].vector else 1.0

    def _dualize(self, group: Any, w: Weight, u: Tensor) -> Tensor:
        return NORMS[w.norm].dualize(u, self._scheme(group, w), self._work)

    def _scaled(self, group: Any, p: Tensor, w: Weight) -> Tensor:
        u = self._direction(group, p, w).to(STATE_TYPES[p.dtype], copy=True).unsqueeze(0)
        level(u)
        return self._dualize(group, w, u).double()


# modnorm: end
