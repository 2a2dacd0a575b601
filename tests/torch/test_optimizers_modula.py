"""NormedAdam against modula 0.0.0.0.0.2, the reference implementation.

modula multiplies by a fixed scale in the forward pass, so its weights are ours divided by that
scale and its gradients ours times it. With the same start vectors the updates have to be the same
at every step, up to rounding.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from modnorm.kernels import NormedAdam
from modnorm.kernels.weight import Weight

modula_atom = pytest.importorskip("modula.atom")
modula_compound = pytest.importorskip("modula.compound")
Vector = pytest.importorskip("modula.vector").Vector

LR, BETA1, BETA2 = 0.3, 0.9, 0.99


def leaves(module: Any) -> list[Any]:
    """modula's atoms, in the order of its weights."""
    if module.children:
        return [leaf for child in module.children for leaf in leaves(child)]
    return [module] if module.length else []


def matrices(x: Tensor) -> tuple[Tensor, ...]:
    """A matrix, or those of the taps."""
    return x.flatten(2).unbind(2) if x.ndim > 2 else (x,)


def follow(model: Any, targets: list[float], steps: int = 20) -> None:
    """Run modula's training lines and NormedAdam beside each other; compare updates."""
    torch.manual_seed(1)
    weights, atoms = model.initialize(device="cpu"), leaves(model)
    norms = {"Linear": "spectral", "Conv2D": "spectral_taps", "Embedding": "row_rms"}
    plan = []
    for i, (atom, w, target) in enumerate(zip(atoms, weights, targets, strict=True)):
        kind = type(atom).__name__
        plan.append(Weight(f"w{i}", kind, tuple(w.shape), norms[kind], 1.0, target))
    ours = [nn.Parameter(a.scale * w.detach()) for a, w in zip(atoms, weights, strict=True)]
    named = [(w.name, p) for w, p in zip(plan, ours, strict=True)]
    optimizer = NormedAdam(named, lr=LR, plan=plan)
    with torch.no_grad():
        first, second = 0 * weights, 0 * weights
    for t in range(steps):
        rate1, rate2 = (1 - BETA1) ** (t / (t + 1)), (1 - BETA2) ** (t / (t + 1))
        grad = Vector([torch.randn_like(w) for w in weights])
        with torch.no_grad():
            first += rate1 * (grad - first)
            second += rate2 * (grad**2 - second)
            update = first / second**0.5
            update.zero_nans()
            model.normalize(update, target_norm=LR)
            weights -= update
        for p, g, atom in zip(ours, grad, atoms, strict=True):
            p.grad = g / atom.scale
        before = [p.detach().clone() for p in ours]
        optimizer.param_groups[0]["betas"] = (1 - rate1, 1 - rate2)
        optimizer.step()
        for w, p, old, change, atom in zip(plan, ours, before, update, atoms, strict=True):
            mine = (old - p.detach()) / atom.scale
            if not hasattr(atom, "u"):
                assert float((mine - change).norm()) <= 1e-4 * float(change.norm())
                continue
            # The norms of both are estimates; ours is the nearer one. Directions are the same.
            for one, other in zip(matrices(mine), matrices(change), strict=True):
                assert float((one / one.norm() - other / other.norm()).norm()) <= 1e-4
            slack = optimizer.slack()[w.name]
            assert 1 - 1e-4 <= slack <= 1.5


@pytest.mark.parametrize("shape", [(6, 10), (10, 6), (1, 7), (7, 1), (128, 40)])
def test_linear(shape: tuple[int, int]) -> None:
    follow(modula_atom.Linear(*shape), [1.0])


@pytest.mark.parametrize("shape", [(6, 10, 3), (10, 6, 3), (1, 4, 5), (4, 1, 1), (33, 20, 3)])
def test_conv2d(shape: tuple[int, int, int]) -> None:
    follow(modula_atom.Conv2D(shape[0], shape[1], kernel_size=shape[2]), [1.0])


@pytest.mark.parametrize("shape", [(6, 10), (1, 7), (50, 1), (65, 128)])
def test_embedding(shape: tuple[int, int]) -> None:
    follow(modula_atom.Embedding(*shape), [1.0])


def test_gpt() -> None:
    """All 27 weights of modula's GPT with 4 blocks of mass 5 together, and its targets."""
    model = modula_compound.GPT(17, 12, 4, 16, 4, 4, num_blocks=4)
    block = [5 / 7] * 3 + [5 / 21] * 3
    follow(model, [1 / 7, 1 / 7, *block * 4, 1 / 7])


def test_rescnn() -> None:
    model = modula_compound.ResCNN(8, num_blocks=4, block_depth=2, input_dim=3, output_dim=10)
    follow(model, [1 / 22, *[5 / 11] * 8, 1 / 22])


def test_a_zero_gradient_does_not_spoil_the_vector() -> None:
    """modula's Linear divides 0 by 0 there, and its vector is NaN from then on."""
    atom = modula_atom.Linear(4, 3)
    weight = atom.initialize(device="cpu")
    atom.normalize(Vector([torch.zeros(4, 3)]), target_norm=1)
    assert atom.u.isnan().all()
    p = nn.Parameter(weight[0].detach().clone())
    plan = [Weight("w", "Linear", (4, 3), "spectral", 1.0, 1.0)]
    optimizer = NormedAdam([("w", p)], lr=LR, plan=plan)
    start = p.detach().clone()
    p.grad = torch.zeros(4, 3)
    optimizer.step()
    assert torch.equal(p, start)
    assert optimizer.state[p]["vector"].isfinite().all()
    p.grad = torch.randn(4, 3)
    optimizer.step()
    assert p.isfinite().all()
    assert not torch.equal(p, start)
