"""Steps of power iteration, and by how much updates miss their size."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from optimizer_cases import KINDS, PLAN, everything, give_gradients, norm, parameters, run, values

from modnorm.kernels import DualizedSGD, NormedAdam, NormedSGD
from modnorm.kernels.weight import Weight

ESTIMATED = {"conv.weight", "a.weight", "b.weight", "heads.weight"}
POWER: list[Any] = [NormedAdam, NormedSGD]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_slack_is_the_size_of_the_last_update(kind: Any, dtype: torch.dtype) -> None:
    named = parameters(dtype)
    optimizer = kind(named, lr=0.1, plan=PLAN)
    for step in range(4):
        before = values(named)
        give_gradients(named, step)
        optimizer.step()
        slack = optimizer.slack()
        assert slack.keys() == ESTIMATED
        for w, (name, p) in zip(PLAN, named, strict=True):
            if name in ESTIMATED:
                moved = norm(w, before[name] - p.detach()) / (0.1 * w.target)
                tolerance = 1e-10 if dtype == torch.float64 else 1e-5
                assert slack[name] == pytest.approx(moved, rel=tolerance)
                if kind is DualizedSGD:
                    assert 0.907 <= slack[name] <= 1.041
                else:
                    assert slack[name] >= 1 - tolerance


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_asking_for_slack_changes_nothing(kind: Any, dtype: torch.dtype) -> None:
    named = parameters(dtype)
    optimizer = run(kind, named, 2)
    before = everything(optimizer, named)
    assert optimizer.slack() == optimizer.slack()
    assert all(map(torch.equal, before, everything(optimizer, named)))


def test_slack_of_dualized_without_nesterov_needs_no_gradient() -> None:
    named = parameters(torch.float64)
    optimizer = run(DualizedSGD, named, 3, nesterov=False)
    before = optimizer.slack()
    optimizer.zero_grad()
    assert optimizer.slack() == before


@pytest.mark.parametrize("kind", POWER)
def test_more_iterations_never_estimate_worse(kind: Any) -> None:
    """From one vector the estimates grow with the iterations, up to the norm."""
    found = []
    for n in (1, 2, 4, 10):
        named = parameters()
        optimizer = run(kind, named, 1)
        optimizer.param_groups[0]["iterations"] = n
        give_gradients(named, 1)
        optimizer.step()
        found.append(optimizer.slack())
    for name in ESTIMATED:
        sizes = [slack[name] for slack in found]
        assert all(a >= b * (1 - 1e-6) for a, b in pairwise(sizes))
        assert sizes[0] > sizes[-1] >= 1 - 1e-5


@pytest.mark.parametrize("kind", POWER)
def test_the_slack_goes_when_the_gradient_stays(kind: Any) -> None:
    named = parameters()
    optimizer = kind(named, lr=0.1, plan=PLAN)
    for _ in range(150):
        give_gradients(named)
        optimizer.step()
    assert all(1 - 1e-6 <= x <= 1.1 for x in optimizer.slack().values())


def test_slack_on_noise_is_small() -> None:
    """What docs/generated-file.md says of the usual size."""
    plan = tuple(Weight(f"w{i}", "Linear", (96, 64), "spectral", 1.0, 0.5) for i in range(4))
    sizes = {}
    for iterations in (1, 2):
        named = parameters(plan=plan)
        optimizer = NormedAdam(named, lr=0.1, plan=plan, iterations=iterations)
        seen = []
        for step in range(60):
            give_gradients(named, step)
            optimizer.step()
            seen += optimizer.slack().values() if step >= 20 else []
        sizes[iterations] = sum(seen) / len(seen)
        assert max(seen) < 1.3
    assert 1.05 < sizes[1] < 1.14
    assert 0.3 < (sizes[2] - 1) / (sizes[1] - 1) < 0.7


def test_iterations_are_read_at_every_step_and_for_each_group() -> None:
    named, plain = parameters(), parameters()
    groups = [{"params": named[:3], "iterations": 2}, {"params": named[3:]}]
    optimizer = NormedAdam(groups, lr=0.1, plan=PLAN)
    optimizer.param_groups[1]["iterations"] = 2
    give_gradients(named)
    optimizer.step()
    run(NormedAdam, plain, 1, iterations=2)
    assert all(torch.equal(p, q) for (_, p), (_, q) in zip(named, plain, strict=True))


@pytest.mark.parametrize("kind", POWER)
def test_resuming_keeps_the_iterations(kind: Any) -> None:
    straight, named, resumed = parameters(), parameters(), parameters()
    run(kind, straight, 4, iterations=3)
    part, other = run(kind, named, 2, iterations=3), kind(resumed, lr=0.1, plan=PLAN)
    for (_, p), (_, q) in zip(named, resumed, strict=True):
        q.data = p.data.clone()
    other.load_state_dict(part.state_dict())
    assert other.slack() == {}  # it does not know the last update
    for step in (2, 3):
        give_gradients(resumed, step)
        other.step()
    assert all(torch.equal(p, q) for (_, p), (_, q) in zip(straight, resumed, strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_slack_of_what_did_not_move(kind: Any) -> None:
    named = parameters()
    optimizer = kind(named, lr=0.1, plan=PLAN, missing="skip")
    assert optimizer.slack() == {}
    give_gradients(named)
    a = dict(named)["a.weight"]
    a.grad = None
    optimizer.step()
    assert optimizer.slack().keys() == ESTIMATED - {"a.weight"}
    a.grad = torch.zeros_like(a)
    optimizer.step()
    assert optimizer.slack()["a.weight"] == 0


@pytest.mark.parametrize("value", [0, 11, 2.5, "two", None, math.nan])
@pytest.mark.parametrize("kind", POWER)
def test_iterations_out_of_range(kind: Any, value: Any) -> None:
    message = "iterations must be a whole number, at least 1 and below 11, not"
    with pytest.raises(ValueError, match=message):
        kind(parameters(), lr=0.1, plan=PLAN, iterations=value)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_slack_is_zero_where_an_update_rounds_away(kind: Any, dtype: torch.dtype) -> None:
    """Below the resolution of a weight nothing moves, and near it only its smallest entries do."""
    least = 2.0**-60 if dtype == torch.float64 else 2.0**-30
    plan = tuple(
        Weight(name, "Linear", (16, 16), "spectral", 1.0, target)
        for name, target in (("a", 1.0), ("b", least))
    )
    named = parameters(dtype, plan=plan)
    for _, p in named:
        p.data.fill_(0.5)
    optimizer = kind(named, lr=0.1, plan=plan)
    for step in range(3):
        give_gradients(named, step)
        optimizer.step()
        slack = optimizer.slack()
        assert slack["a"] > 0.9
        assert slack["b"] == 0
    still = dict(named)["b"]
    assert torch.equal(still, torch.full_like(still, 0.5))
