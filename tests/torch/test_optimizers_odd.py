"""Odd gradients (zero, huge, NaN, absent, sparse) and odd tensors (16 bits, transposed)."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from optimizer_cases import KINDS, PLAN, everything, give_gradients, norm, parameters, run, values
from torch import Tensor, nn

from modnorm.kernels import NormedAdam, NormedSGD
from modnorm.kernels.weight import Weight


@pytest.mark.parametrize("kind", KINDS)
def test_zero_gradients(kind: Any) -> None:
    """Nothing moves, nothing becomes NaN, and the next steps go on as if nothing had happened."""
    named, plain = parameters(), parameters()
    optimizer = kind(named, lr=0.1, plan=PLAN)
    start = everything(optimizer, named)
    give_gradients(named, scale=0.0)
    optimizer.step()
    for x, y in zip(start, everything(optimizer, named), strict=True):
        assert torch.equal(x, y)
    for step in range(3):
        give_gradients(named, step)
        optimizer.step()
    run(kind, plain, 3)
    for (_, p), (_, q) in zip(named, plain, strict=True):
        assert torch.equal(p, q)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scale", [1e-45, 1e-42, 1e-38, 1e-30, 1e-20, 1e18])
def test_extreme_gradients_stay_finite(kind: Any, scale: float) -> None:
    named = parameters()
    optimizer = kind(named, lr=0.1, plan=PLAN)
    for step in range(4):
        before = values(named)
        give_gradients(named, step, scale)
        optimizer.step()
        for w, (name, p) in zip(PLAN, named, strict=True):
            assert p.isfinite().all()
            moved = norm(w, before[name] - p.detach()) / 0.1
            # One step of power iteration overshoots, here by less than 5.
            assert moved <= 5 * w.target + 1e-4
    assert all(x.isfinite().all() for x in everything(optimizer, named))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e20, -3e38])
def test_nonfinite_raises_before_anything_is_changed(kind: Any, value: float) -> None:
    named = parameters()
    optimizer = run(kind, named, 2)
    give_gradients(named, 2)
    start = everything(optimizer, named)
    for name in ("embed.weight", "b.weight"):
        grad = dict(named)[name].grad
        assert grad is not None
        grad.view(-1)[3] = value
    with pytest.raises(FloatingPointError, match=r"embed\.weight, b\.weight\..*nonfinite='skip'"):
        optimizer.step()
    for x, y in zip(start, everything(optimizer, named), strict=True):
        assert torch.equal(x, y)
    assert optimizer.skipped == {}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", [math.nan, math.inf, 1e20])
def test_nonfinite_skip_leaves_out_exactly_those_weights(kind: Any, value: float) -> None:
    named, plain = parameters(), parameters()
    options = {"nonfinite": "skip", "missing": "skip", "weight_decay": 0.1}
    optimizer, other = run(kind, named, 2, **options), run(kind, plain, 2, **options)
    for count in (1, 2):
        give_gradients(named, 2)
        give_gradients(plain, 2)
        bad, same = dict(named)["a.weight"], dict(plain)["a.weight"]
        assert bad.grad is not None
        bad.grad[1, 2] = value
        same.grad = None
        optimizer.step()
        other.step()
        assert optimizer.skipped == {"a.weight": count}
        pairs = zip(everything(optimizer, named), everything(other, plain), strict=True)
        assert all(torch.equal(x, y) for x, y in pairs)
    give_gradients(named, 3)
    give_gradients(plain, 3)
    optimizer.step()
    other.step()
    assert all(torch.equal(p, q) for (_, p), (_, q) in zip(named, plain, strict=True))


def test_nonfinite_is_an_option_of_each_group() -> None:
    named = parameters()
    groups = [{"params": named[:3], "nonfinite": "skip"}, {"params": named[3:]}]
    optimizer = NormedAdam(groups, lr=0.1, plan=PLAN)
    give_gradients(named)
    for name in ("a.weight", "b.weight"):
        dict(named)[name].grad = torch.full((5, 4), math.nan)
    with pytest.raises(FloatingPointError, match=r"square: b\.weight\."):
        optimizer.step()
    assert optimizer.skipped == {}


def test_a_large_gradient_is_fine_in_float64() -> None:
    named = parameters(torch.float64)
    run(NormedSGD, named, 2, scale=1e100)
    assert all(p.isfinite().all() for _, p in named)
    with pytest.raises(FloatingPointError, match="too large to square"):
        run(NormedSGD, named, 1, scale=1e160)


def test_a_float16_gradient_whose_norm_float16_can_not_hold() -> None:
    plan = (Weight("w", "Bias", (200_000,), "rms", 1.0, 1.0),)
    named = parameters(torch.float16, plan)
    named[0][1].grad = torch.full((200_000,), 1000.0, dtype=torch.float16)
    before = named[0][1].detach().clone()
    NormedAdam(named, lr=0.5, plan=plan).step()
    torch.testing.assert_close(named[0][1].detach(), before - 0.5, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_weights_without_a_gradient_are_left_alone(kind: Any) -> None:
    named = parameters()
    optimizer = run(kind, named, 2, weight_decay=0.1, missing="skip")
    start = values(named), {n: {**optimizer.state[p]} for n, p in named}
    kept = {n: {k: x.clone() for k, x in s.items()} for n, s in start[1].items()}
    give_gradients(named, 2)
    dict(named)["a.weight"].grad = None
    dict(named)["scale.weight"].requires_grad_(False)
    optimizer.step()
    for name in ("a.weight", "scale.weight"):
        p = dict(named)[name]
        assert torch.equal(p, start[0][name])
        assert all(torch.equal(x, kept[name][k]) for k, x in optimizer.state[p].items())
    assert not torch.equal(dict(named)["b.weight"], start[0]["b.weight"])
    dict(named)["scale.weight"].requires_grad_(True)
    give_gradients(named, 3)
    optimizer.step()
    assert not torch.equal(dict(named)["scale.weight"], start[0]["scale.weight"])


def test_no_gradient_at_all() -> None:
    named = parameters()
    optimizer, start = NormedAdam(named, lr=0.1, plan=PLAN), values(named)
    with pytest.raises(ValueError, match=r"no gradient for embed.*backward\(\) was not called"):
        optimizer.step()
    optimizer.param_groups[0]["missing"] = "skip"
    optimizer.step()
    assert all(torch.equal(p, start[name]) for name, p in named)


def test_a_parameter_frozen_at_first_has_no_state_until_it_is_used() -> None:
    named = parameters()
    for _, p in named[2:]:
        p.requires_grad_(False)
    optimizer = NormedAdam(named, lr=0.1, plan=PLAN)
    assert not any(optimizer.state.get(p) for _, p in named[2:])
    give_gradients(named)
    optimizer.step()
    other = parameters()
    plain = NormedAdam(other, lr=0.1, plan=PLAN, missing="skip")
    give_gradients(other)
    for _, p in other[2:]:
        p.grad = None
    plain.step()
    for step in (1, 2):
        for some, opt in ((named, optimizer), (other, plain)):
            give_gradients(some, step)
            for _, p in some:
                p.requires_grad_(True)
            opt.step()
    assert all(torch.equal(p, q) for (_, p), (_, q) in zip(named, other, strict=True))


def test_sparse_gradients_are_refused() -> None:
    embedding = nn.Embedding(6, 4, sparse=True)
    plan = (PLAN[0]._replace(name="weight"),)
    optimizer = NormedAdam(embedding.named_parameters(), lr=0.1, plan=plan)
    embedding(torch.tensor([1, 2])).sum().backward()
    start = embedding.weight.detach().clone()
    with pytest.raises(ValueError, match="sparse"):
        optimizer.step()
    assert torch.equal(embedding.weight, start)


@pytest.mark.parametrize("kind", KINDS)
def test_the_layout_in_memory_does_not_matter(kind: Any) -> None:
    """Weights and gradients stored transposed, with gaps, or channels_last."""
    plain, odd = parameters(), parameters()

    def restored(x: Tensor) -> Tensor:
        if x.ndim == 4:
            return x.to(memory_format=torch.channels_last)
        if x.ndim == 2:
            return x.t().contiguous().t()
        return torch.stack([x, x], 1)[:, 0]

    for _, p in odd:
        p.data = restored(p.data)
        assert not p.is_contiguous()
    first, second = kind(plain, lr=0.1, plan=PLAN), kind(odd, lr=0.1, plan=PLAN)
    for step in range(4):
        give_gradients(plain, step)
        give_gradients(odd, step)
        for _, p in odd:
            assert p.grad is not None
            p.grad = restored(p.grad)
        first.step()
        second.step()
    for (_, p), (_, q) in zip(plain, odd, strict=True):
        assert torch.equal(p, q)
    for x, y in zip(everything(first, plain), everything(second, odd), strict=True):
        assert torch.equal(x, y)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_parameters_round_a_float32_run(kind: Any, dtype: torch.dtype) -> None:
    """With steps far below the parameters' precision, which would be lost without a copy."""
    low, full = parameters(dtype), parameters()
    for (_, p), (_, q) in zip(low, full, strict=True):
        q.data = p.data.float()
    options = {"lr": 1e-4, "plan": PLAN, "weight_decay": 0.1}
    one, other = kind(low, **options), kind(full, **options)
    for step in range(30):
        give_gradients(low, step)
        for (_, p), (_, q) in zip(low, full, strict=True):
            assert p.grad is not None
            q.grad = p.grad.float()
        one.step()
        other.step()
    for w, (_, p), (_, q) in zip(PLAN, low, full, strict=True):
        assert torch.equal(p, q.to(dtype))
        if w.target:
            assert torch.equal(one.state[p]["master"], q)
        assert all(x.dtype == torch.float32 for x in one.state[p].values())


