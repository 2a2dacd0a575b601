"""No step is far from its size: where power iteration gets stuck, and for every spectrum."""

from __future__ import annotations

import math
import os
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from optimizer_cases import give_gradients, parameters
from torch import Tensor, nn

import modnorm
from modnorm.codegen.assemble import generate
from modnorm.codegen.imports import import_source
from modnorm.kernels import DualizedSGD, NormedAdam, NormedOptimizer, NormedSGD
from modnorm.kernels.plan import NORMS
from modnorm.kernels.polar import polar
from modnorm.kernels.schemes import choose
from modnorm.kernels.spectral import spread
from modnorm.kernels.weight import Weight
from modnorm.passes.warnings import RESOLUTION
from modnorm.pipeline import analyse_text

LONG = bool(os.environ.get("MODNORM_LONG"))
TINY = [1e-36, 1e-38, 1e-40, 1e-42, 1e-44]
POWER: list[Any] = [NormedAdam, NormedSGD]
SHAPES = [  # outputs, inputs, examples
    *((16, 16, 16), (16, 16, 64), (4, 16, 16), (16, 4, 16), (32, 32, 32), (64, 64, 64)),
    *((8, 64, 32), (64, 8, 32), (1, 32, 32), (32, 1, 32), (128, 64, 64), (10, 100, 50)),
]


class Regression:
    """A linear model on inputs of RMS 1 that share a direction, full batch, from zero.

    Its mean squared error is 2-smooth in the modular norm of the weight, whose target is 1.
    """

    def __init__(
        self,
        kind: Any,
        out: int,
        width: int,
        count: int,
        dtype: Any = torch.float64,
        **options: Any,
    ) -> None:
        draw = torch.Generator().manual_seed(0)
        x = 1 + 0.5 * torch.randn(count, width, generator=draw, dtype=torch.float64)
        self.x = x / x.square().mean(1, keepdim=True).sqrt()
        self.y = torch.randn(count, out, generator=draw, dtype=torch.float64)
        self.w = nn.Parameter(torch.zeros(out, width, dtype=dtype))
        plan = (Weight("w", "Linear", (out, width), "spectral", 1.0, 1.0),)
        self.optimizer: NormedOptimizer = kind([("w", self.w)], plan=plan, **options)

    def loss(self) -> float:
        return float((self.x @ self.w.detach().double().T - self.y).square().mean())

    def step(self) -> float:
        """The norm of the step."""
        before = self.w.detach().clone()
        error = self.x @ before.double().T - self.y
        self.w.grad = (2 * error.T @ self.x / self.y.numel()).to(before.dtype)
        self.optimizer.step()
        return norm(self.w.detach() - before)


def norm(u: Tensor) -> float:
    return math.sqrt(u.shape[1] / u.shape[0]) * float(torch.linalg.matrix_norm(u.double(), 2))


@pytest.fixture(params=["one by one", "stacked"])
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """How batches are computed on a CPU, and on other devices without kernels."""
    if request.param == "stacked":
        monkeypatch.setattr(NormedOptimizer, "_stacks", lambda self, device: True)
    return str(request.param)


