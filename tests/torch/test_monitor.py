"""What the monitor measures, against the definitions; that it costs and changes nothing else."""

from __future__ import annotations

import copy
import json
import math
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from optimizer_cases import (
    KINDS,
    PLAN,
    Named,
    everything,
    give_gradients,
    norm,
    parameters,
    run,
    values,
)
from torch import Tensor, nn

import modnorm
from modnorm.kernels import DualizedSGD, NormedAdam, NormedSGD
from modnorm.kernels import monitor as module
from modnorm.kernels.monitor import Monitor
from modnorm.kernels.plan import NORMS
from modnorm.kernels.spectral import largest
from modnorm.kernels.weight import Weight
from modnorm.report.monitor import Monitored, Recorded

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
MASS = sum(w.mass for w in PLAN)
EXACT = tuple(w for w in PLAN if w.target and not NORMS[w.norm].vector)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run.jsonl"


def read(path: Path) -> Monitored:
    return modnorm.read_monitor(path)


def last(path: Path) -> Recorded:
    return read(path).rows[-1]


def by_name(found: Monitored, values: Any) -> dict[str, Any]:
    return dict(zip(found.weights, values, strict=True))


def cosine(update: Tensor, gradient: Tensor) -> float:
    a, b = update.double().flatten(), -gradient.double().flatten()
    return float(a @ b / (a @ a).sqrt() / (b @ b).sqrt())


# --- values -----------------------------------------------------------------------------------


