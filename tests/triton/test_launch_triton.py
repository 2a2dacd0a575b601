"""The optimizers with their kernels, under Triton's interpreter, against the same without."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from modnorm.kernels import DualizedSGD, NormedAdam, NormedOptimizer, NormedSGD, launch
from modnorm.kernels.launch import Launches
from modnorm.kernels.plan import NORMS
from modnorm.kernels.weight import Weight

pytestmark = pytest.mark.triton

PLAN = (
    Weight("embed", "Embed", (6, 4), "row_rms", 1.0, 0.25),
    Weight("conv", "Conv2D", (4, 3, 3, 3), "spectral_taps", 1.0, 0.5),
    Weight("a", "Linear", (5, 4), "spectral", 1.0, 0.2),
    Weight("b", "Linear", (5, 4), "spectral", 1.0, 0.3),
    Weight("heads", "Linear", (3, 5, 7), "spectral", 1.0, 0.3),
    Weight("still", "Linear", (3, 4), "spectral", 0.0, 0.0),
    Weight("bias", "Bias", (5,), "rms", 1.0, 0.1),
    Weight("scale", "Scale", (5,), "max", 1.0, 0.7),
    Weight("row", "Readout", (6, 4), "row", 1.0, 0.6),
    Weight("sign", "Linear", (5, 4), "sign", 1.0, 0.3),
    Weight("frobenius", "Linear", (5, 4), "frobenius", 1.0, 0.5),
)
Named = list[tuple[str, nn.Parameter]]
both = pytest.mark.parametrize("kind", [NormedAdam, NormedSGD])


def parameters(dtype: torch.dtype = torch.float32) -> Named:
    draw = torch.Generator().manual_seed(5)
    return [(w.name, nn.Parameter(torch.randn(w.shape, generator=draw).to(dtype))) for w in PLAN]


def give_gradients(named: Named, step: int) -> None:
    draw = torch.Generator().manual_seed(100 + step)
    for _, p in named:
        p.grad = torch.randn(p.shape, generator=draw).to(p.dtype)


def run(kind: Callable[..., NormedOptimizer], named: Named, steps: int, **options: Any) -> Any:
    optimizer = kind(named, **{"lr": 0.1, "plan": PLAN, "weight_decay": 0.2, **options})
    for step in range(steps):
        give_gradients(named, step)
        optimizer.step()
    return optimizer


def values(named: Named) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in named}


def matrices(x: Tensor) -> Tensor:
    """The matrices of a weight whose norm is spectral, one by one: of a stack or of the taps."""
    return x.flatten(2).movedim(2, 0) if x.ndim == 4 else x.view(-1, *x.shape[-2:])


@both
def test_as_without_kernels(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """In every direction; steps by an estimated norm are as long up to what both may be off."""
    launched, plain = parameters(), parameters()
    options: Any = {"lr": 0.1, "plan": PLAN, "weight_decay": 0.2}
    first, second = kind(launched, **options), kind(plain, **options)
    for step in range(3):
        before = values(launched)
        for named, optimizer in ((launched, first), (plain, second)):
            monkeypatch.setattr(
                NormedOptimizer, "launches", Launches if optimizer is first else None
            )
            give_gradients(named, step)
            optimizer.step()
        for record, (name, p), (_, q) in zip(PLAN, launched, plain, strict=True):
            shrunk = before[name] * (1 - 0.1 * record.target * 0.2)
            x, y = p.detach() - shrunk, q.detach() - shrunk
            if NORMS[record.norm].vector and record.target:
                x, y = matrices(x), matrices(y)
                longer = torch.linalg.matrix_norm(x) / torch.linalg.matrix_norm(y)
                assert ((longer > 1 / 1.5) & (longer < 1.5)).all()
                y = y * longer[:, None, None]
            torch.testing.assert_close(x, y, rtol=1e-5, atol=1e-6, msg=name)
            q.data.copy_(p.detach())
    assert [len(run.items) for run in first._launched] == [10]
    assert not first._batches
    assert not second._launched
    for (_, p), (_, q) in zip(launched, plain, strict=True):
        for key, x in second.state.get(q, {}).items():
            if key != "vector":
                torch.testing.assert_close(first.state[p][key], x, rtol=1e-5, atol=1e-6)
    for name, slack in second.slack().items():
        assert 1 - 1e-4 <= slack < 1.5
        assert 1 - 1e-4 <= first.slack()[name] < 1.5


@both
def test_three_launches_whatever_the_number_of_weights(
    kind: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    launches: list[str] = []

    class Counted:
        def __init__(self, name: str) -> None:
            self.name, self.kernel = name, getattr(launch, name)

        def __getitem__(self, grid: Any) -> Any:
            launches.append(self.name)
            return self.kernel[grid]

    for name in ("moments_kernel", "reduce_kernel", "apply_kernel"):
        monkeypatch.setattr(launch, name, Counted(name))
    run(kind, parameters(), 2)
    assert launches == ["moments_kernel", "reduce_kernel", "apply_kernel"] * 2


def test_what_the_kernels_are_not_for() -> None:
    float64 = parameters(torch.float64)
    assert not run(NormedAdam, float64, 1)._launched
    assert not run(DualizedSGD, parameters(), 1)._launched
    optimizer = run(NormedAdam, parameters(), 1, iterations=2)
    assert not optimizer._launched
    optimizer.param_groups[0]["iterations"] = 1
    optimizer.step()
    assert optimizer._launched
    assert not optimizer._batches


def test_an_error_comes_with_the_next_step_and_the_weight_is_left_alone() -> None:
    named = parameters()
    optimizer = run(NormedAdam, named, 1)
    before = values(named)
    give_gradients(named, 1)
    a = dict(named)["a"]
    assert a.grad is not None
    a.grad[0, 0] = math.nan
    optimizer.step()
    assert torch.equal(a, before["a"])
    assert not torch.equal(dict(named)["b"], before["b"])
    before = values(named)
    give_gradients(named, 2)
    with pytest.raises(FloatingPointError, match=r"square: a\. The other weights"):
        optimizer.step()
    assert all(torch.equal(p, before[name]) for name, p in named)
    optimizer.step()
    assert not torch.equal(a, before["a"])


FEW = tuple(w for w in PLAN if w.name in ("embed", "a", "scale", "frobenius"))


def few(dtype: torch.dtype = torch.float32) -> Named:
    """One weight of each way in which kernels measure."""
    return [(name, p) for name, p in parameters(dtype) if name in {w.name for w in FEW}]


@both
@pytest.mark.parametrize(
    ("dtype", "options", "at_once"),
    [
        (torch.float16, {"lr": 1e6}, False),
        (torch.float32, {"lr": 1e300}, True),
        (torch.float32, {"weight_decay": 1e30}, True),
        (torch.float16, {"weight_decay": 1e9}, False),
    ],
)
def test_a_step_too_large_for_the_weights_is_not_written(
    kind: Any, dtype: torch.dtype, options: Any, at_once: bool
) -> None:
    """What a learning rate alone shows is said at once, before moments are touched."""
    for policy in ("raise", "skip"):
        named = few(dtype)
        optimizer = run(kind, named, 1, plan=FEW, nonfinite=policy)
        optimizer.param_groups[0].update(options)
        before = values(named)
        said = ""
        for step in range(1, 3):
            give_gradients(named, step)
            try:
                optimizer.step()
            except (FloatingPointError, ValueError) as error:
                said = said or f"{step}: {error}"
            assert all(p.isfinite().all() for _, p in named)
        same = {name for name, p in named if torch.equal(p, before[name])}
        if policy == "skip":
            assert optimizer.state_dict()["skipped"].keys() >= same
            assert optimizer.skipped
            assert not said
        else:
            assert said.startswith("1: " if at_once else "2: ")
            assert "make them so: " in said or "more than a float can hold" in said
            assert not at_once or same == before.keys()


@both
@pytest.mark.parametrize("spoiled", ["moment", "weight"])
def test_what_is_spoiled_is_named_and_its_weight_is_left_alone(kind: Any, spoiled: str) -> None:
    for policy in ("raise", "skip"):
        named = few()
        optimizer = run(kind, named, 1, plan=FEW, nonfinite=policy)
        for name in ("a", "scale", "frobenius"):
            p = dict(named)[name]
            moment = optimizer.state[p][optimizer.moments[-1]]
            (moment if spoiled == "moment" else p.detach()).view(-1)[1] = math.nan
        before = values(named)
        give_gradients(named, 1)
        optimizer.step()
        for name, p in named:
            assert p.isfinite().all() or spoiled == "weight"
            same = torch.equal(p, before[name])
            assert same == (spoiled == "moment" and name in ("a", "scale", "frobenius"))
        if policy == "raise":
            said = r"would make them so: a, scale, frobenius\. The other weights"
            with pytest.raises(FloatingPointError, match=said):
                optimizer.step()
        else:
            assert optimizer.state_dict()["skipped"] == {"a": 1, "scale": 1, "frobenius": 1}


@both
def test_gradients_of_which_nothing_is_left_are_counted_and_said_once(kind: Any) -> None:
    named = few()
    optimizer = kind(named, lr=0.1, plan=FEW)
    before = values(named)
    for _, p in named:
        p.grad = torch.full_like(p, 1e-42)
    optimizer.step()
    assert not optimizer.skipped
    with pytest.warns(UserWarning, match="so small that nothing of them is left.*: embed,") as told:
        optimizer.step()
    assert len([x for x in told if x.category is UserWarning]) == 1  # the rest are Triton's
    assert optimizer.skipped == dict.fromkeys(before, 1)
    assert optimizer.state_dict()["skipped"] == dict.fromkeys(before, 2)
    assert all(torch.equal(p, before[name]) for name, p in named)
    give_gradients(named, 0)
    optimizer.step()
    assert optimizer.state_dict()["skipped"] == dict.fromkeys(before, 2)


def size_of(u: Tensor) -> float:
    """√(in/out)·σ_max."""
    return math.sqrt(u.shape[1] / u.shape[0]) * float(torch.linalg.matrix_norm(u.double(), 2))


def test_no_step_of_a_convex_problem_is_above_twice_its_size() -> None:
    """A regression, full batch: vectors could not leave a direction once it was found."""
    draw, lr = torch.Generator().manual_seed(0), 0.1
    x = 1 + 0.5 * torch.randn(16, 16, generator=draw)
    x, y = x / x.square().mean(1, keepdim=True).sqrt(), torch.randn(16, 16, generator=draw)
    w = nn.Parameter(torch.zeros(16, 16))
    plan = (Weight("w", "Linear", (16, 16), "spectral", 1.0, 1.0),)
    optimizer = NormedSGD([("w", w)], lr=lr, plan=plan)
    sizes = []
    for _ in range(30):
        before = w.detach().clone()
        w.grad = 2 * (x @ before.T - y).T @ x / y.numel()
        optimizer.step()
        sizes.append(size_of(w.detach() - before) / lr)
    assert optimizer._launched
    assert min(sizes) >= 1 - 1e-4
    assert max(sizes) < 2
    assert sum(sizes) / len(sizes) < 1.15


@pytest.mark.parametrize(
    ("kind", "options"), [(NormedAdam, {"betas": (0.0, 0.99)}), (NormedSGD, {"momentum": 0.0})]
)
def test_a_vector_orthogonal_to_the_update_starts_anew(kind: Any, options: Any) -> None:
    """One-hot inputs: what one example's gradient leaves as vector misses all of the next's."""
    draw = torch.Generator().manual_seed(0)
    shapes = {"0": (16, 64), "1": (8, 16)}
    named = [(n, nn.Parameter(torch.randn(s, generator=draw) / 8)) for n, s in shapes.items()]
    plan = [Weight(n, "Linear", shape, "spectral", 1.0, 1.0) for n, shape in shapes.items()]
    optimizer = kind(named, lr=1e-2, plan=plan, **options)
    (_, first), (_, last) = named
    for _ in range(20):
        token = torch.randint(64, (1,), generator=draw)
        x = nn.functional.one_hot(token, 64).float()
        loss = nn.functional.cross_entropy(torch.tanh(x @ first.T) @ last.T, token % 8)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        assert all(1 - 1e-4 <= size < 2 for size in optimizer.slack().values())
    assert optimizer._launched


def test_skipped_weights_are_counted() -> None:
    named = parameters()
    optimizer = run(NormedSGD, named, 1, nonfinite="skip")
    for step in range(2):
        give_gradients(named, step)
        a = dict(named)["a"]
        assert a.grad is not None
        a.grad[0, 0] = math.inf
        optimizer.step()
    assert optimizer.state_dict()["skipped"] == {"a": 2}
    assert optimizer.skipped == {"a": 2}


@both
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_resuming_is_bit_for_bit(kind: Any, dtype: torch.dtype, tmp_path: Any) -> None:
    whole = parameters(dtype)
    run(kind, whole, 3)
    half = parameters(dtype)
    optimizer = run(kind, half, 2)
    torch.save([values(half), optimizer.state_dict()], tmp_path / "run.pt")
    weights, state = torch.load(tmp_path / "run.pt", weights_only=True)
    rest = [(name, nn.Parameter(weights[name])) for name, _ in half]
    resumed = kind(rest, lr=0.1, plan=PLAN)
    resumed.load_state_dict(state)
    give_gradients(rest, 2)
    resumed.step()
    assert all(torch.equal(p, q) for (_, p), (_, q) in zip(whole, rest, strict=True))


def test_missing_gradients() -> None:
    named = parameters()
    optimizer = run(NormedAdam, named, 1)
    before = values(named)
    give_gradients(named, 1)
    dict(named)["a"].grad = None
    with pytest.raises(ValueError, match="no gradient for a:"):
        optimizer.step()
    assert all(torch.equal(p, before[name]) for name, p in named)
    optimizer.param_groups[0]["missing"] = "skip"
    optimizer.step()
    same = [name for name, p in named if torch.equal(p, before[name])]
    assert same == ["a", "still"]


def test_a_learning_rate_on_the_device_is_read_there() -> None:
    """So that a recorded CUDA graph goes on with a new one."""
    number, tensor = parameters(), parameters()
    lr = torch.tensor(0.1)
    run(NormedAdam, number, 2)
    optimizer = NormedAdam(tensor, lr=lr, plan=PLAN, weight_decay=0.2)
    give_gradients(tensor, 0)
    lr.fill_(0.1)
    optimizer.step()
    sent = optimizer._launched[0].sent["options"]
    give_gradients(tensor, 1)
    optimizer.step()
    assert optimizer._launched[0].sent["options"] is sent
    assert all(torch.equal(p, q) for (_, p), (_, q) in zip(number, tensor, strict=True))
    before = values(tensor)
    lr.zero_()
    optimizer.step()
    assert optimizer._launched[0].sent["options"] is sent
    assert all(torch.equal(p, before[name]) for name, p in tensor)


def test_no_memory_is_taken_after_the_first_step() -> None:
    named = parameters()
    optimizer = run(NormedAdam, named, 1)
    (launches,) = optimizer._launched
    kept = {name: x.data_ptr() for name, x in vars(launches).items() if isinstance(x, Tensor)}
    for step in range(2):
        give_gradients(named, step)
        optimizer.step()
    assert optimizer._launched == [launches]
    now = {name: x.data_ptr() for name, x in vars(launches).items() if isinstance(x, Tensor)}
    assert now == kept


def test_the_tables_hold_every_weight_once() -> None:
    optimizer = run(NormedAdam, parameters(), 1)
    (launches,) = optimizer._launched
    assert isinstance(launches, Launches)
    covered: dict[int, list[int]] = {}
    for part, _, start, end, _ in launches.tiles.tolist():
        covered.setdefault(part, []).extend(range(start, end))
    rows = [row for _, row, *_ in launches.weights.tolist()]
    assert [sorted(covered[i]) for i in range(len(rows))] == [list(range(n)) for n in rows]
    names = [launches.items[i][2].name for i, _, _ in launches.parts]
    expected = ["embed", "conv", "a", "b", "heads", "heads", "heads", "bias", "scale"]
    assert names == [*expected, "row", "sign", "frobenius"]


@both
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_columns_are_left_to_plain_torch(
    kind: Any, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside weights that the kernels move."""
    plan = (*PLAN, Weight("column", "Linear", (6, 4), "column", 1.0, 0.2))
    runs = []
    for launches in (Launches, None):
        monkeypatch.setattr(NormedOptimizer, "launches", launches)
        named = [*parameters(dtype), ("column", nn.Parameter(torch.ones(6, 4, dtype=dtype)))]
        optimizer = run(kind, named, 3, plan=plan)
        (batches,) = optimizer._batches.values()
        assert len([item for batch in batches for item in batch[0]]) == (1 if launches else 11)
        runs.append(named)
    for record, (name, p), (_, q) in zip(plan, *runs, strict=True):
        if not NORMS[record.norm].vector:  # others are estimated in another way
            tolerance = 1e-5 if dtype == torch.float32 else 0.01
            torch.testing.assert_close(p, q, rtol=tolerance, atol=tolerance, msg=name)
    assert (dict(runs[0])["column"] != 1).any()