@pytest.fixture(params=["one by one", "stacked", "stacked, not waiting"])
def anywhere(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Those, and the way of other devices, which are not waited for: does a step wait?"""
    waits = str(request.param) != "stacked, not waiting"
    if request.param != "one by one":
        monkeypatch.setattr(NormedOptimizer, "_stacks", lambda self, device: True)
        monkeypatch.setattr(NormedOptimizer, "_waits", lambda self, device: waits)
    return waits


@pytest.mark.parametrize("kind", POWER)
def test_no_step_of_a_convex_problem_is_above_twice_its_size(kind: Any, engine: str) -> None:
    """166 times its size was found where the kept vector could not leave a direction."""
    for shape, lr in product(SHAPES, (0.02, 0.1, 0.5)):
        problem = Regression(kind, *shape, lr=lr)
        sizes = [problem.step() / lr for _ in range(60)]
        assert min(sizes) >= 1 - 1e-9, (shape, lr)
        assert max(sizes) < 2, (shape, lr)
        assert sum(sizes) / len(sizes) < 1.15, (shape, lr)


@pytest.mark.parametrize("kind", [NormedSGD, DualizedSGD])
def test_automatic_steps_never_raise_the_loss_of_their_own_batch(kind: Any) -> None:
    for shape in SHAPES:
        problem = Regression(kind, *shape, lr="auto", smoothness=2.0)
        loss = problem.loss()
        for _ in range(80):
            problem.step()
            before, loss = loss, problem.loss()
            assert loss <= before * (1 + 1e-12), shape


@pytest.mark.parametrize("steps", [3, 4, 5, 6])
def test_nor_do_they_with_fewer_steps_of_the_map(steps: int) -> None:
    """They let norms reach more than 1, by which the step is divided; float64 has none such."""
    for shape in SHAPES:
        options = {"lr": "auto", "smoothness": 2.0, "steps": steps, "dtype": torch.float32}
        problem = Regression(DualizedSGD, *shape, **options)
        loss = problem.loss()
        for _ in range(80):
            problem.step()
            before, loss = loss, problem.loss()
            assert loss <= before * (1 + 1e-6), shape


@pytest.mark.parametrize("kind", POWER)
def test_a_gpt_steps_by_its_sizes_from_the_first_step_on(kind: Any) -> None:
    module = modnorm.compile("examples/gpt.mod", d_embed=32, heads=4, blocks=2, context=32)
    names: dict[str, Any] = {}
    exec(module, names)
    model = names["GPT"](generator=torch.Generator().manual_seed(0))
    optimizer = kind(model.named_parameters(), lr=0.4, plan=names["PLAN"])
    text = torch.tensor([ord(c) % 65 for c in Path(torch.__file__).read_text("utf-8")])
    draw, seen = torch.Generator().manual_seed(1), list[float]()
    for step in range(300):
        at = torch.randint(len(text) - 33, (8, 1), generator=draw) + torch.arange(33)
        optimizer.param_groups[0]["lr"] = 0.4 * (1 - step / 300)
        found = model(text[at[:, :-1]]).flatten(0, 1)
        nn.functional.cross_entropy(found, text[at[:, 1:]].flatten()).backward()
        optimizer.step()
        optimizer.zero_grad()
        seen += optimizer.slack().values()
    assert max(seen) < 2
    assert sum(seen) / len(seen) < 1.1


@pytest.mark.parametrize(
    ("kind", "options"), [(NormedAdam, {"betas": (0.0, 0.99)}), (NormedSGD, {"momentum": 0.0})]
)
@pytest.mark.parametrize("batch", [1, 16])
def test_a_vector_orthogonal_to_the_update_starts_anew(
    kind: Any, options: Any, batch: int, engine: str
) -> None:
    """One-hot inputs: what one example's gradient leaves as vector misses all of the next's."""
    draw = torch.Generator().manual_seed(0)
    plan = [("0", 64, 256), ("1", 8, 64)]
    named = [(n, nn.Parameter(torch.randn(a, b, generator=draw) / 16)) for n, a, b in plan]
    records = [Weight(n, "Linear", (a, b), "spectral", 1.0, 1.0) for n, a, b in plan]
    optimizer = kind(named, lr=1e-3, plan=records, **options)
    (_, first), (_, last) = named
    for _ in range(60):
        token = torch.randint(256, (batch,), generator=draw)
        x = nn.functional.one_hot(token, 256).float()
        loss = nn.functional.cross_entropy(torch.tanh(x @ first.T) @ last.T, token % 8)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        assert all(1 - 1e-5 <= size < 2 for size in optimizer.slack().values())


# --- one map ---------------------------------------------------------------------------------


def spectra(count: int) -> list[Tensor]:
    """Singular values with a condition number of 1000, of odd kinds."""
    even = torch.logspace(0, -3, count, dtype=torch.float64)
    one_small, one_large = torch.ones(count).double(), torch.full((count,), 1e-3).double()
    one_small[-1], one_large[0] = 1e-3, 1.0
    return [even, one_small, one_large] if count > 1 else [torch.ones(1).double()]


@pytest.mark.parametrize(
    "shape", [(1, 9), (4, 4), (16, 64), (33, 33), (64, 16), (128, 128), (65, 300), (512, 256)]
)
def test_singular_values_end_near_one_at_every_shape(shape: tuple[int, int]) -> None:
    count = min(shape)
    draw = torch.Generator().manual_seed(count)
    for s in spectra(count):
        u, v = (
            torch.linalg.qr(torch.randn(side, count, generator=draw, dtype=torch.float64))[0]
            for side in shape
        )
        g = ((u * s) @ v.T).float().unsqueeze(0)
        values = torch.linalg.svdvals(polar(g, choose(shape))[0].double())
        assert float(values.min()) >= 0.9
        assert float(values.max()) <= 1.05


@pytest.mark.parametrize("width", [8, 31, 32, 64, 65, 128])
def test_an_update_has_one_size_at_every_width(width: int) -> None:
    plan = (Weight("w", "Linear", (width, width), "spectral", 1.0, 1.0),)
    named = parameters(plan=plan)
    optimizer = DualizedSGD(named, lr=0.1, plan=plan)
    for step in range(3):
        before = named[0][1].detach().clone()
        give_gradients(named, step)
        optimizer.step()
        assert norm(before - named[0][1].detach()) / 0.1 == pytest.approx(1, abs=0.1)


# --- small gradients -------------------------------------------------------------------------

KINDS: list[Any] = [NormedAdam, NormedSGD, DualizedSGD]
SMALL = [
    Weight("a", "Linear", (6, 4), "spectral", 1.0, 0.5),
    Weight("embed", "Embed", (6, 4), "row_rms", 1.0, 0.5),
    Weight("bias", "Bias", (6,), "rms", 1.0, 0.5),
    Weight("conv", "Conv2D", (4, 3, 3, 3), "spectral_taps", 1.0, 0.5),
    Weight("groups", "Conv2D", (2, 4, 3, 9), "spectral_groups", 1.0, 0.5),
    Weight("heads", "HeadedLinear", (2, 3, 4), "spectral", 1.0, 0.5),
    Weight("wide conv", "Conv2D", (72, 60, 2, 2), "spectral_taps", 1.0, 0.5),
    Weight("wide heads", "HeadedLinear", (2, 72, 60), "spectral", 1.0, 0.5),
    Weight("scale", "Scale", (6,), "max", 1.0, 0.5),
    Weight("readout", "Readout", (6, 4), "row", 1.0, 0.5),
    Weight("column", "Linear", (6, 4), "column", 1.0, 0.5),
    Weight("sign", "Linear", (6, 4), "sign", 1.0, 0.5),
    Weight("frobenius", "Linear", (6, 4), "frobenius", 1.0, 0.5),
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scale", [1e-19, 1e-25, 1e-32] if LONG else [1e-19, 1e-32])
@pytest.mark.parametrize("w", SMALL, ids=lambda w: w.name)
def test_small_gradients_move_weights_as_large_ones_do(
    kind: Any, scale: float, w: Weight, anywhere: bool
) -> None:
    moved = []
    for size in (1.0, scale):
        named = parameters(plan=(w,))
        start = named[0][1].detach().clone()
        optimizer = kind(named, lr=0.1, plan=(w,))
        give_gradients(named, scale=size)
        optimizer.step()
        assert not optimizer.state_dict()["skipped"]
        moved.append(start - named[0][1].detach())
    if kind is not NormedAdam:  # whose eps makes another update of small gradients
        torch.testing.assert_close(*moved, rtol=1e-3, atol=1e-5)
    size, small = (float(x.norm()) for x in moved)
    assert size / 3 < small < 3 * size


def test_every_norm_is_among_them() -> None:
    assert {w.norm for w in SMALL} == set(NORMS)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("w", SMALL, ids=lambda w: w.name)
def test_gradients_of_which_nothing_is_left_are_counted_and_said_once(
    kind: Any, w: Weight, anywhere: bool
) -> None:
    """Where they are learned of one step late, before a state is saved all the same."""
    named = parameters(plan=(w,))
    start = named[0][1].detach().clone()
    options = {"nesterov": False} if kind is DualizedSGD else {}  # the gradient itself is left
    optimizer = kind(named, lr=0.1, plan=(w,), **options)
    named[0][1].grad = torch.full(w.shape, 1e-45)
    if not anywhere:
        optimizer.step()
        assert not optimizer.skipped
    with pytest.warns(UserWarning, match="so small that nothing of them is left") as said:
        optimizer.step()
    assert len(said) == 1
    assert optimizer.skipped == {w.name: 1}
    if anywhere:
        optimizer.step()  # a second warning would be an error
    assert optimizer.state_dict()["skipped"] == {w.name: 2}
    assert torch.equal(start, named[0][1].detach())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scale", TINY if LONG else TINY[::2])
@pytest.mark.parametrize("w", SMALL, ids=lambda w: w.name)
@pytest.mark.filterwarnings("ignore:gradients so small")
def test_the_smallest_gradients_move_weights_or_are_counted(
    kind: Any, scale: float, w: Weight, anywhere: bool
) -> None:
    named = parameters(plan=(w,))
    start = named[0][1].detach().clone()
    optimizer = kind(named, lr=0.1, plan=(w,))
    give_gradients(named, scale=scale)
    optimizer.step()
    assert named[0][1].isfinite().all()
    moved = not torch.equal(start, named[0][1].detach())
    assert optimizer.state_dict()["skipped"] == ({} if moved else {w.name: 1})


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("w", SMALL, ids=lambda w: w.name)
def test_zero_gradients_are_not_taken_for_small_ones(kind: Any, w: Weight, anywhere: bool) -> None:
    named = parameters(plan=(w,))
    optimizer = kind(named, lr=0.1, plan=(w,))
    for _ in range(2):
        named[0][1].grad = torch.zeros(w.shape)
        optimizer.step()
    assert optimizer.state_dict()["skipped"] == {}


@pytest.mark.parametrize("kind", POWER)
@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("decay", [0.0, 0.5] if LONG else [0.5])
@pytest.mark.parametrize("w", SMALL, ids=lambda w: w.name)
def test_a_stack_leaves_out_a_weight_whose_moments_are_spoiled(
    kind: Any, bad: float, decay: float, w: Weight, anywhere: bool
) -> None:
    plan = (w, w._replace(name="other"))
    for policy in ("raise", "skip"):
        named = parameters(plan=plan)
        optimizer = kind(named, lr=0.1, plan=plan, weight_decay=decay, nonfinite=policy)
        give_gradients(named, 0)
        optimizer.step()
        (_, p), (_, other) = named
        optimizer.state[p][optimizer.moments[0]].view(-1)[1] = bad
        before, was = p.detach().clone(), other.detach().clone()
        give_gradients(named, 1)
        said = rf"^weights or moments with NaN or infinity, .*: {w.name}\. The other weights"
        if policy == "skip":
            optimizer.step()
            assert optimizer.state_dict()["skipped"] == {w.name: 1}
        elif anywhere:
            with pytest.raises(FloatingPointError, match=said):
                optimizer.step()
        else:
            optimizer.step()
            with pytest.raises(FloatingPointError, match=said):
                optimizer.step()
        assert torch.equal(p.detach(), before)
        moved = other.detach() - was
        assert (moved != 0).any()
        assert moved.isfinite().all()


@pytest.mark.parametrize("size", [1e3, 1e4])
def test_a_gradient_in_one_row_of_a_large_matrix_does_not_escape(size: float, engine: str) -> None:
    """Not all rows of one are looked at in each step, and none had this direction before."""
    n, draw = 128, torch.Generator().manual_seed(0)
    left, right, new = (torch.randn(n, generator=draw) for _ in range(3))
    right[n // 2 :], new[: n // 2] = 0, 0
    usual = torch.outer(left / left.norm(), right / right.norm())
    for row in range(0, n, 8):
        p = nn.Parameter(torch.zeros(n, n))
        plan = [Weight("w", "Linear", (n, n), "spectral", 1.0, 1.0)]
        optimizer = NormedSGD([("w", p)], lr=0.1, plan=plan)
        for step in range(24):
            p.grad = usual + 1e-3 * torch.randn(n, n, generator=draw) / math.sqrt(n)
            if step == 20:
                p.grad[row] += size * new / new.norm()
            optimizer.step()
            assert optimizer.slack()["w"] < 2, (row, step)


def test_large_matrices_are_stepped_whatever_the_default_device_is() -> None:
    p = nn.Parameter(torch.randn(96, 112, generator=torch.Generator().manual_seed(0)))
    plan = [Weight("w", "Linear", (96, 112), "spectral", 1.0, 1.0)]
    optimizer = NormedSGD([("w", p)], lr=0.1, plan=plan)
    p.grad = torch.ones_like(p)
    spread.cache_clear()
    with torch.device("meta"):
        optimizer.step()
    assert spread(112, torch.float32).is_cpu  # adding one of another device does nothing, silently
    assert optimizer.slack()["w"] == pytest.approx(1, rel=0.01)


PLAIN = """
input tokens: int[batch, seq] < 11
def norm = Scale @ RMSDivide(eps = 1e-5)
def attn = Linear(16) @ MergeHeads @ Attention(true, scale = sqrt(8)) @ (q, k, v)
  where
    q = SplitHeads(2) @ Linear(16)
    k = SplitHeads(2) @ Linear(16)
    v = SplitHeads(2) @ Linear(16)
def mlp = Linear(16) @ GELU @ Linear(64)
def block = (Identity + mlp @ norm) @ (Identity + attn @ norm)
model GPT = Linear(11) @ block ** 18 @ Embed(11, 16)
"""


@pytest.mark.parametrize("kind", ["NormedAdam", "DualizedSGD"])
def test_weights_below_the_resolution_hardly_move(kind: str) -> None:
    """Those that a warning counts (W615): most entries of most of them stay to the last bit."""
    analysis = analyse_text(PLAIN)
    made = import_source(generate(analysis.program, "cpu"), "plain")
    torch.manual_seed(0)
    model = made.GPT(generator=torch.Generator().manual_seed(0))
    optimizer = getattr(made, kind)(model.named_parameters(), lr=1.0)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    tokens = torch.randint(0, 11, (8, 16))
    scores = model(tokens[:, :-1]).flatten(0, 1)
    nn.functional.cross_entropy(scores, tokens[:, 1:].flatten()).backward()
    optimizer.step()
    moved = {name: (p != before[name]).float().mean() for name, p in model.named_parameters()}
    targets = {weight.name: weight.target for weight in made.PLAN}
    still = [moved[name] for name, target in targets.items() if target < RESOLUTION]
    # just below it, entries a little under 1 still move: their last place is half as much
    surely = [moved[name] for name, target in targets.items() if target < RESOLUTION / 4]
    going = [moved[name] for name, target in targets.items() if target > 16 * RESOLUTION]
    (warning,) = [d for d in analysis.diagnostics if d.code == "W615"]
    assert warning.message.startswith(f"{len(still)} of {len(moved)} weights")
    assert max(surely) < 0.5 < min(going)
