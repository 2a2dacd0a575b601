"""Every rule under every map: the size of steps, what is left alone, going on bit for bit."""

from __future__ import annotations

import copy
import math
from typing import Any

import guide
import pytest
import torch
from optimizer_cases import PLAN, everything, give_gradients, norm, parameters

from modnorm.kernels import NormedOptimizer, Rule
from modnorm.kernels.adam import Adam
from modnorm.kernels.dualized import DualizedOptimizer
from modnorm.kernels.plan import NORMS
from modnorm.kernels.sgd import SGD

LION = guide.module("kernels/lion.py", "modnorm.kernels")
RULES: dict[type[Rule], dict[str, Any]] = {
    Adam: {"betas": (0.9, 0.99), "eps": 1e-15},
    SGD: {"momentum": 0.9},
    LION.Lion: {"betas": (0.9, 0.99)},
}
"""With options."""
MAPS: dict[type[NormedOptimizer], dict[str, Any]] = {
    NormedOptimizer: {"iterations": 1},
    DualizedOptimizer: {"steps": None},
}
COMMON = {"lr": 0.1, "weight_decay": 0.0, "nonfinite": "raise", "missing": "raise"}
every = pytest.mark.parametrize("rule", RULES)
mapped = pytest.mark.parametrize("how", MAPS)


def made(rule: type[Rule], how: type[NormedOptimizer], named: Any, **options: Any) -> Any:
    kind = type(f"{how.__name__}Of{rule.__name__}", (how,), {"rule": rule})
    return kind(named, PLAN, **{**COMMON, **RULES[rule], **MAPS[how], **options})


def go_on(optimizer: Any, named: Any, steps: range) -> None:
    for step in steps:
        give_gradients(named, step)
        optimizer.step()


@every
@mapped
def test_a_step_has_its_targets_size(rule: Any, how: Any) -> None:
    named = parameters()
    optimizer = made(rule, how, named)
    for step in range(4):
        before = {name: p.detach().clone() for name, p in named}
        go_on(optimizer, named, range(step, step + 1))
        slack = optimizer.slack()
        for w, (name, p) in zip(PLAN, named, strict=True):
            size = norm(w, p.detach() - before[name]) / 0.1
            if not w.target:
                assert size == 0
            elif NORMS[w.norm].vector:
                low, high = (0.9, 1.05) if optimizer.dual else (1 - 1e-4, 2)
                assert low <= size / w.target <= high, (name, step)
                assert size / w.target == pytest.approx(slack[name], rel=1e-3)
            else:
                assert size == pytest.approx(w.target, rel=1e-4), (name, step)


@every
@mapped
def test_a_run_goes_on_bit_for_bit(rule: Any, how: Any) -> None:
    whole, first = parameters(), parameters()
    unbroken, begun = made(rule, how, whole), made(rule, how, first)
    go_on(unbroken, whole, range(6))
    go_on(begun, first, range(3))
    again = parameters()
    for (_, p), (_, q) in zip(again, first, strict=True):
        p.data.copy_(q)
    resumed = made(rule, how, again)
    resumed.load_state_dict(copy.deepcopy(begun.state_dict()))
    go_on(resumed, again, range(3, 6))
    pairs = zip(everything(unbroken, whole), everything(resumed, again), strict=True)
    assert all(torch.equal(x, y) for x, y in pairs)


@every
@mapped
def test_what_is_not_finite_leaves_its_weight_alone(rule: Any, how: Any) -> None:
    named = parameters()
    optimizer = made(rule, how, named, nonfinite="skip")
    go_on(optimizer, named, range(2))
    before = {name: p.detach().clone() for name, p in named}
    give_gradients(named, 2)
    dict(named)["a.weight"].grad.view(-1)[0] = math.nan
    optimizer.step()
    assert optimizer.skipped == {"a.weight": 1}
    for w, (name, p) in zip(PLAN, named, strict=True):
        assert p.isfinite().all()
        assert torch.equal(p, before[name]) == (name == "a.weight" or not w.target)


@every
@mapped
def test_decay_shrinks_and_zero_gradients_move_nothing(rule: Any, how: Any) -> None:
    named = parameters()
    optimizer = made(rule, how, named, weight_decay=0.5)
    before = {name: p.detach().clone() for name, p in named}
    for _, p in named:
        p.grad = torch.zeros_like(p)
    optimizer.step()
    for w, (name, p) in zip(PLAN, named, strict=True):
        torch.testing.assert_close(p.detach(), before[name] * (1 - 0.1 * w.target * 0.5))


def test_lion_is_lion() -> None:
    """Against its definition, two steps of one weight without a norm."""
    p, rule = torch.randn(5, 4, generator=torch.Generator().manual_seed(0)), LION.Lion
    group, state, average = {"betas": (0.9, 0.99)}, {"exp_avg": torch.zeros(5, 4)}, 0.0
    for step in range(3):
        g = torch.randn(5, 4, generator=torch.Generator().manual_seed(step))
        (u,) = rule.update(group, [state], [g], [torch.empty_like(p)])
        assert torch.equal(u, torch.sign(0.9 * average + 0.1 * g))
        assert torch.equal(rule.direction(group, state, g), u.double())
        average = 0.99 * average + 0.01 * g


def test_a_normed_lion_trains() -> None:
    """The class of the guide, with its own defaults."""
    draw = torch.Generator().manual_seed(0)
    named = parameters()
    goal = {name: torch.randn(p.shape, generator=draw) for name, p in named}
    optimizer = LION.NormedLion(named, lr=0.1, plan=PLAN)
    losses = []
    for step in range(60):
        loss = sum((p - goal[name]).square().mean() for name, p in named)
        losses.append(float(loss))
        optimizer.zero_grad()
        loss.backward()
        optimizer.param_groups[0]["lr"] = 0.1 * (1 - step / 60)
        optimizer.step()
    assert losses[-1] < 0.7 * losses[0]
