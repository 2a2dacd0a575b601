"""What the optimizers promise about a step: sizes, order, options, schedules."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from optimizer_cases import KINDS, PLAN, everything, give_gradients, norm, parameters, run, values
from torch import Tensor, nn

from modnorm.kernels import DualizedSGD, NormedAdam
from modnorm.kernels import optimizer as runtime
from modnorm.kernels.plan import NORMS
from modnorm.kernels.weight import Weight


@pytest.mark.parametrize("kind", KINDS)
def test_each_weight_moves_by_lr_times_target(kind: Any) -> None:
    """Under a constant gradient, so that the power iteration converges."""
    named = parameters()
    optimizer = kind(named, lr=0.1, plan=PLAN)
    for _ in range(200):
        before = values(named)
        give_gradients(named)
        optimizer.step()
    for w, (name, p) in zip(PLAN, named, strict=True):
        moved = norm(w, before[name] - p.detach()) / 0.1
        if not NORMS[w.norm].vector:
            assert moved == pytest.approx(w.target, rel=1e-4)
        elif kind is DualizedSGD:
            assert 0.907 * w.target <= moved <= 1.041 * w.target
        else:
            assert w.target * (1 - 1e-4) <= moved <= 1.1 * w.target


@pytest.mark.parametrize("kind", KINDS)
def test_a_frozen_weight_has_no_state_and_never_changes(kind: Any) -> None:
    named = parameters()
    start = values(named)["still.weight"]
    optimizer = run(kind, named, 3, weight_decay=0.5)
    assert torch.equal(dict(named)["still.weight"], start)
    assert not optimizer.state.get(dict(named)["still.weight"])


@pytest.mark.parametrize("kind", KINDS)
def test_weight_decay_comes_first_and_is_relative_to_the_target(kind: Any) -> None:
    plain, decayed = parameters(), parameters()
    start = values(plain)
    run(kind, plain, 1)
    run(kind, decayed, 1, weight_decay=2.0)
    for w, (name, p) in zip(PLAN, plain, strict=True):
        expected = p.detach() - 0.1 * w.target * 2.0 * start[name]
        torch.testing.assert_close(dict(decayed)[name].detach(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scale", [1e-10, 1e10])
def test_the_scale_of_the_gradients_does_not_matter(kind: Any, scale: float) -> None:
    one, other = parameters(), parameters()
    run(kind, one, 5)
    run(kind, other, 5, scale=scale)
    for (_, p), (_, q) in zip(one, other, strict=True):
        torch.testing.assert_close(p.detach(), q.detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_two_runs_are_equal_bit_for_bit(kind: Any) -> None:
    one, other = parameters(), parameters()
    first, second = run(kind, one, 4), run(kind, other, 4)
    for x, y in zip(everything(first, one), everything(second, other), strict=True):
        assert torch.equal(x, y)


def test_betas_are_read_at_every_step() -> None:
    named, plain = parameters(), parameters()
    optimizer = NormedAdam(named, lr=0.1, plan=PLAN)
    for step in range(3):
        optimizer.param_groups[0]["betas"] = (0.5, 0.6)
        give_gradients(named, step)
        optimizer.step()
    run(NormedAdam, plain, 3, betas=(0.5, 0.6))
    assert all(torch.equal(p, q) for (_, p), (_, q) in zip(named, plain, strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_more_weights_than_a_batch_holds(kind: Any) -> None:
    """Five weights of 2^17 entries make three batches on a CPU; each moves as if alone."""
    plan = tuple(Weight(f"w{i}", "Linear", (256, 512), "spectral", 1.0, 0.5) for i in range(5))
    together = parameters(plan=plan)
    optimizer = kind(together, lr=0.1, plan=plan)
    for _ in range(2):
        give_gradients(together)
        optimizer.step()
    for i, (w, (_, p)) in enumerate(zip(plan, together, strict=True)):
        alone = [parameters(plan=plan)[i]]
        single = kind(alone, lr=0.1, plan=(w,))
        for _ in range(2):
            assert p.grad is not None
            alone[0][1].grad = p.grad.clone()
            single.step()
        torch.testing.assert_close(p, alone[0][1], rtol=1e-5, atol=1e-6)


def test_the_fused_and_the_public_adam_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    named, plain = parameters(), parameters()
    run(NormedAdam, named, 3)
    monkeypatch.delattr(torch, "_fused_adamw_")
    assert not hasattr(runtime.torch, "_fused_adamw_")
    run(NormedAdam, plain, 3)
    for (_, p), (_, q) in zip(named, plain, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)


def test_dualized_keeps_nothing_but_the_momentum() -> None:
    named = parameters()
    optimizer = run(DualizedSGD, named, 1)
    for w, (_, p) in zip(PLAN, named, strict=True):
        assert set(optimizer.state[p]) == ({"momentum"} if w.target else set())


def test_momentum_is_not_overwritten_by_what_is_made_of_it() -> None:
    for options in ({"nesterov": False}, {"nesterov": True}):
        named = parameters()
        optimizer = run(DualizedSGD, named, 1, momentum=0.75, **options)
        for w, (_, p) in zip(PLAN, named, strict=True):
            if w.target:
                assert p.grad is not None
                torch.testing.assert_close(optimizer.state[p]["momentum"], 0.25 * p.grad)


def test_closure_schedulers_and_tensor_lr() -> None:
    named = parameters()
    optimizer = NormedAdam(named, lr=torch.tensor(0.1), plan=PLAN)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = sum((p**2).sum() for _, p in named)
        assert isinstance(loss, Tensor)
        loss.backward()
        return loss

    first = optimizer.step(closure)
    assert first is not None
    assert float(optimizer.step(closure).detach()) < float(first.detach())
    for kind in KINDS:
        optimizer = kind(named, lr=0.1, plan=PLAN)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.4, total_steps=5)
        rates = []
        for step in range(4):
            give_gradients(named, step)
            optimizer.step()
            schedule.step()
            rates.append(optimizer.param_groups[0]["lr"])
        assert len(set(rates)) == 4


def test_lr_zero_changes_no_weight() -> None:
    named = parameters()
    start = values(named)
    run(NormedAdam, named, 2, lr=0.0, weight_decay=1.0)
    assert all(torch.equal(p, start[name]) for name, p in named)


def test_a_small_model_trains() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 32, bias=False), nn.Tanh(), nn.Linear(32, 1, bias=False))
    plan = (
        Weight("0.weight", "Linear", (32, 8), "spectral", 1.0, 0.5),
        Weight("2.weight", "Linear", (1, 32), "spectral", 1.0, 0.5),
    )
    x = torch.randn(256, 8)
    y = torch.tanh(x @ torch.randn(8, 1))
    for kind in KINDS:
        for p in model.parameters():
            nn.init.orthogonal_(p)
        optimizer = kind(model.named_parameters(), lr=0.05, plan=plan)
        losses = []
        for step in range(150):
            optimizer.param_groups[0]["lr"] = 0.05 * (1 - step / 150)
            loss = nn.functional.mse_loss(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
        assert losses[-1] < 0.1 * losses[0]


@pytest.mark.parametrize("kind", KINDS)
def test_a_learning_rate_out_of_habit_gets_a_warning(kind: Any) -> None:
    with pytest.warns(UserWarning, match=r"lr=0\.001 is far below any that works"):
        kind(parameters(), lr=1e-3, plan=PLAN)
    assert kind(parameters(), plan=PLAN).param_groups[0]["lr"] == 0.4
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for lr in (0.0, 0.01, 0.4):  # 0 is where a warm-up may begin
            kind(parameters(), lr=lr, plan=PLAN)
