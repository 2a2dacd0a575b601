"""lr="auto": its closed form, the part that it takes off the loss, schedules, states, errors."""

from __future__ import annotations

import copy
import io
import itertools
import json
import math
import pickle
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from optimizer_cases import KINDS, PLAN, Named, everything, give_gradients, norm, parameters, values
from torch import Tensor, nn

import modnorm
from modnorm.kernels import DualizedSGD, NormedAdam, NormedOptimizer, NormedSGD
from modnorm.kernels.monitor import Monitor
from modnorm.kernels.plan import Plan
from modnorm.kernels.schemes import BANDS
from modnorm.kernels.weight import Weight
from modnorm.pipeline import analyse, reported

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
SMOOTHNESS = 8.0
ONE = (Weight("w", "Linear", (6, 4), "spectral", 1.0, 0.5),)


def load(text: str) -> ModuleType:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "m.mod"
        path.write_text(text, encoding="utf-8")
        return modnorm.load(path)


def make(kind: Any, named: Any, **options: Any) -> Any:
    return kind(named, **{"lr": "auto", "smoothness": SMOOTHNESS, "plan": PLAN, **options})


def go_on(optimizer: NormedOptimizer, named: Named, first: int, count: int) -> None:
    for step in range(first, first + count):
        give_gradients(named, step)
        optimizer.step()


def size(optimizer: NormedOptimizer) -> float:
    found = optimizer.param_groups[0]["step_size"]
    assert isinstance(found, float)
    return found


# --- closed forms -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [NormedSGD, NormedAdam, DualizedSGD])
def test_one_step_solves_a_linear_model(kind: Any) -> None:
    """Of one example, (W x - t)² has λ = 2 and one direction: the step goes to its bottom.

    With residual r and ‖x‖ = 1 in the RMS, <gradient, d> is 2‖r‖: so η = ‖r‖, and W x moves by r.
    """
    module = load("input x: float[batch, 4]\nmodel M = Linear(3)\n")
    assert module.PLAN.smoothness["mse"] == 2.0
    generator = torch.Generator().manual_seed(0)
    model = module.M(generator=generator, dtype=torch.float64)
    # Gradients of one sign and size for Adam, whose update is then the same image as the others'.
    x = torch.tensor([[1.0, -1.0, 1.0, 1.0]], dtype=torch.float64)
    t = model(x).detach() + torch.tensor([[0.5, -0.5, 0.5]], dtype=torch.float64)
    options = {"betas": (0.0, 0.0)} if kind is NormedAdam else {"momentum": 0.0}
    optimizer = getattr(module, kind.__name__)(
        model.named_parameters(), lr="auto", smoothness="mse", **options
    )
    loss = (model(x) - t).square().mean()
    loss.backward()
    optimizer.step()
    map_error = 0.16 if kind is DualizedSGD else 1e-9  # of the map, and of what η allows for it
    assert size(optimizer) == pytest.approx(0.5, rel=map_error)
    assert (model(x) - t).square().mean().sqrt() < 0.5 * 2 * map_error


def test_the_dual_norm_of_the_gradient() -> None:
    """Spectral norm √(in/out)·σ_max at target t: the dual norm is t·√(out/in) times Σσ."""
    named = parameters(torch.float64, ONE)
    optimizer = DualizedSGD(named, lr="auto", smoothness=3.0, plan=ONE, momentum=0.0)
    give_gradients(named)
    nuclear = torch.linalg.matrix_norm(named[0][1].grad, "nuc").item()
    optimizer.step()
    wanted = 0.5 * math.sqrt(6 / 4) * nuclear / 3.0 / BANDS[6][1] ** 2
    assert size(optimizer) == pytest.approx(wanted, rel=0.093)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_step_is_the_ordinary_one_of_that_size(kind: Any, dtype: torch.dtype) -> None:
    """And η·λ is the inner product of the gradients with the step over its size.

    For DualizedSGD η is smaller by the square of what the map lets norms reach.
    """
    named, other = parameters(dtype), parameters(dtype)
    optimizer = make(kind, named, weight_decay=0.1)
    often = {} if kind is DualizedSGD else {"iterations": 4}
    reach = BANDS[6][1] if kind is DualizedSGD else 1.0
    ordinary = kind(other, lr=1.0, plan=PLAN, weight_decay=0.1, **often)
    for step in range(4):
        before = values(named)
        give_gradients(named, step)
        give_gradients(other, step)
        optimizer.step()
        eta = ordinary.param_groups[0]["lr"] = size(optimizer)
        ordinary.step()
        for x, y in zip(everything(optimizer, named), everything(ordinary, other), strict=True):
            torch.testing.assert_close(x, y, rtol=1e-5, atol=1e-6)
        slope = 0.0
        for (_, p), w in zip(named, PLAN, strict=True):
            if w.target:
                old = before[w.name].double()
                moved = (1 - eta * w.target * 0.1) * old - p.detach().double()
                slope += float((p.grad.double() * moved).sum()) / eta
        assert eta == pytest.approx(slope / SMOOTHNESS / reach**2, rel=1e-4)
        assert eta > 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_sixteen_bits_move_their_float32_copies(dtype: torch.dtype) -> None:
    low, named = parameters(dtype), parameters()
    for (_, p), (_, q) in zip(low, named, strict=True):
        q.data = p.data.float()
    one, other = make(NormedAdam, low), make(NormedAdam, named)
    for step in range(3):
        give_gradients(low, step)
        for (_, p), (_, q) in zip(low, named, strict=True):
            q.grad = p.grad.float()
        one.step()
        other.step()
    assert size(one) == pytest.approx(size(other), rel=1e-6)
    for ((_, p), (_, q)), w in zip(zip(low, named, strict=True), PLAN, strict=True):
        if w.target:
            torch.testing.assert_close(one.state[p]["master"], q.detach())
            assert torch.equal(p, one.state[p]["master"].to(dtype))


