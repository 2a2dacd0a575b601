"""Variants of DualizedSGD that were tried and are not in the generated file, for sweeps.

`--optimizer variants:rows` and the like, with this folder on PYTHONPATH.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from modnorm.sweep.parts import roles


def rows(module: Any, model: nn.Module, lr: float, beta2: float = 0.95, **options: Any) -> Any:
    """A second moment per row after the map, as in NorMuon (arXiv 2510.05491).

    Rows of a matrix's dual are divided by a running RMS of their entries, and the whole is brought
    back to the RMS that it had.
    """

    class Rows(module.DualizedSGD):  # type: ignore[misc]
        def _dualize(self, group: Any, w: Any, u: Tensor) -> Tensor:
            dual: Tensor = super()._dualize(group, w, u)
            if w.norm != "spectral":
                return dual
            kept: dict[str, Tensor] = self.__dict__.setdefault("rows", {})
            square = dual.square().mean(-1, keepdim=True)
            moment = kept.setdefault(w.name, torch.zeros_like(square)).lerp_(square, 1 - beta2)
            before = torch.linalg.vector_norm(dual, dim=(1, 2), keepdim=True)
            dual = dual / moment.sqrt().clamp_min(1e-12)
            return dual * (before / torch.linalg.vector_norm(dual, dim=(1, 2), keepdim=True))

    return Rows(model.named_parameters(), lr=lr, **options)


def project(module: Any, model: nn.Module, lr: float, radius: float = 1.0, **options: Any) -> Any:
    """Weights are scaled back to norm `radius` (that at the start is 1) where they exceed it."""

    class Projected(module.DualizedSGD):  # type: ignore[misc]
        @torch.no_grad()
        def step(self, closure: Any = None) -> Any:
            loss = super().step(closure)
            for _, p, w in self._items:
                if w.norm == "spectral":
                    size = torch.linalg.matrix_norm(p, 2) / (p.shape[0] / p.shape[1]) ** 0.5
                    p.div_((size / radius).clamp_min(1))
                else:
                    p.div_((p.square().mean(-1, keepdim=True).sqrt() / radius).clamp_min(1))
            return loss

    return Projected(model.named_parameters(), lr=lr, **options)


def parts(
    module: Any, model: nn.Module, lr: float, first: float = 1.0, last: float = 1.0, **options: Any
) -> Any:
    """The first and the last part's targets multiplied, the body's as they are."""
    factors = {"first": first, "body": 1.0, "last": last}
    plan = [
        record._replace(target=record.target * factors[part])
        for part, record in zip(roles(module.PLAN), module.PLAN, strict=True)
    ]
    return module.DualizedSGD(model.named_parameters(), lr=lr, plan=plan, **options)