@pytest.mark.parametrize("decay", [0.0, 0.3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", KINDS)
def test_measures_are_those_of_the_definitions(
    path: Path, kind: Any, dtype: torch.dtype, decay: float
) -> None:
    named = parameters(dtype)
    optimizer = kind(named, lr=0.1, weight_decay=decay, plan=PLAN)
    tolerance = 1e-6 if dtype == torch.float64 else 1e-4
    with Monitor(optimizer, path, every=2):
        for step in range(1, 7):
            before = values(named)
            give_gradients(named, step)
            optimizer.step()
            if step % 2:
                continue
            found = read(path)
            row = found.rows[-1]
            assert (row.step, row.lr, row.loss) == (step, 0.1, None)
            norms, slacks, cosines, spents = (
                by_name(found, x) for x in (row.norm, row.slack, row.cosine, row.spent)
            )
            for w, (name, p) in zip(PLAN, named, strict=True):
                assert norms[name] == pytest.approx(norm(w, p.detach()), rel=tolerance)
                if not w.target:
                    assert slacks[name] is cosines[name] is spents[name] is None
                    continue
                assert p.grad is not None
                kept = (1 - 0.1 * w.target * decay) * before[name].double()
                update = p.detach().double() - kept
                over = norm(w, update) / (0.1 * w.target)
                assert slacks[name] == pytest.approx(over, rel=tolerance)
                assert cosines[name] == pytest.approx(cosine(update, p.grad), rel=tolerance)
                assert spents[name] == pytest.approx(w.mass / MASS * over, rel=tolerance)
    assert [row.step for row in read(path).rows] == [2, 4, 6]


@pytest.mark.parametrize("kind", KINDS)
def test_masses_spent_sum_to_1_where_norms_are_exact(path: Path, kind: Any) -> None:
    plan = tuple(w._replace(mass=3.0 * w.target) for w in EXACT)
    named = parameters(torch.float64, plan)
    with Monitor(run(kind, named, 0, plan=plan), path, every=1) as monitor:
        for step in range(3):
            give_gradients(named, step)
            monitor.optimizer.step()
            row = last(path)
            assert sum(x or 0 for x in row.spent) == pytest.approx(1, abs=1e-6)
            assert row.slack == pytest.approx([1] * len(plan), abs=1e-6)


@pytest.mark.parametrize("kind", [NormedAdam, NormedSGD])
def test_masses_spent_sum_to_1_once_power_iteration_has_settled(path: Path, kind: Any) -> None:
    named = parameters()
    optimizer = kind(named, lr=0.01, plan=PLAN)
    with Monitor(optimizer, path, every=50):
        for _ in range(150):
            give_gradients(named)
            optimizer.step()
    first, *_, settled = (sum(x or 0 for x in row.spent) for row in read(path).rows)
    for spent in (first, settled):  # all of it, and as much more as σ is estimated too low
        assert 1 - 1e-5 <= spent < 1.1


def test_slack_of_a_step_without_decay_is_what_the_optimizer_says(path: Path) -> None:
    named = parameters()
    optimizer = NormedAdam(named, lr=1e-6, plan=PLAN)  # small: the difference is rounded
    with Monitor(optimizer, path, every=1):
        give_gradients(named)
        optimizer.step()
    slacks = by_name(read(path), last(path).slack)
    for name, slack in optimizer.slack().items():
        assert slacks[name] == pytest.approx(slack, rel=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_16_bit_parameters_are_measured_by_their_float32_copies(path: Path, kind: Any) -> None:
    named = parameters(torch.bfloat16)
    optimizer = kind(named, lr=1e-3, plan=PLAN)
    with Monitor(optimizer, path, every=1):
        give_gradients(named)
        optimizer.step()
    found, row = read(path), last(path)
    for (name, p), w in zip(named, PLAN, strict=True):
        if w.target:
            master = optimizer.state[p]["master"]
            assert by_name(found, row.norm)[name] == pytest.approx(norm(w, master), rel=1e-5)
            slack = by_name(found, row.slack)[name]
            # of an update far below what bfloat16 resolves
            spent = by_name(found, row.spent)[name]
            assert spent == pytest.approx(slack * w.mass / MASS, rel=5e-3)


def test_against_the_gradient_means_1(path: Path) -> None:
    plan = (Weight("w", "Scale", (6,), "max", 1.0, 1.0), Weight("v", "Bias", (6,), "rms", 1.0, 1.0))
    named = parameters(torch.float64, plan)
    optimizer = NormedSGD(named, lr=0.1, plan=plan)
    with Monitor(optimizer, path, every=1):
        for scale in (1.0, -0.01):  # a small change leaves the average where it was
            for _, p in named:
                p.grad = torch.full_like(p, scale)
            optimizer.step()
    assert [row.cosine for row in read(path).rows] == [(1.0, 1.0), (-1.0, -1.0)]


# --- several groups, weights that stay -----------------------------------------------------------


def test_groups_with_rates_of_their_own(path: Path) -> None:
    named = parameters(torch.float64)
    before = values(named)
    groups: list[dict[str, Any]] = [
        {"params": named[4:], "weight_decay": 0.5},
        {"params": named[:4], "lr": torch.tensor(0.02)},
    ]
    optimizer = NormedSGD(groups, lr=0.1, plan=PLAN)
    with Monitor(optimizer, path, every=1):
        give_gradients(named)
        optimizer.step()
    row = last(path)
    assert row.lr == 0.1
    assert row.lrs == pytest.approx([0.02] * 4 + [0.1] * (len(PLAN) - 4), rel=1e-6)
    for i, (w, (name, p)) in enumerate(zip(PLAN, named, strict=True)):
        if w.target:
            rate, decay = (0.02, 0.0) if i < 4 else (0.1, 0.5)
            update = (1 - rate * w.target * decay) * before[name] - p.detach()
            over = norm(w, update) / (rate * w.target)
            assert row.spent[i] == pytest.approx(w.mass / MASS * over, rel=1e-6)


def test_one_rate_is_written_once(path: Path) -> None:
    with Monitor(run(NormedAdam, parameters(), 0), path, every=1) as monitor:
        give_gradients([(n, p) for g in monitor.optimizer.param_groups
                        for n, p in zip(g["param_names"], g["params"], strict=True)])  # fmt: skip
        monitor.optimizer.step()
    assert "lrs" not in json.loads(path.read_text().splitlines()[1])
    assert last(path).lrs == (0.1,) * len(PLAN)


@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("kind", KINDS)
def test_weights_left_out_of_a_step_spend_nothing(path: Path, kind: Any, decay: float) -> None:
    named = parameters()
    of = dict(named)
    of["b.weight"].requires_grad_(False)
    optimizer = kind(named, lr=0.1, plan=PLAN, missing="skip", nonfinite="skip", weight_decay=decay)
    with Monitor(optimizer, path, every=1):
        give_gradients(named)
        optimizer.step()
        give_gradients(named, 1)
        of["a.weight"].grad = None
        for name in ("conv.weight", "bias.weight"):
            of[name].grad = torch.full_like(of[name], math.nan)
        optimizer.step()
    found, row = read(path), last(path)
    left = {"a.weight", "b.weight", "conv.weight", "bias.weight"}
    spents, slacks, cosines = (by_name(found, x) for x in (row.spent, row.slack, row.cosine))
    for w in PLAN:
        if w.name in left:
            assert (spents[w.name], slacks[w.name], cosines[w.name]) == (0.0, None, None)
        elif w.target:
            assert spents[w.name] > 0
    assert all(x is not None for x in row.norm)


def test_a_gradient_of_0_has_no_angle(path: Path) -> None:
    named = parameters()
    optimizer = NormedSGD(named, lr=0.1, plan=PLAN, weight_decay=0.1)
    with Monitor(optimizer, path, every=1):
        for _, p in named:
            p.grad = torch.zeros_like(p)
        optimizer.step()
    row = last(path)
    assert all(x is None for x in row.cosine)
    assert sum(x or 0 for x in row.spent) < 1e-5  # the rounding of the decay


def test_what_is_not_finite_is_null(path: Path) -> None:
    named = parameters()
    optimizer = NormedAdam(named, lr=0.1, plan=PLAN, nonfinite="skip")
    with Monitor(optimizer, path, every=1) as monitor:
        for _, p in named[:3]:
            p.data.view(-1)[0] = math.inf
        give_gradients(named)
        monitor.record(loss=math.nan)
        optimizer.step()
    text = path.read_text()
    assert "NaN" not in text
    assert "Infinity" not in text
    row = last(path)
    assert row.loss is None
    assert row.norm[:3] == row.cosine[:3] == (None,) * 3
    assert row.spent[:3] == (0.0,) * 3  # they were left out
    assert None not in row.norm[3:]


def test_weights_that_are_in_no_group_have_nothing_to_tell(path: Path) -> None:
    named = parameters()
    optimizer = NormedAdam(named[1:], lr=0.1, plan=PLAN, missing="skip")
    with Monitor(optimizer, path, every=1):
        for step in range(2):
            give_gradients(named, step)
            optimizer.step()
            optimizer.param_groups[0]["params"].pop(0)
    rows = read(path).rows
    assert [row.norm[0] for row in rows] == [row.spent[0] for row in rows] == [None, None]
    assert [row.spent[1] is None for row in rows] == [False, True]
    assert all(row.spent[2] for row in rows)


def test_a_step_that_raises_is_no_step(path: Path) -> None:
    named = parameters()
    optimizer = NormedAdam(named, lr=0.1, plan=PLAN)
    with Monitor(optimizer, path, every=2) as monitor:
        give_gradients(named)
        optimizer.step()
        good = named[0][1].grad
        named[0][1].grad = torch.full_like(named[0][1], math.nan)
        with pytest.raises(FloatingPointError):
            optimizer.step()
        assert monitor.step == 1
        named[0][1].grad = good
        optimizer.step()
    assert [row.step for row in read(path).rows] == [2]


# --- the loss ------------------------------------------------------------------------------------


def test_a_loss_belongs_to_the_next_step(path: Path) -> None:
    named = parameters()
    optimizer = NormedAdam(named, lr=0.1, plan=PLAN)
    with Monitor(optimizer, path, every=2) as monitor:
        for step in range(1, 9):
            give_gradients(named, step)
            if step < 7:
                loss = nn.Parameter(torch.tensor(float(step)))
                monitor.record(loss if step % 4 else step)
            optimizer.step()
    assert [row.loss for row in read(path).rows] == [2, 4, 6, None]
    assert "loss" not in json.loads(path.read_text().splitlines()[-1])


def test_a_closure_can_record_it(path: Path) -> None:
    named = parameters()
    optimizer = NormedAdam(named, lr=0.1, plan=PLAN)
    with Monitor(optimizer, path, every=1) as monitor:

        def closure() -> Tensor:
            optimizer.zero_grad()
            loss = sum((p.square().sum() for _, p in named), torch.zeros(()))
            monitor.record(loss)
            loss.backward()
            return loss

        loss = optimizer.step(closure)
    row = last(path)
    assert row.loss == pytest.approx(loss.item(), rel=1e-6)
    assert all(x is not None for x, w in zip(row.cosine, PLAN, strict=True) if w.target)


# --- what it costs and changes -------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"weight_decay": 0.1}])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("kind", KINDS)
def test_training_is_the_same_to_the_last_bit(
    path: Path, kind: Any, dtype: torch.dtype, options: dict[str, Any]
) -> None:
    named, watched = parameters(dtype), parameters(dtype)
    optimizer = run(kind, named, 5, **options)
    other = kind(watched, lr=0.1, plan=PLAN, **options)
    state = torch.get_rng_state()
    with Monitor(other, path, every=1):
        for step in range(5):
            give_gradients(watched, step)
            other.step()
    assert torch.equal(state, torch.get_rng_state())
    pairs = zip(everything(optimizer, named), everything(other, watched), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert str(optimizer.state_dict()) == str(other.state_dict())


def test_nothing_is_measured_between_the_steps(path: Path, monkeypatch: Any) -> None:
    calls: list[int] = []
    steps: list[int] = []
    real, copied = module.size, Monitor._value

    def size(*arguments: Any) -> float:
        calls.append(steps[-1])
        return real(*arguments)

    def value(self: Monitor, p: Tensor, w: Weight) -> Tensor:
        calls.append(steps[-1])
        return copied(self, p, w)

    monkeypatch.setattr(module, "size", size)
    monkeypatch.setattr(Monitor, "_value", value)
    named = parameters()
    optimizer = NormedAdam(named, lr=0.1, plan=PLAN)
    with Monitor(optimizer, path, every=3) as monitor:
        for step in range(1, 8):
            steps.append(step)
            text = path.read_bytes()
            give_gradients(named, step)
            optimizer.step()
            assert (path.read_bytes() != text) == (step % 3 == 0)
            assert monitor._before is None  # no copies are kept
    assert set(calls) == {3, 6}


def test_a_closed_monitor_is_gone(path: Path) -> None:
    named = parameters()
    optimizer = NormedAdam(named, lr=0.1, plan=PLAN)
    with Monitor(optimizer, path, every=1) as monitor:
        give_gradients(named)
        optimizer.step()
    text = path.read_bytes()
    optimizer.step()
    assert path.read_bytes() == text
    assert not optimizer._optimizer_step_pre_hooks
    assert not optimizer._optimizer_step_post_hooks
    monitor.close()


def test_an_optimizer_with_a_monitor_can_be_copied_and_pickled(path: Path) -> None:
    named = parameters()
    optimizer = NormedAdam(named, lr=0.1, plan=PLAN)
    with Monitor(optimizer, path, every=1):
        for other in (copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
            copied: Named = list(zip([w.name for w in PLAN],
                                     other.param_groups[0]["params"], strict=True))  # fmt: skip
            give_gradients(copied)
            other.step()
    assert read(path).rows == ()  # the copies have no monitor


# --- generated files -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["NormedAdam", "NormedSGD", "DualizedSGD"])
def test_a_generated_file_has_it(path: Path, kind: str) -> None:
    sizes: Any = {"vocab": 17, "context": 12, "d_embed": 16, "heads": 4, "blocks": 2}
    gpt = modnorm.load(EXAMPLES / "gpt.mod", **sizes)
    model = gpt.GPT(generator=torch.Generator().manual_seed(0))
    optimizer = getattr(gpt, kind)(model.named_parameters(), lr=0.1)
    text = torch.randint(17, (4, 13), generator=torch.Generator().manual_seed(1))
    with gpt.Monitor(optimizer, path, every=2) as monitor:
        for _ in range(4):
            scores = model(text[:, :-1])
            loss = nn.functional.cross_entropy(scores.flatten(0, 1), text[:, 1:].flatten())
            loss.backward()
            monitor.record(loss)
            optimizer.step()
            optimizer.zero_grad()
    found = modnorm.read_monitor(path, [w.name for w in gpt.PLAN])
    assert (found.model, found.optimizer) == ("GPT", kind)
    assert found.targets == pytest.approx([w.target for w in gpt.PLAN])
    for row in found.rows:
        assert None not in (*row.norm, *row.slack, *row.cosine, *row.spent, row.loss)
        assert all(0 < x <= 1 for x in row.cosine if x is not None)
        assert 0.99 < sum(x or 0 for x in row.spent) < 1.3


def test_shared_weights_are_measured_once(path: Path) -> None:
    text = """
input tokens: int[batch, seq] < 7
shared embed = Embed(7, 8)
model Tied = Unembed(embed) @ embed
"""
    (path.parent / "tied.mod").write_text(text)
    tied = modnorm.load(path.parent / "tied.mod")
    model = tied.Tied(generator=torch.Generator().manual_seed(0))
    optimizer = tied.NormedAdam(model.named_parameters(), lr=0.1)
    with tied.Monitor(optimizer, path, every=1):
        model(torch.arange(7).view(1, 7)).square().sum().backward()
        optimizer.step()
    found = read(path)
    assert found.weights == ("embed.embed.weight",)
    assert found.rows[0].spent == pytest.approx([1.0], abs=1e-5)


def test_the_name_is_kept_free(path: Path) -> None:
    """A model may be called like the class."""
    (path.parent / "a.mod").write_text("input x: float[batch, 3]\nmodel Monitor = Linear(2, 3)\n")
    found = modnorm.load(path.parent / "a.mod")
    model = getattr(found, found.MODEL)()
    optimizer = found.DualizedSGD(model.named_parameters(), lr=0.1)
    with found.Monitor(optimizer, path, every=1):
        model(torch.ones(1, 3)).sum().backward()
        optimizer.step()
    assert len(read(path).rows) == 1


# --- the exact norm of large matrices -----------------------------------------------------------


@pytest.mark.parametrize("shape", [(2, 200, 150), (1, 129, 400), (1, 600, 140)])
def test_large_matrices_are_measured_closely(shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(3)
    noise = torch.randn(shape, generator=generator, dtype=torch.float64)
    left, sigma, right = torch.linalg.svd(noise, full_matrices=False)
    flat = torch.linspace(1, 0.2, sigma.shape[1], dtype=torch.float64).expand_as(sigma)
    near = 1 + 0.01 * (sigma / sigma.amax(1, keepdim=True))
    cases = [noise] + [left @ torch.diag_embed(s) @ right for s in (flat, near)]
    for u in cases:
        exact = torch.linalg.matrix_norm(u, 2)
        found = largest(u)
        assert (found <= exact * (1 + 1e-12)).all()
        torch.testing.assert_close(found, exact, rtol=1e-4, atol=0)


def test_large_matrices_without_a_spectrum() -> None:
    eye = torch.eye(150, 140, dtype=torch.float64).unsqueeze(0)
    one = torch.ones(1, 150, 140, dtype=torch.float64)
    torch.testing.assert_close(largest(eye).item(), 1.0, rtol=1e-12, atol=0)
    torch.testing.assert_close(largest(one).item(), math.sqrt(150 * 140), rtol=1e-12, atol=0)
    assert largest(torch.zeros_like(eye)).item() == 0
    both = largest(torch.cat([eye, 3 * eye]))
    torch.testing.assert_close(both, torch.tensor([1.0, 3.0], dtype=torch.float64))


def test_slack_of_large_matrices(path: Path) -> None:
    plan = (Weight("w", "Linear", (200, 140), "spectral", 1.0, 0.5),)
    for kind in (NormedAdam, DualizedSGD):
        named = parameters(torch.float64, plan)
        optimizer = run(kind, named, 2, plan=plan)
        before = values(named)
        with Monitor(optimizer, path, every=1):
            give_gradients(named, 9)
            optimizer.step()
        update = norm(plan[0], before["w"] - named[0][1].detach())
        assert last(path).slack[0] == pytest.approx(update / 0.05, rel=1e-4)
        path.unlink()