def test_uphill_is_no_step() -> None:
    """The average still points where it did, but this gradient says that it is up there."""
    named = parameters(plan=ONE)
    optimizer = make(NormedSGD, named, plan=ONE, weight_decay=0.5)
    give_gradients(named)
    grad = named[0][1].grad
    optimizer.step()
    before = values(named)
    named[0][1].grad = -0.5 * grad
    optimizer.step()
    assert size(optimizer) == 0.0
    assert torch.equal(named[0][1], before["w"])
    torch.testing.assert_close(optimizer.state[named[0][1]]["momentum"], 0.04 * grad)


# --- the descent lemma ------------------------------------------------------------------------


@st.composite
def programs(draw: st.DrawFn) -> str:
    """Small smooth models with targets that are proved: κ is at most 1."""
    width, depth = draw(st.integers(1, 6)), draw(st.integers(1, 3))
    middle = draw(st.sampled_from(["Linear(w) @ Tanh", "Tanh @ Linear(w)", "Linear(w)"]))
    chain, blocks = f"({middle}) ** {depth}", f"residual({middle}, {depth + 1}) ** {depth}"
    body = draw(st.sampled_from([chain, blocks]))
    mass = draw(st.sampled_from([1, 2, 5]))
    return (
        f"from std.nn import residual\nparam w = {width}\n"
        f"input x: float[batch, {draw(st.integers(1, 5))}]\n"
        f"model M = Linear({draw(st.integers(2, 5))}) @ tare({body}, {mass}) @ Linear(w)\n"
    )


@given(
    text=programs(),
    loss=st.sampled_from(["mse", "cross_entropy"]),
    kind=st.sampled_from(KINDS),
    seed=st.integers(0, 1000),
)
def test_a_step_takes_the_promised_part_off_the_loss(
    text: str, loss: str, kind: Any, seed: int
) -> None:
    """Full-batch training inside the unit ball: after η·d the loss is lower by λ·η²/2 or more."""
    module = load(text)
    smoothness = module.PLAN.smoothness[loss]
    generator = torch.Generator().manual_seed(seed)
    model = module.M(generator=generator, dtype=torch.float64)
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(0.5)
    x = torch.randn(7, module.INPUTS[0].shape[1], generator=generator, dtype=torch.float64)
    x /= x.square().mean(1, keepdim=True).sqrt()
    scores = torch.randn(7, model(x).shape[1], generator=generator, dtype=torch.float64)
    t = scores / scores.square().mean(1, keepdim=True).sqrt()

    def measure() -> Tensor:
        y = model(x)
        return F.mse_loss(y, t) if loss == "mse" else F.cross_entropy(y, t.argmax(1))

    options = {} if kind is DualizedSGD else {"iterations": 10}
    optimizer = getattr(module, kind.__name__)(
        model.named_parameters(), lr="auto", smoothness=loss, **options
    )
    now = measure()
    for step in range(6):
        optimizer.zero_grad()
        now.backward()
        before = float(now.detach())
        optimizer.step()
        # Power iteration and the polynomials miss the norm 1 of d by a little.
        slack = max(1.0, *optimizer.slack().values())
        now = measure()
        promised = smoothness * size(optimizer) ** 2 * (1 - slack**2 / 2)
        if any(
            norm(w, p.detach()) > 1 for w, p in zip(module.PLAN, model.parameters(), strict=True)
        ):
            assert step, "the first step left the unit ball"
            break
        assert before - float(now.detach()) >= promised - 1e-12
        assert slack < 1.1


