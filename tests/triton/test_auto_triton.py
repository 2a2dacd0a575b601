"""lr="auto" where there are kernels: normalising optimizers leave them, duality maps use them."""

from __future__ import annotations

from typing import Any

import pytest
import test_polar_optimizer_triton as dualized
import torch
from test_launch_triton import both, parameters, run
from torch import Tensor, nn

from modnorm.kernels import DualizedSGD, NormedOptimizer, polar, polar_launch

pytestmark = pytest.mark.triton
tables = dualized.tables  # a fixture
AUTO: dict[str, Any] = {"lr": "auto", "smoothness": 100.0}


@both
def test_normalising_optimizers_take_the_plain_way(
    kind: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    there, plain = parameters(), parameters()
    first = run(kind, there, 3, **AUTO)
    assert not first._launched
    monkeypatch.setattr(NormedOptimizer, "launches", None)
    second = run(kind, plain, 3, **AUTO)
    assert first.param_groups[0]["step_size"] == second.param_groups[0]["step_size"] > 0
    assert all(torch.equal(p, q) for (_, p), (_, q) in zip(there, plain, strict=True))


def dual_step() -> tuple[float, list[Tensor]]:
    draw = torch.Generator().manual_seed(1)
    named = [(w.name, nn.Parameter(torch.randn(w.shape, generator=draw))) for w in dualized.PLAN]
    optimizer = DualizedSGD(named, plan=dualized.PLAN, weight_decay=0.1, steps=6, **AUTO)
    for _, p in named:
        p.grad = torch.randn(p.shape, generator=draw)
    optimizer.step()
    return optimizer.param_groups[0]["step_size"], [p.detach() for _, p in named]


def test_kernels_of_the_duality_map_write_what_the_step_is_measured_by(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: list[bool] = []

    def counted(*arguments: Any) -> bool:
        calls.append(True)
        return polar_launch.polar_in_place(*arguments)

    monkeypatch.setattr(polar, "POLAR_ON_GPU", [counted])
    size, found = dual_step()
    assert calls
    monkeypatch.setattr(polar, "POLAR_ON_GPU", [])
    wanted_size, wanted = dual_step()
    assert size == pytest.approx(wanted_size, rel=1e-4)
    assert size > 0
    for x, y, w in zip(found, wanted, dualized.PLAN, strict=True):
        assert (x - y).square().mean().sqrt() < 2e-4 * size * w.target