def test_a_low_precision_parameter_changed_from_outside_keeps_the_change() -> None:
    named = parameters(torch.bfloat16)
    optimizer = run(NormedAdam, named, 2)
    p = dict(named)["a.weight"]
    master = optimizer.state[p]["master"].clone()
    with torch.no_grad():
        p[0] = 100.0
    p.grad = torch.zeros_like(p)
    optimizer.param_groups[0]["lr"] = 0.0
    optimizer.step()
    assert torch.equal(p[0], torch.full((4,), 100.0, dtype=torch.bfloat16))
    assert torch.equal(optimizer.state[p]["master"][1:], master[1:])


def test_float64_parameters_are_computed_in_float64() -> None:
    named = parameters(torch.float64)
    optimizer = run(NormedAdam, named, 2)
    assert all(x.dtype == torch.float64 for _, p in named for x in optimizer.state[p].values())


def test_a_model_converted_after_the_optimizer_was_made() -> None:
    named, plain = parameters(), parameters(torch.float64)
    optimizer = NormedAdam(named, lr=0.1, plan=PLAN)
    for (_, p), (_, q) in zip(named, plain, strict=True):
        p.data = p.data.double()
        assert torch.equal(p, q)
    for step in range(2):
        give_gradients(named, step)
        optimizer.step()
    run(NormedAdam, plain, 2)
    for (_, p), (_, q) in zip(named, plain, strict=True):
        torch.testing.assert_close(p, q)


TYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("before", TYPES)
@pytest.mark.parametrize("after", TYPES)
def test_a_type_changed_after_the_first_step_is_named(
    kind: Any, before: torch.dtype, after: torch.dtype
) -> None:
    named = parameters(before)
    optimizer = run(kind, named, 1)
    p = dict(named)["a.weight"]
    p.data = p.data.to(after)
    p.grad = None
    give_gradients(named, 1)
    if before == after:
        optimizer.step()
        return
    old = [x.clone() for x in everything(optimizer, named)]
    said = rf"state was made: a\.weight from {before} to {after}\. Make a new optimizer"
    with pytest.raises(ValueError, match=said):
        optimizer.step()
    assert all(map(torch.equal, old, everything(optimizer, named)))
    run(kind, named, 1)  # a new one
    p.data, p.grad = p.data.to(before), None
    give_gradients(named, 2)
    optimizer.step()  # given back


def test_a_type_may_change_where_a_state_is_loaded() -> None:
    """What is loaded is made for the types that parameters have then."""
    named = parameters()
    optimizer = run(NormedAdam, named, 2)
    double = [(name, nn.Parameter(p.detach().double())) for name, p in named]
    state = run(NormedAdam, double, 1).state_dict()
    for _, p in named:
        p.data, p.grad = p.data.double(), None
    optimizer.load_state_dict(state)
    give_gradients(named, 3)
    optimizer.step()
    assert all(x.dtype == torch.float64 for _, p in named for x in optimizer.state[p].values())


