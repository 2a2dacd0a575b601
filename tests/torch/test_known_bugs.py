"""What went wrong in other optimizers of this kind, and must not here: a test each."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from optimizer_cases import KINDS, PLAN, everything, give_gradients, norm, parameters, run, values
from torch import Tensor, nn

from modnorm.kernels import DualizedSGD, NormedAdam, NormedSGD, polar
from modnorm.kernels import optimizer as runtime
from modnorm.kernels.weight import Weight
from modnorm.pipeline import analyse_text


def linear(*shape: int, target: float = 1.0, name: str = "w", norm: str = "spectral") -> Weight:
    return Weight(name, "Linear", shape, norm, 1.0, target)


def step_of(
    kind: Any, w: Weight, grad: Tensor, start: Tensor | None = None, **options: Any
) -> Tensor:
    """What a first step adds to a weight."""
    p = nn.Parameter(torch.zeros(w.shape) if start is None else start)
    before = p.detach().clone()
    p.grad = grad
    kind([(w.name, p)], lr=1.0, plan=[w], **options).step()
    return p.detach() - before


@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_a_16_bit_momentum_is_not_overwritten_by_its_map(
    nesterov: bool, dtype: torch.dtype
) -> None:
    """torch's Muon writes the orthogonalised update over a bfloat16 momentum without Nesterov."""
    named = parameters(dtype)
    optimizer = DualizedSGD(named, lr=0.1, plan=PLAN, momentum=0.5, nesterov=nesterov)
    wanted = {name: torch.zeros(p.shape) for name, p in named}
    for step in range(3):
        give_gradients(named, step)
        for name, p in named:
            assert p.grad is not None
            wanted[name].lerp_(p.grad.float(), 0.5)
        optimizer.step()
    for name, p in named:
        if name != "still.weight":
            momentum = optimizer.state[p]["momentum"]
            torch.testing.assert_close(momentum, wanted[name], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", [0.0, 1e-44, math.nan, math.inf])
def test_one_bad_update_does_not_spoil_the_vector(kind: Any, value: float) -> None:
    """modula's vector of the power iteration is NaN for ever after one update of zeros."""
    named = parameters()
    optimizer = run(kind, named, 1, nonfinite="skip")
    for _, p in named:
        p.grad = torch.full_like(p, value)
    optimizer.step()
    assert all(x.isfinite().all() for x in everything(optimizer, named))
    before = values(named)
    give_gradients(named, 1)
    optimizer.step()
    for w, (name, p) in zip(PLAN, named, strict=True):
        assert torch.equal(p, before[name]) == (w.target == 0)


def test_a_negative_factor_does_not_turn_descent_into_ascent() -> None:
    """modula's JAX release gives a negative factor a negative sensitivity, and so targets."""
    text = "input x: float[batch, 8]\nmodel M = Linear(4) @ (-2 * Linear(8))\n"
    weights = analyse_text(text).program.weights
    assert [float(w.target) for w in weights] == [0.25, 0.5]
    for w in weights:
        grad = torch.randn(w.op.weight_shape)
        record = linear(*w.op.weight_shape, target=float(w.target))
        assert float((step_of(NormedSGD, record, grad) * grad).sum()) < 0


@pytest.mark.parametrize("kind", [NormedAdam, DualizedSGD])
@pytest.mark.parametrize("taps", [1, 3, 5])
def test_a_convolutions_scale_is_of_its_channels(kind: Any, taps: int) -> None:
    """Muon reads a kernel's size as fan-in and fan-out once the weight is flattened."""
    w = linear(8, 4, taps, taps, norm="spectral_taps")
    p = nn.Parameter(torch.zeros(w.shape))
    optimizer = kind([("w", p)], lr=1.0, plan=[w])
    p.grad = torch.randn(w.shape, generator=torch.Generator().manual_seed(0))
    for _ in range(50):  # until the power iteration has settled
        before = p.detach().clone()
        optimizer.step()
    moved = (p.detach() - before).double()
    sigma = torch.linalg.matrix_norm(moved.flatten(2).permute(2, 0, 1), 2)
    assert sigma.max() == pytest.approx(math.sqrt(8 / 4) / taps**2, rel=0.25)
    assert norm(w, moved) == pytest.approx(1, rel=0.25)


@pytest.mark.parametrize("kind", KINDS)
def test_equal_shapes_are_not_mixed_across_layers(kind: Any) -> None:
    """dion once orthogonalised convolutions of one shape together, as one stack of rows."""
    plan = [linear(6, 5, 3, 3, name=f"conv{i}", norm="spectral_taps") for i in range(3)]
    plan += [linear(6, 5, name=f"linear{i}") for i in range(3)]
    grads = {w.name: torch.randn(w.shape) for w in plan}

    def run_with(other: float) -> dict[str, Tensor]:
        named = [(w.name, nn.Parameter(torch.zeros(w.shape))) for w in plan]
        optimizer = kind(named, lr=1.0, plan=plan)
        for name, p in named:
            p.grad = grads[name] * (other if name.endswith("1") else 1.0)
        optimizer.step()
        return values(named)

    alone, beside = run_with(1.0), run_with(-7.0)
    for name in grads:
        assert torch.equal(alone[name], beside[name]) == (not name.endswith("1"))


@pytest.mark.parametrize("shape", [(12, 12), (12, 30), (30, 12), (1, 12), (12, 1)])
@pytest.mark.parametrize("steps", [3, 4, 5, 6])
def test_every_shape_gets_the_iteration_asked_for(
    shape: tuple[int, int], steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """HeavyBall silently takes another iteration than asked for if a matrix is not square."""
    monkeypatch.setattr(polar, "fast_type", lambda device: torch.float32)
    generator = torch.Generator().manual_seed(1)
    rank = min(shape)
    left = torch.linalg.qr(torch.randn(shape[0], rank, generator=generator))[0]
    right = torch.linalg.qr(torch.randn(shape[1], rank, generator=generator))[0]
    sizes = torch.logspace(0, -1, rank)
    moved = step_of(DualizedSGD, linear(*shape), -(left * sizes) @ right.T, steps=steps)
    found = (left.T @ moved @ right) / math.sqrt(shape[0] / shape[1])
    wanted = sizes / sizes.pow(8).sum().pow(1 / 8)
    for a, b, c in polar.POLAR[steps]:
        wanted = a * wanted + b * wanted**3 + c * wanted**5
    torch.testing.assert_close(found, wanted.diag(), rtol=0, atol=1e-3)


def test_the_documented_path_is_the_one_that_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """gram-newton-schulz documents a compiled path that never runs.

    Here: fused Adam on a CPU. (The launches on a GPU are counted in tests/triton.)
    """
    calls: list[int] = []
    fused = torch._fused_adamw_

    def counted(*arguments: Any, **options: Any) -> None:
        calls.append(len(arguments[0]))
        fused(*arguments, **options)

    monkeypatch.setattr(runtime.torch, "_fused_adamw_", counted)
    run(NormedAdam, parameters(), 2)
    assert sum(calls) == 2 * sum(w.target > 0 for w in PLAN)


@pytest.mark.parametrize("kind", KINDS)
def test_the_update_does_not_depend_on_how_a_weight_is_stored(kind: Any) -> None:
    """In modded-nanogpt, storing a matrix transposed changed its learning rate unnoticed."""
    plain, stored = parameters(), parameters()
    for _, p in stored:
        if p.ndim == 4:
            p.data = p.data.to(memory_format=torch.channels_last)
        elif p.ndim == 2:
            p.data = p.data.T.contiguous().T
    run(kind, plain, 3)
    optimizer = kind(stored, lr=0.1, plan=PLAN)
    for step in range(3):
        give_gradients(stored, step)
        for _, p in stored:
            if p.ndim == 2 and p.grad is not None:
                p.grad = p.grad.T.contiguous().T
        optimizer.step()
    for (_, p), (_, q) in zip(plain, stored, strict=True):
        assert torch.equal(p, q)


@pytest.mark.parametrize("kind", KINDS)
def test_resuming_does_not_change_the_run(kind: Any, tmp_path: Any) -> None:
    """In several projects a resumed run is another run: something was not saved, or rounded."""
    whole = parameters()
    run(kind, whole, 4)
    half = parameters()
    optimizer = run(kind, half, 2)
    torch.save([values(half), optimizer.state_dict()], tmp_path / "run.pt")
    weights, state = torch.load(tmp_path / "run.pt", weights_only=True)
    rest = [(name, nn.Parameter(weights[name])) for name, _ in half]
    resumed = kind(rest, lr=0.1, plan=PLAN)
    resumed.load_state_dict(state)
    for step in (2, 3):
        give_gradients(rest, step)
        resumed.step()
    assert all(torch.equal(p, q) for (_, p), (_, q) in zip(whole, rest, strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_no_weight_stays_at_its_start_unnoticed(kind: Any) -> None:
    """Whole runs were made in which some parameters were in no optimizer or got no gradient."""
    named = parameters()
    with pytest.raises(ValueError, match=r"a\.weight"):
        kind([pair for pair in named if pair[0] != "a.weight"], lr=0.1, plan=PLAN)
    optimizer = kind(named, lr=0.1, plan=PLAN)
    give_gradients(named)
    dict(named)["b.weight"].grad = None
    before = values(named)
    with pytest.raises(ValueError, match=r"no gradient.*b\.weight"):
        optimizer.step()
    assert all(torch.equal(p, before[name]) for name, p in named)
    give_gradients(named)
    optimizer.step()
    for w, (name, p) in zip(PLAN, named, strict=True):
        assert torch.equal(p, before[name]) == (w.target == 0)