def test_the_loss_falls_all_the_way() -> None:
    """A deep linear quadratic: monotone to the bottom, which is 0."""
    module = load("input x: float[batch, 4]\nmodel M = Linear(3) @ Linear(5)\n")
    generator = torch.Generator().manual_seed(0)
    model = module.M(generator=generator, dtype=torch.float64)
    x = torch.linalg.qr(torch.randn(4, 4, generator=generator, dtype=torch.float64)).Q * 2
    t = x @ torch.linalg.qr(torch.randn(4, 3, generator=generator, dtype=torch.float64)).Q / 2
    optimizer = module.DualizedSGD(
        model.named_parameters(), lr="auto", smoothness="mse", momentum=0.0
    )
    losses = []
    for _ in range(300):
        loss = F.mse_loss(model(x), t)
        optimizer.zero_grad()
        loss.backward()
        losses.append(float(loss.detach()))
        optimizer.step()
    assert all(after < before for before, after in itertools.pairwise(losses))
    assert losses[-1] < 1e-3 * losses[0]


# --- schedules, groups, what is left out ------------------------------------------------------


def test_a_schedule_is_a_factor() -> None:
    named, other = parameters(), parameters()
    optimizer, constant = make(NormedSGD, named), make(NormedSGD, other)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.5, total_iters=1)
    go_on(optimizer, named, 0, 1)
    go_on(constant, other, 0, 1)
    assert size(optimizer) == size(constant)
    schedule.step()
    assert optimizer.param_groups[0]["lr"] == 0.5
    go_on(optimizer, named, 1, 1)
    go_on(constant, other, 1, 1)
    assert size(optimizer) == 0.5 * size(constant)


def test_groups_have_factors_of_their_own() -> None:
    def moved(*factors: float) -> tuple[list[float], list[Tensor]]:
        named = parameters()
        groups = [
            {"params": part, "lr": lr}
            for part, lr in zip((named[:4], named[4:]), factors, strict=True)
        ]
        optimizer, before = make(NormedAdam, groups), values(named)
        go_on(optimizer, named, 0, 1)
        sizes = [group["step_size"] for group in optimizer.param_groups]
        return sizes, [p.detach() - before[name] for name, p in named]

    (one, same), whole = moved(1.0, 1.0)
    (half, none), part = moved(0.5, 0.0)
    assert one == same
    assert (half, none) == (0.5 * one, 0.0)
    for i, (x, y) in enumerate(zip(whole, part, strict=True)):
        torch.testing.assert_close(y, x * (0.5 if i < 4 else 0.0))


def test_what_is_left_out_does_not_count() -> None:
    """A weight without a gradient, one that is frozen, and one whose gradient is not finite."""
    named = parameters()
    optimizer = make(DualizedSGD, named, missing="skip", nonfinite="skip")
    give_gradients(named)
    params = dict(named)
    params["a.weight"].grad = None
    params["b.weight"].requires_grad_(False)
    params["sign.weight"].grad = torch.full((5, 4), math.nan)
    before = values(named)
    optimizer.step()
    left = {"a.weight", "b.weight", "sign.weight", "still.weight"}
    assert {name for name, p in named if torch.equal(p, before[name])} == left
    plan = [w for w in PLAN if w.name not in left]
    alone = [(name, p) for name, p in parameters() if name not in left]
    other = make(DualizedSGD, alone, plan=plan)
    for name, p in alone:
        p.grad = params[name].grad
    other.step()
    assert size(optimizer) == pytest.approx(size(other), rel=1e-6)
    assert optimizer.skipped == {"sign.weight": 1}


def test_an_error_leaves_everything_as_it_was() -> None:
    named = parameters()
    optimizer = make(NormedAdam, named)
    go_on(optimizer, named, 0, 1)
    before, eta = everything(optimizer, named), size(optimizer)
    give_gradients(named, 1)
    dict(named)["a.weight"].grad = torch.full((5, 4), math.inf)
    with pytest.raises(FloatingPointError, match=r"a\.weight"):
        optimizer.step()
    assert all(torch.equal(x, y) for x, y in zip(before, everything(optimizer, named), strict=True))
    assert size(optimizer) == eta