def test_mixed_types_in_one_optimizer() -> None:
    named = parameters()
    types = [torch.float64, torch.bfloat16, torch.float32] * 3
    for (_, p), dtype in zip(named, types, strict=False):
        p.data = p.data.to(dtype)
    optimizer = run(NormedAdam, named, 2)
    a = dict(named)["a.weight"]  # float32, while others are float64
    a.grad = torch.full((5, 4), 1e25)
    with pytest.raises(FloatingPointError, match=r"a\.weight"):
        optimizer.step()


WRITTEN = r"weights or moments with NaN or infinity, or a step that would make them so: .*{}"


def until_said(optimizer: Any, named: Any, steps: int = 20) -> str:
    """Step until an error says what was found; no finite weight may be spoiled before."""
    for step in range(steps):
        give_gradients(named, step)
        before = values(named)
        try:
            optimizer.step()
        except (FloatingPointError, ValueError) as error:
            return str(error)
        finally:
            for name, p in named:
                assert p.isfinite().all() or not before[name].isfinite().all()
    return ""


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(
    ("options", "at_once"),
    [
        ({"lr": 1e6}, {torch.float16}),
        ({"lr": 1e300}, set(TYPES)),
        ({"weight_decay": 1e30}, {*TYPES} - {torch.float64}),
        ({"weight_decay": 1e9}, {torch.float16}),
    ],
)
def test_a_step_too_large_for_the_weights_is_not_written(
    kind: Any, dtype: torch.dtype, options: Any, at_once: Any
) -> None:
    """Where one step would overflow; others that grow by it get there later, or are finite."""
    named = parameters(dtype)
    optimizer = run(kind, named, 2)
    optimizer.param_groups[0].update(options)
    before = values(named)
    said = until_said(optimizer, named, 1)
    assert bool(said) == (dtype in at_once)
    if said:
        kinds = ("weights or moments with NaN or infinity", "lr times the target is more than")
        assert any(kind in said for kind in kinds)
        assert any(torch.equal(p, before[name]) for name, p in named)
    low, skipping = parameters(dtype), {"nonfinite": "skip"}
    other = run(kind, low, 2, **skipping)
    other.param_groups[0].update(options)
    assert until_said(other, low) == ""
    assert all(p.isfinite().all() for _, p in low)
    if dtype in at_once:
        assert other.skipped


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("name", ["embed.weight", "a.weight", "bias.weight", "heads.weight"])
@pytest.mark.parametrize("bad", [math.nan, -1.0])
def test_a_moment_that_is_spoiled_does_not_spoil_its_weight(
    kind: Any, dtype: torch.dtype, name: str, bad: float
) -> None:
    for policy in ("raise", "skip"):
        named = parameters(dtype)
        optimizer = run(kind, named, 2, nonfinite=policy)
        p = dict(named)[name]
        moments = optimizer.state[p][optimizer.moments[-1]]
        if bad < 0 and "exp_avg_sq" not in optimizer.state[p]:
            return
        moments.view(-1)[1] = bad
        before = values(named)
        give_gradients(named, 2, 1e-3)
        if policy == "raise":
            with pytest.raises(FloatingPointError, match=WRITTEN.format(name)):
                optimizer.step()
        else:
            optimizer.step()
            assert optimizer.skipped == {name: 1}
        for other, q in named:
            assert torch.equal(q, before[other]) == (other in (name, "still.weight"))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", TYPES)
def test_a_weight_that_is_not_finite_is_named(kind: Any, dtype: torch.dtype) -> None:
    """In the first step of an optimizer at once, and later within sixteen."""
    for steps, within in ((0, 1), (3, 16)):
        named = parameters(dtype)
        optimizer = run(kind, named, steps)
        with torch.no_grad():
            dict(named)["b.weight"][1, 1] = math.nan
        assert "make them so: b.weight." in until_said(optimizer, named, within)


@pytest.mark.parametrize("kind", KINDS)
def test_large_finite_weights_are_not_taken_for_spoiled_ones(kind: Any) -> None:
    """Their sum overflows, they do not."""
    named = parameters()
    for _, p in named:
        p.data.fill_(3e38)
    optimizer = run(kind, named, 20)
    assert optimizer.skipped == {}
    assert all(p.isfinite().all() for _, p in named)
