"""Whole architectures against modula's PyTorch release (PyPI, 0.0.0.0.0.2), in one process.

Targets, functions, gradients and training: `std.modula` has modula's own architectures. There the
scale of an atom stands in the forward pass, here in the weight; that is the only difference.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

import modnorm

compound = pytest.importorskip("modula.compound", reason="modula is not installed")
Vector = pytest.importorskip("modula.vector").Vector

CASES: dict[str, tuple[str, str, Any]] = {
    f"{name}{sizes}": (f"{name}{sizes}", declaration, (name, sizes))
    for name, declaration, all_sizes in (
        (
            "ResMLP",
            "input x: float[batch, 1, 4, 4]",
            [(8, 3, 2, 16, 4), (16, 2, 1, 16, 5), (6, 5, 3, 16, 3)],
        ),
        (
            "ResCNN",
            "input x: float[batch, 2, 6, 6]",
            [(8, 4, 2, 2, 10), (6, 2, 1, 2, 3), (4, 3, 2, 2, 5, 7)],
        ),
        (
            "GPT",
            "input x: int[batch, seq] < 11",
            [(11, 8, 2, 16, 8, 8, 3), (11, 9, 4, 8, 2, 6, 2), (11, 8, 1, 6, 4, 3, 5, 2)],
        ),
    )
    for sizes in all_sizes
}


@dataclass
class Pair:
    """The same architecture twice, with the same function at first."""

    theirs: Any
    weights: Any
    ours: Any
    model: torch.nn.Module

    def scale(self, record: Any) -> float:
        """Our weights over theirs."""
        if record.atom == "Embed":
            return math.sqrt(record.shape[1])
        out, in_, *kernel = record.shape
        return math.sqrt(out / in_) / math.prod(kernel)

    def records(self) -> Iterator[tuple[Any, torch.nn.Parameter, torch.Tensor]]:
        """The plan, our parameters and their weights, one by one."""
        parameters = dict(self.model.named_parameters())
        for record, weight in zip(self.ours.PLAN, self.weights, strict=True):
            yield record, parameters[record.name], weight

    def atoms(self) -> list[Any]:
        """Their modules with a weight, in the order of the weights."""
        found: list[Any] = []

        def visit(module: Any) -> None:
            if not module.children and module.length:
                found.append(module)
            for child in module.children:
                visit(child)

        visit(self.theirs)
        return found

    def carry_over(self) -> None:
        """Copy their weights to ours."""
        with torch.no_grad():
            for record, parameter, weight in self.records():
                parameter.copy_(weight * self.scale(record))

    def assert_equal(self, tolerance: float) -> None:
        """Every weight, up to its scale."""
        for record, parameter, weight in self.records():
            expected = weight.detach() * self.scale(record)
            room = tolerance * expected.norm() / math.sqrt(expected.numel())
            torch.testing.assert_close(
                parameter.detach(), expected, rtol=tolerance, atol=float(room), msg=record.name
            )


@pytest.fixture(params=CASES)
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> Pair:
    call, declaration, (name, sizes) = CASES[request.param]
    path = tmp_path / "net.mod"
    path.write_text(f"import std.modula\n{declaration}\nmodel Net = modula.{call}\n")
    torch.manual_seed(0)
    theirs = getattr(compound, name)(*sizes)
    weights = theirs.initialize(device="cpu", dtype=torch.float64)
    ours = modnorm.load(path)
    pair = Pair(theirs, weights, ours, ours.Net(dtype=torch.float64))
    pair.carry_over()
    return pair


def inputs(pair: Pair, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    (declared,) = pair.ours.INPUTS
    free = {"batch": 3, "seq": 7}
    shape = [free.get(size, size) for size in declared.shape]
    if declared.dtype == "int":
        return torch.randint(declared.bound, shape, generator=generator)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def loss_of(output: torch.Tensor, seed: int) -> torch.Tensor:
    """A loss whose gradient moves: distance to a random output."""
    generator = torch.Generator().manual_seed(1000 + seed)
    wanted = torch.randn(output.shape, generator=generator, dtype=output.dtype)
    return (output - wanted).square().mean()


def test_targets_mass_and_sensitivity(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    recorded: list[float] = []
    for atom in pair.atoms():
        monkeypatch.setattr(atom, "normalize", lambda w, target_norm: recorded.append(target_norm))
    pair.theirs.normalize(Vector([w.detach().clone() for w in pair.weights]), target_norm=1)
    masses = [atom.mass for atom in pair.atoms()]
    assert len(recorded) == len(pair.ours.PLAN)
    for record, target, mass in zip(pair.ours.PLAN, recorded, masses, strict=True):
        assert record.target == pytest.approx(target, rel=1e-12)
        assert record.mass == pytest.approx(mass, rel=1e-12)
    total = sum(record.mass for record in pair.ours.PLAN)
    assert total == pytest.approx(pair.theirs.mass, rel=1e-12)


def test_mass_and_sensitivity_of_the_root(pair: Pair, tmp_path: Path) -> None:
    report = modnorm.report(tmp_path / "net.mod").json
    assert report["mass"] == pytest.approx(pair.theirs.mass, rel=1e-12)
    assert report["sensitivity"] == pytest.approx(pair.theirs.sensitivity, rel=1e-12)


def test_functions_and_gradients(pair: Pair) -> None:
    x = inputs(pair, 0)
    expected, found = pair.theirs.forward(x, pair.weights), pair.model(x)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    loss_of(expected, 0).backward()
    loss_of(found, 0).backward()
    for record, parameter, weight in pair.records():
        assert parameter.grad is not None
        torch.testing.assert_close(
            parameter.grad * pair.scale(record), weight.grad, rtol=1e-7, atol=1e-9, msg=record.name
        )


def test_functions_in_float32(pair: Pair) -> None:
    x = inputs(pair, 0)
    weights = Vector([w.detach().float() for w in pair.weights])
    expected = pair.theirs.forward(x.float() if x.is_floating_point() else x, weights)
    found = pair.model.float()(x.float() if x.is_floating_point() else x)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def matrices(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """A matrix, or those of the taps."""
    return x.flatten(2).unbind(2) if x.ndim > 2 else (x,)


def assert_same_step(
    pair: Pair, optimizer: torch.optim.Optimizer, update: Any, target_norm: float
) -> list[float]:
    """Our step is modula's of an update; then its weights are set to ours.

    modula divides by an estimate of the norm, by a power iteration. Here that begins with the
    singular vector, so that the norm is exact. Ours is an estimate too, from below: how much longer
    the steps are is what is returned.
    """
    for atom, change in zip(pair.atoms(), update, strict=True):
        if hasattr(atom, "u"):
            right = torch.stack([torch.linalg.svd(m)[2][0] for m in matrices(change)], dim=-1)
            atom.u.copy_(right.reshape(atom.u.shape))
    pair.theirs.normalize(update, target_norm=target_norm)
    before = {name: p.detach().clone() for name, p in pair.model.named_parameters()}
    optimizer.step()
    optimizer.zero_grad()
    found: list[float] = []
    for (record, parameter, weight), change in zip(pair.records(), update, strict=True):
        moved, expected = before[record.name] - parameter.detach(), change * pair.scale(record)
        for mine, theirs in zip(matrices(moved), matrices(expected), strict=True):
            longer = float((mine * theirs).sum() / theirs.square().sum())
            torch.testing.assert_close(mine, theirs * longer, rtol=1e-6, atol=1e-9)
            if record.atom == "Embed":
                assert longer == pytest.approx(1, rel=1e-6)
            else:
                found.append(longer)
        weight.data.copy_(parameter.detach() / pair.scale(record))
    return found


def assert_near(longer: list[float]) -> None:
    """How much longer steps may be: none twice, few by much."""
    assert min(longer) >= 1 - 1e-6
    assert max(longer) < 2
    assert sum(longer) / len(longer) < 1.1


def gradients(pair: Pair, step: int) -> Any:
    """One backward pass of both; their gradients."""
    x = inputs(pair, step)
    for output in (pair.theirs.forward(x, pair.weights), pair.model(x)):
        loss_of(output, step).backward()
    return pair.weights.grad()


STEPS = 20


def test_training_with_adam(pair: Pair) -> None:
    beta1, beta2 = 0.9, 0.99
    optimizer = pair.ours.NormedAdam(pair.model.named_parameters(), lr=0.1, eps=1e-30)
    longer: list[float] = []
    with torch.no_grad():
        first, second = 0 * pair.weights, 0 * pair.weights
    for step in range(STEPS):
        grad = gradients(pair, step)
        lr = 0.1 * (1 - step / STEPS)
        (group,) = optimizer.param_groups
        # its averages are over all steps so far at first
        group["betas"] = tuple(1 - (1 - b) ** (step / (step + 1)) for b in (beta1, beta2))
        group["lr"] = lr
        with torch.no_grad():  # the loop of modula's example
            first += (1 - beta1) ** (step / (step + 1)) * (grad - first)
            second += (1 - beta2) ** (step / (step + 1)) * (grad**2 - second)
            update = first / second**0.5
            update.zero_nans()
            longer += assert_same_step(pair, optimizer, update, lr)
            pair.weights.zero_grad()
    assert_near(longer)


def test_training_with_sgd(pair: Pair) -> None:
    optimizer = pair.ours.NormedSGD(pair.model.named_parameters(), lr=0.05, momentum=0.8)
    longer: list[float] = []
    with torch.no_grad():
        average = 0 * pair.weights
    for step in range(STEPS):
        grad = gradients(pair, step)
        with torch.no_grad():
            average += (1 - 0.8) * (grad - average)
            longer += assert_same_step(pair, optimizer, 1 * average, 0.05)
            pair.weights.zero_grad()
    assert_near(longer)


def test_adam_is_torchs_put_through_modulas_normalize(pair: Pair) -> None:
    betas = (0.9, 0.99)
    optimizer = pair.ours.NormedAdam(pair.model.named_parameters(), lr=0.1, betas=betas, eps=1e-30)
    torchs = torch.optim.Adam(list(pair.weights), betas=betas)
    longer: list[float] = []
    for step in range(5):
        gradients(pair, step)
        torchs.step()
        for weight in pair.weights:  # torch's own step is undone: only its moments count
            weight.grad = None
        update = []
        for weight in pair.weights:
            state = torchs.state[weight]
            first = state["exp_avg"] / (1 - betas[0] ** (step + 1))
            second = state["exp_avg_sq"] / (1 - betas[1] ** (step + 1))
            update.append((first / second.sqrt()).nan_to_num_(0))
        with torch.no_grad():
            longer += assert_same_step(pair, optimizer, Vector(update), 0.1)
    assert_near(longer)


def test_decay_shrinks_before_the_update(pair: Pair) -> None:
    """w ← (1 - lr·target·decay)·w - update, the update being that of no decay."""
    lr, decay = 0.25, 0.4
    x = inputs(pair, 0)
    moved: list[dict[str, torch.Tensor]] = []
    start = {name: p.detach().clone() for name, p in pair.model.named_parameters()}
    for weight_decay in (0.0, decay):
        pair.model.load_state_dict(start)
        for kind in (pair.ours.NormedAdam, pair.ours.NormedSGD, pair.ours.DualizedSGD):
            optimizer = kind(pair.model.named_parameters(), lr=lr, weight_decay=weight_decay)
            pair.model.load_state_dict(start)
            loss_of(pair.model(x), 0).backward()
            optimizer.step()
            optimizer.zero_grad()
            moved.append({n: p.detach().clone() for n, p in pair.model.named_parameters()})
    for plain, decayed in zip(moved[:3], moved[3:], strict=True):
        for record in pair.ours.PLAN:
            shrunk = lr * record.target * decay * start[record.name]
            torch.testing.assert_close(decayed[record.name], plain[record.name] - shrunk)


def test_dualized_steps_are_those_of_singular_values(pair: Pair) -> None:
    """Every singular value of an update is the target, within the accuracy of Newton–Schulz."""
    lr = 0.5
    x = inputs(pair, 0)
    optimizer = pair.ours.DualizedSGD(pair.model.named_parameters(), lr=lr)
    loss_of(pair.model(x), 0).backward()
    before = {name: p.detach().clone() for name, p in pair.model.named_parameters()}
    optimizer.step()
    for record, parameter, _ in pair.records():
        moved = (before[record.name] - parameter.detach()) / (lr * record.target)
        gradient = parameter.grad
        assert gradient is not None
        if record.atom == "Embed":
            rms = gradient.square().mean(dim=1, keepdim=True).sqrt()
            torch.testing.assert_close(moved, (gradient / rms).nan_to_num(0))
            continue
        # one matrix, or one for each tap of a kernel
        gradients, moves = (t.flatten(2).permute(2, 0, 1) if t.ndim > 2 else t[None]
                            for t in (gradient, moved))  # fmt: skip
        u, s, vt = torch.linalg.svd(gradients, full_matrices=False)
        values = u.mT @ (moves / pair.scale(record)) @ vt.mT
        diagonal = torch.diagonal(values, dim1=1, dim2=2)
        assert (values - torch.diag_embed(diagonal)).abs().max() < 1e-6
        assert diagonal[s > 1e-3 * s[:, :1]].min() > 0.906
        assert diagonal.max() < 1.042