# --- states -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("done", [0, 1, 3])
def test_resuming_is_bit_for_bit(kind: Any, dtype: torch.dtype, done: int) -> None:
    straight, named = parameters(dtype), parameters(dtype)
    whole, part = (make(kind, x, weight_decay=0.1) for x in (straight, named))
    go_on(whole, straight, 0, done + 3)
    go_on(part, named, 0, done)
    file = io.BytesIO()
    torch.save({"optimizer": part.state_dict(), "values": [p for _, p in named]}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    resumed = [(name, nn.Parameter(x)) for (name, _), x in zip(named, saved["values"], strict=True)]
    optimizer = make(kind, resumed, smoothness=1.0)
    optimizer.load_state_dict(saved["optimizer"])
    assert optimizer.param_groups[0]["smoothness"] == SMOOTHNESS
    if done:
        assert size(optimizer) == size(part)
    go_on(optimizer, resumed, done, 3)
    assert size(optimizer) == size(whole)
    pairs = zip(everything(whole, straight), everything(optimizer, resumed), strict=True)
    assert all(torch.equal(x, y) for x, y in pairs)


@pytest.mark.parametrize("again", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_copies_go_on(again: Any) -> None:
    named = parameters()
    optimizer = make(NormedSGD, named)
    go_on(optimizer, named, 0, 2)
    other, twins = again((optimizer, named))
    go_on(optimizer, named, 2, 1)
    go_on(other, twins, 2, 1)
    assert size(other) == size(optimizer)
    pairs = zip(everything(optimizer, named), everything(other, twins), strict=True)
    assert all(torch.equal(x, y) for x, y in pairs)


def test_states_with_and_without_it_are_not_mixed_up() -> None:
    ordinary, automatic = NormedSGD(parameters(), lr=0.1, plan=PLAN), make(NormedSGD, parameters())
    for source, target in ((ordinary, automatic), (automatic, ordinary)):
        with pytest.raises(ValueError, match="smoothness"):
            target.load_state_dict(source.state_dict())


@pytest.mark.parametrize("kind", KINDS)
def test_ordinary_groups_are_what_they_were(kind: Any) -> None:
    optimizer = kind(parameters(), lr=0.1, plan=PLAN)
    assert not {"smoothness", "step_size"} & optimizer.param_groups[0].keys()


# --- monitor and compiler ---------------------------------------------------------------------


def test_the_monitor_writes_the_step_size(tmp_path: Path) -> None:
    named = parameters()
    optimizer = make(NormedSGD, named, iterations=10)
    with Monitor(optimizer, tmp_path / "run.jsonl", every=1):
        go_on(optimizer, named, 0, 2)
    _, _, row = map(json.loads, (tmp_path / "run.jsonl").read_text().splitlines())
    assert row["lr"] == pytest.approx(size(optimizer), rel=1e-6)
    assert sum(x or 0.0 for x in row["spent"]) == pytest.approx(1.0, abs=0.02)


def test_files_know_what_the_report_says() -> None:
    module = modnorm.load(EXAMPLES / "gpt.mod", blocks=2)
    for loss, found in module.PLAN.smoothness.items():
        program = analyse(EXAMPLES / "gpt.mod", {"blocks": 2}, passes=reported(loss)).program
        assert program.smoothness is not None
        assert program.smoothness.smoothness == found
    model = module.GPT()
    optimizer = module.NormedAdam(model.named_parameters(), lr="auto")
    assert optimizer.param_groups[0]["smoothness"] == module.PLAN.smoothness["cross_entropy"]


# --- errors -----------------------------------------------------------------------------------


def test_a_model_that_is_not_smooth_needs_a_number() -> None:
    module = modnorm.load(EXAMPLES / "resmlp.mod")
    model = module.ResMLP()
    with pytest.raises(ValueError, match=r"of cross_entropy there is none: an operation"):
        module.NormedAdam(model.named_parameters(), lr="auto")
    optimizer = module.NormedAdam(model.named_parameters(), lr="auto", smoothness=10.0)
    model(torch.randn(2, 1, 28, 28)).square().mean().backward()
    optimizer.step()
    assert size(optimizer) > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": "fast"}, "lr must be a number or 'auto', not 'fast'"),
        ({"lr": 0.1, "smoothness": 2.0}, r"smoothness=2\.0 is for lr='auto'"),
        ({"lr": "auto"}, "of cross_entropy there is none: known are none"),
        ({"lr": "auto", "smoothness": "hinge"}, "of hinge there is none: known are none"),
        ({"lr": "auto", "smoothness": 0.0}, "smoothness must be at least 1e-30"),
        ({"lr": "auto", "smoothness": math.nan}, "smoothness must be at least 1e-30"),
        ({"lr": "auto", "smoothness": math.inf}, "smoothness must be at least 1e-30"),
        ({"lr": "auto", "smoothness": [1.0]}, "smoothness must be at least 1e-30"),
    ],
)
@pytest.mark.parametrize("kind", KINDS)
def test_errors(kind: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kind(parameters(), plan=PLAN, **options)


def test_known_losses_are_named() -> None:
    plan = Plan(PLAN, smoothness={"mse": 3.0, "cross_entropy": "it has no number"})
    with pytest.raises(ValueError, match="of hinge there is none: known are mse, cross_entropy"):
        NormedSGD(parameters(), lr="auto", smoothness="hinge", plan=plan)
    with pytest.raises(ValueError, match=r"there is none: it has no number\. Give a number as lr="):
        NormedSGD(parameters(), lr="auto", plan=plan)
    optimizer = NormedSGD(parameters(), lr="auto", smoothness="mse", plan=plan)
    assert optimizer.param_groups[0]["smoothness"] == 3.0
