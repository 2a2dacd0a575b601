"""Steps against the definitions, computed in float64 without the runtime's own code."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from optimizer_cases import KINDS, PLAN, give_gradients, parameters, run
from torch import Tensor, nn

from modnorm.kernels import DualizedSGD, NormedAdam, NormedSGD
from modnorm.kernels.weight import Weight

LR, DECAY = 0.1, 0.05


def estimate(u: Tensor, x: Tensor, iterations: int, alone: bool) -> tuple[Tensor, Tensor]:
    """What bounds σ_max of a matrix from below, and the next vector.

    Power iteration of a matrix alone starts from x with half of the longest row, on the side of x,
    and goes on until σ grows by less than a tenth; for one of a stack it starts from both, each
    time, and the larger σ counts.
    """
    lengths = u.norm(dim=1)
    row = u[lengths.bfloat16().argmax()]
    row = row / row.norm() / 2
    if not alone:
        for _ in range(iterations):
            lefts = [u @ start for start in (x, row)]
            rights = [u.T @ left / (left.norm() or 1) for left in lefts]
            right = max(rights, key=lambda right: float(right.norm()))
            sigma, x = right.norm(), right / right.norm()
        return torch.stack([sigma, lengths.max(), u.norm() / math.sqrt(min(u.shape))]).max(), x
    sigma = torch.zeros(())
    for n in range(1, 9):
        start = x if n > 1 else x + (row if float(row @ x) >= 0 else -row)
        left = u @ start
        right = u.T @ left
        sigma, x = right.norm() / left.norm(), right / right.norm()
        if n >= iterations and sigma < 1.1 * left.norm() / start.norm():
            break
    return torch.stack([sigma, lengths.max(), u.norm() / math.sqrt(min(u.shape))]).max(), x


def normed(
    w: Weight, u: Tensor, x: Tensor | None, iterations: int = 1, alone: bool = True
) -> tuple[Tensor, Tensor | None]:
    """u scaled to norm target, and the next vector."""
    if w.norm == "row_rms":
        rms = u.square().mean(1, keepdim=True).sqrt()
        return w.target * torch.where(rms > 0, u / rms, 0.0), None
    if w.norm == "rms":
        return w.target * u / u.square().mean().sqrt(), None
    if w.norm == "max":
        return w.target * u / u.abs().max(), None
    if w.norm == "row":
        return w.target * u / u.norm(dim=1, keepdim=True) / math.sqrt(u.shape[1]), None
    if w.norm == "column":
        return w.target * u / u.norm(dim=0) * math.sqrt(u.shape[0]), None
    if w.norm == "sign":
        return w.target * u / u.abs().max() / u.shape[1], None
    if w.norm == "frobenius":
        return w.target * u / u.norm() * math.sqrt(u.shape[0] / u.shape[1]), None
    assert x is not None
    if u.ndim == 3:
        heads = [normed(w, *pair, iterations, False) for pair in zip(u, x, strict=True)]
        scaled, next_ = zip(*heads, strict=True)
        return torch.stack(scaled), torch.stack([y for y in next_ if y is not None])
    out, width = u.shape[:2]
    taps = u.reshape(out, width, -1)
    columns = x.reshape(width, -1)
    new, scaled = columns.clone(), taps.clone()
    for t in range(taps.shape[2]):
        sigma, new[:, t] = estimate(
            taps[:, :, t], columns[:, t], iterations, alone and taps.shape[2] == 1
        )
        scaled[:, :, t] *= w.target * math.sqrt(out / width) / taps.shape[2] / sigma
    return scaled.reshape(u.shape), new.reshape(x.shape)


def drawn() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize("kind", [NormedAdam, NormedSGD])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-5), (torch.float64, 1e-11)])
def test_ten_steps(kind: Any, dtype: torch.dtype, tolerance: float) -> None:
    named = parameters(dtype)
    optimizer = kind(named, lr=LR, weight_decay=DECAY, plan=PLAN)
    weights = {name: p.detach().double().clone() for name, p in named}
    starts = {  # drawn in the first step, of length 1
        w.name: torch.randn(p.shape[1:] if w.name != "heads.weight" else (2, 4), generator=drawn())
        for w, (_, p) in zip(PLAN, named, strict=True)
    }
    starts = {name: x / x.norm() for name, x in starts.items()}
    vectors: dict[str, Tensor | None] = {name: x.double() for name, x in starts.items()}
    first = {name: torch.zeros_like(x) for name, x in weights.items()}
    second = {name: torch.zeros_like(x) for name, x in weights.items()}
    for step in range(10):
        give_gradients(named, step)
        optimizer.step()
        for w, (name, p) in zip(PLAN, named, strict=True):
            if not w.target:
                continue
            assert p.grad is not None
            g = p.grad.double()
            first[name] = 0.9 * first[name] + 0.1 * g
            second[name] = 0.99 * second[name] + 0.01 * g**2
            u = first[name] / second[name].sqrt() if kind is NormedAdam else first[name]
            change, vectors[name] = normed(w, u, vectors[name], 1 if step else 8)
            weights[name] = weights[name] * (1 - LR * w.target * DECAY) - LR * change
            torch.testing.assert_close(
                p.detach().double(), weights[name], rtol=tolerance, atol=tolerance
            )


def test_the_moments_are_those_of_torch_adam() -> None:
    named, plain = parameters(), parameters()
    ours = NormedAdam(named, lr=LR, betas=(0.8, 0.95), plan=PLAN)
    adam = torch.optim.Adam([p for _, p in plain], lr=LR, betas=(0.8, 0.95))
    for step in range(10):
        for some, optimizer in ((named, ours), (plain, adam)):
            give_gradients(some, step)
            optimizer.step()
    for w, (_, p), (_, q) in zip(PLAN, named, plain, strict=True):
        for moment in ("exp_avg", "exp_avg_sq") if w.target else ():
            torch.testing.assert_close(
                ours.state[p][moment], adam.state[q][moment], rtol=1e-6, atol=1e-9
            )


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dualized_against_the_svd(nesterov: bool, dtype: torch.dtype) -> None:
    named = parameters(dtype)
    optimizer = DualizedSGD(
        named, lr=LR, momentum=0.95, nesterov=nesterov, weight_decay=DECAY, plan=PLAN
    )
    momentum = {name: torch.zeros(p.shape, dtype=torch.float64) for name, p in named}
    for step in range(5):
        before = {name: p.detach().double().clone() for name, p in named}
        give_gradients(named, step)
        optimizer.step()
        for w, (name, p) in zip(PLAN, named, strict=True):
            assert p.grad is not None
            g = p.grad.double()
            momentum[name] = 0.95 * momentum[name] + 0.05 * g
            u = 0.95 * momentum[name] + 0.05 * g if nesterov else momentum[name]
            if w.norm == "row_rms":
                dual = u / u.square().mean(1, keepdim=True).sqrt()
            elif w.norm == "rms":
                dual = u / u.square().mean().sqrt()
            elif w.norm == "max":
                dual = u.sign()
            elif w.norm == "row":
                dual = u / u.norm(dim=1, keepdim=True) / 2  # √4 inputs
            elif w.norm == "column":
                dual = u / u.norm(dim=0) * math.sqrt(6)
            elif w.norm == "sign":
                dual = u.sign() / 4
            elif w.norm == "frobenius":
                dual = u / u.norm() * math.sqrt(5 / 4)
            elif u.ndim == 3:
                left, s, right = torch.linalg.svd(u, full_matrices=False)
                assert float((s[:, -1] / s[:, 0]).min()) > 0.01
                dual = (left @ right) * math.sqrt(3 / 4)
            else:
                taps = u.flatten(2).permute(2, 0, 1) if u.ndim > 2 else u.unsqueeze(0)
                left, s, right = torch.linalg.svd(taps, full_matrices=False)
                assert float((s[:, -1] / s[:, 0]).min()) > 0.01
                dual = (left @ right).permute(1, 2, 0).reshape(u.shape)
                dual = dual * math.sqrt(u.shape[0] / u.shape[1]) / len(taps)
            expected = before[name] * (1 - LR * w.target * DECAY) - LR * w.target * dual
            # The iteration is off the exact map by at most 9.3 %, in spectral norm.
            slack = 0.093 if "spectral" in w.norm else 1e-5
            size = float((LR * w.target * dual).norm())
            assert float((p.detach().double() - expected).norm()) <= slack * size + 1e-6


shapes = st.tuples(st.integers(1, 9), st.integers(1, 9))
exponents = st.integers(-12, 12)


@given(shapes, exponents, st.sampled_from(KINDS), st.integers(0, 2**31), st.booleans())
def test_random_shapes(
    shape: tuple[int, int], exponent: int, kind: Any, seed: int, strided: bool
) -> None:
    """Odd, wide, tall, 1 by n: the update has the right direction and at least the right size."""
    generator = torch.Generator().manual_seed(seed)
    w = Weight("w", "Linear", shape, "spectral", 1.0, 0.5)
    p = nn.Parameter(torch.randn(shape[::-1] if strided else shape, generator=generator))
    if strided:
        p.data = p.data.t()
    grad = torch.randn(shape, generator=generator)
    p.grad = grad * 10.0**exponent
    start = p.detach().double()  # a copy, since p is float32
    kind([("w", p)], lr=LR, plan=(w,)).step()
    moved = start - p.detach().double()
    sigma = math.sqrt(shape[1] / shape[0]) * float(torch.linalg.matrix_norm(moved, 2))
    assert moved.isfinite().all()
    if kind is DualizedSGD:
        left, s, right = torch.linalg.svd(grad.double(), full_matrices=False)
        if float(s[-1] / s[0]) > 0.01:
            dual = math.sqrt(shape[0] / shape[1]) * left @ right
            assert float((moved - LR * 0.5 * dual).norm()) <= 0.1 * float(moved.norm()) + 1e-6
        assert sigma <= LR * 0.5 * 1.042 + 1e-6
        return
    u = p.grad.double()
    if kind is NormedAdam:  # whose first update is the gradient's sign, but for eps
        u = u / (u.abs() + 1e-15)
    cosine = float((moved * u).sum() / (moved.norm() * u.norm()))
    assert cosine == pytest.approx(1, abs=1e-5)
    rank_one = 1 in shape
    assert sigma >= LR * 0.5 * 0.9999 - 1e-6
    if rank_one:
        assert sigma == pytest.approx(LR * 0.5, rel=1e-4)


odd_numbers = st.sampled_from(
    [0.0, -0.0, 1e-45, -1e-41, 1e-38, 1e-25, 1e-19, 1e-10, 1.0, -1.0, 1e10, 1e19, -1e18]
)
lost_numbers = st.sampled_from([math.nan, math.inf, -math.inf, 2e19, -3.4e38])


@given(st.data(), st.sampled_from(KINDS), st.sampled_from(PLAN), st.booleans())
def test_no_gradient_makes_a_weight_nan(data: Any, kind: Any, w: Weight, lose: bool) -> None:
    """Zeros, denormals and huge numbers in any mixture over three steps; lost ones are skipped."""
    named = parameters(plan=(w,))
    optimizer = kind(named, lr=LR, nonfinite="skip", weight_decay=DECAY, plan=(w,))
    (_, p), numel = named[0], math.prod(w.shape)
    steps = data.draw(st.lists(st.lists(odd_numbers, min_size=numel, max_size=numel), max_size=3))
    for numbers in steps:
        p.grad = torch.tensor(numbers).view(w.shape)
        optimizer.step()
        assert p.isfinite().all()
        assert all(x.isfinite().all() for x in optimizer.state[p].values())
    if lose:
        before, counts = p.detach().clone(), dict(optimizer.skipped)
        p.grad = torch.ones(w.shape)
        p.grad.view(-1)[data.draw(st.integers(0, numel - 1))] = data.draw(lost_numbers)
        optimizer.step()
        assert torch.equal(p, before)
        if w.target:
            assert optimizer.skipped == {w.name: counts.get(w.name, 0) + 1}


def test_a_vector_of_any_length_will_do() -> None:
    """A caller may set it; only its direction counts."""
    one, other = parameters(), parameters()
    optimizers = [NormedSGD(named, lr=LR, plan=PLAN) for named in (one, other)]
    for _, p in other:
        if "vector" in optimizers[1].state[p]:
            optimizers[1].state[p]["vector"].mul_(1e15)
    for named, optimizer in zip((one, other), optimizers, strict=True):
        give_gradients(named)
        optimizer.step()
    for (_, p), (_, q) in zip(one, other, strict=True):
        torch.testing.assert_close(p, q)


def test_the_power_iteration_goes_on_from_step_to_step() -> None:
    """After a few steps of a constant gradient the estimate is that of the SVD."""
    named = parameters()
    optimizer = run(NormedSGD, named, 0)
    for _ in range(60):
        give_gradients(named)
        optimizer.step()
    p = dict(named)["a.weight"]
    assert p.grad is not None
    vector, right = optimizer.state[p]["vector"], torch.linalg.svd(p.grad)[2][0]
    assert abs(float(vector @ right)) > 0.98
    assert all(1 - 1e-6 <= slack < 1.1 for slack in optimizer.slack().values())
