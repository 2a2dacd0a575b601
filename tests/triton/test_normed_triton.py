"""The kernels of a normalising step, under Triton's interpreter, against float64 by definition."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from modnorm.kernels import launch
from modnorm.kernels.adam import Adam
from modnorm.kernels.launch import Launches
from modnorm.kernels.optimizer import WRITTEN
from modnorm.kernels.plan import Plan
from modnorm.kernels.sgd import SGD
from modnorm.kernels.tiles import Tile
from modnorm.kernels.weight import Weight

pytestmark = pytest.mark.triton

LR, DECAY, EPS = 0.25, 0.5, 1e-15
TARGETS = (0.7, 0.3, 1.0)
TILES: dict[Any, Tile] = {}


class Model:
    """Weights, gradients and states as an optimizer holds them, and their float64 reference."""

    def __init__(self, plan: list[Weight], adam: bool, dtype: torch.dtype, seed: int = 0) -> None:
        self.plan, self.adam = plan, adam
        self.draw = torch.Generator().manual_seed(seed)
        self.params = [nn.Parameter(self.random(w.shape).to(dtype)) for w in plan]
        betas = {"betas": (0.9, 0.99), "eps": EPS} if adam else {"momentum": 0.9}
        self.group = {"lr": LR, "weight_decay": DECAY} | betas
        self.rule = Adam if adam else SGD
        self.moments = self.rule.moments
        self.state: dict[Tensor, dict[str, Tensor]] = {}
        for p, w in zip(self.params, plan, strict=True):
            state = {name: torch.zeros(w.shape) for name in self.moments}
            if w.norm.startswith("spectral"):
                state["vector"] = self.random(w.shape[1:])
            if dtype != torch.float32:
                state["master"] = p.detach().float()
            self.state[p] = state
        self.exact = [
            {name: x.double() for name, x in self.state[p].items()}
            | {"weight": p.detach().double()}
            for p in self.params
        ]
        self._spoiled: list[Any] = []
        items = [(self.group, p, w) for p, w in zip(self.params, plan, strict=True)]
        self.launches = Launches(items, self.rule, Plan(plan, tiles=TILES))

    def random(self, shape: tuple[int, ...]) -> Tensor:
        return torch.randn(shape, generator=self.draw)

    def step(self, grads: list[Tensor]) -> None:
        """One step of both."""
        for p, grad, w, exact in zip(self.params, grads, self.plan, self.exact, strict=True):
            p.grad = grad.to(p.dtype)
            self.expect(p.grad.double(), w, exact)
        self.launches.step(self)

    def complete(self, p: Tensor, w: Weight) -> dict[str, Tensor]:
        return self.state[p]

    def warm(self, *_: Any) -> None:
        """Vectors are drawn here, so none is new."""

    def expect(self, g: Tensor, w: Weight, state: dict[str, Tensor]) -> None:
        """The step as the documentation defines it, by plain linear algebra."""
        if self.adam:
            state["exp_avg"] += 0.1 * (g - state["exp_avg"])
            state["exp_avg_sq"] += 0.01 * (g * g - state["exp_avg_sq"])
            u = state["exp_avg"] / 0.1 / ((state["exp_avg_sq"] / 0.01).sqrt() + EPS)
        else:
            state["momentum"] += 0.1 * (g - state["momentum"])
            u = state["momentum"].clone()
        state["weight"] *= 1 - LR * w.target * DECAY
        state["weight"] -= LR * w.target * self.normed(u, w, state)

    @staticmethod
    def normed(u: Tensor, w: Weight, state: dict[str, Tensor]) -> Tensor:
        if w.norm == "max":
            return u / (u.abs().max() or 1)
        if w.norm == "rms":
            return u / (u.square().mean().sqrt() or 1)
        if w.norm == "row_rms":
            norms = u.square().mean(1, keepdim=True).sqrt()
            return u / torch.where(norms > 0, norms, 1)
        if w.norm == "row":
            norms = u.norm(dim=1, keepdim=True) * math.sqrt(u.shape[1])
            return u / torch.where(norms > 0, norms, 1)
        if w.norm == "sign":
            return u / (u.abs().max() or 1) / u.shape[1]
        if w.norm == "frobenius":
            return u / (u.norm() or 1) * math.sqrt(u.shape[0] / u.shape[1])
        taps, x = u.flatten(2) if u.dim() > 2 else u.unsqueeze(2), state["vector"]
        flat, vectors = torch.zeros_like(taps), x.reshape(x.shape[0], -1).clone()
        for t in range(taps.shape[2]):
            tap = taps[:, :, t]
            left = tap @ vectors[:, t]
            right = tap.T @ left / (left.norm() or 1)
            lengths, columns = tap.norm(dim=1), tap.norm(dim=0)
            whole = tap.norm()
            bounds = [right.norm(), lengths.max(), columns.max(), whole / min(tap.shape) ** 0.5]
            if sigma := float(max(bounds)):
                flat[:, :, t] = tap * math.sqrt(u.shape[0] / u.shape[1]) / taps.shape[2] / sigma
                stuck = float(right.norm()) < sigma / 2
                vectors[:, t] = columns / whole if stuck else right / right.norm()
        state["vector"] = vectors.view_as(x)
        return flat.view_as(u)

    def check(self, tolerance: float = 1e-5) -> None:
        """Relative to the size of the step, or of the tensor: what an update could be."""
        for p, w, exact in zip(self.params, self.plan, self.exact, strict=True):
            for name, x in self.state[p].items() if p.dtype == torch.float32 else ():
                close(x, exact[name], tolerance * float(exact[name].abs().max()), w.name + name)
            found = self.state[p].get("master", p.detach())
            close(found, exact["weight"], tolerance * float(exact["weight"].abs().max()), w.name)
            assert torch.equal(p.detach(), found.to(p.dtype)) or p.dtype != torch.float32


def close(found: Tensor, wanted: Tensor, tolerance: float, name: str) -> None:
    worst = float((found.double() - wanted).abs().max())
    assert worst <= tolerance + 1e-37, f"{name}: {worst} > {tolerance}"


@pytest.fixture(autouse=True)
def tiles() -> Iterator[dict[Any, Tile]]:
    TILES.clear()
    yield TILES
    TILES.clear()


def weight(norm: str, *shape: int, target: float = 1.0, name: str = "w") -> Weight:
    return Weight(name, "Atom", shape, norm, 1.0, target)


ALL = [
    weight("row_rms", 7, 12, target=0.3, name="embed"),
    weight("spectral", 20, 12, target=0.5, name="tall"),
    weight("spectral", 12, 40, target=0.25, name="wide"),
    weight("spectral_taps", 6, 5, 3, 3, name="conv"),
    weight("max", 11, name="scale"),
    weight("rms", 11, name="bias"),
    weight("spectral", 1, 9, name="row"),
    weight("spectral", 9, 1, name="column"),
    weight("spectral", 1, 1, name="one"),
    weight("row", 7, 12, target=0.3, name="readout"),
    weight("sign", 9, 12, target=0.8, name="sign"),
    weight("frobenius", 20, 12, target=0.5, name="frobenius"),
    weight("frobenius", 1, 1, name="one entry"),
]


@pytest.mark.parametrize("adam", [True, False], ids=["adam", "sgd"])
@pytest.mark.parametrize("small", [False, True], ids=["whole rows", "small tiles"])
def test_three_steps_of_every_kind(adam: bool, small: bool, tiles: dict[Any, Tile]) -> None:
    tiles.update({w.shape: Tile(4, 2, 4) for w in ALL if small})
    model = Model(ALL, adam, torch.float32)
    for _ in range(3):
        model.step([model.random(w.shape) for w in ALL])
        model.check()


powers = st.integers(0, 3).map(lambda n: 1 << n)
sizes = st.integers(1, 24)


@st.composite
def weights(draw: st.DrawFn) -> tuple[Weight, Tile]:
    matrices = ["spectral", "spectral_taps", "row_rms", "row", "sign", "frobenius"]
    norm = draw(st.sampled_from([*matrices, "rms", "max"]))
    if norm in ("rms", "max"):
        shape: tuple[int, ...] = (draw(sizes),)
    elif norm == "spectral_taps":
        shape = (
            draw(sizes),
            draw(st.integers(1, 9)),
            *draw(st.sampled_from([(1, 1), (3, 3), (2, 1)])),
        )
    else:
        shape = (draw(sizes), draw(sizes))
    block = draw(powers)
    tile = Tile(block * draw(st.integers(1, 3)), block, draw(powers))
    return weight(norm, *shape, target=draw(st.sampled_from(TARGETS))), tile


@settings(max_examples=10 if settings.default.max_examples < 1000 else 200)
@given(st.lists(weights(), min_size=1, max_size=3), st.booleans(), st.integers(0, 99))
def test_random_weights(drawn: list[tuple[Weight, Tile]], adam: bool, seed: int) -> None:
    TILES.clear()
    plan = [w._replace(name=f"w{i}") for i, (w, _) in enumerate(drawn)]
    TILES.update({w.shape: tile for w, tile in drawn})
    model = Model(plan, adam, torch.float32, seed)
    for _ in range(2):
        model.step([model.random(w.shape) for w in plan])
        model.check()


@pytest.mark.parametrize("scale", [0.0, 1e-42, 1e-30, 1e-17, 1e15])
@pytest.mark.parametrize("adam", [True, False], ids=["adam", "sgd"])
def test_sizes_of_gradients(scale: float, adam: bool) -> None:
    """An update too small to square moves nothing and is counted; any other moves, as much."""
    model = Model(ALL, adam, torch.float32)
    before = [p.detach().clone() for p in model.params]
    model.group["weight_decay"] = 0.0
    model.step([scale * model.random(w.shape) for w in ALL])
    for p, old, w in zip(model.params, before, ALL, strict=True):
        moved = float((p.detach() - old).abs().max())
        assert math.isfinite(moved), w.name
        assert all(x.isfinite().all() for x in model.state[p].values())
        size = scale / EPS if adam else scale  # Adam divides by eps where a square is 0
        assert (moved > 1e-4) == (size > 1e-18), (w.name, moved)
    tiny = 0 < size <= 1e-18
    assert model.launches.lost.tolist() == [[0, 0, int(tiny), 0]] * len(ALL)


def test_a_row_that_is_too_small_is_not_counted_where_others_move() -> None:
    """Rows of an embedding fade for long after their token was seen last: nothing is wrong."""
    model = Model(ALL[:1], False, torch.float32)
    grad = model.random(ALL[0].shape)
    grad[2] *= 1e-25
    model.step([grad])
    assert model.launches.lost.tolist() == [[0, 0, 0, 0]]


@pytest.mark.parametrize("small", [False, True], ids=["whole rows", "small tiles"])
def test_numbers_whose_squares_add_up_to_infinity(small: bool, tiles: dict[Any, Tile]) -> None:
    several = [w for w in ALL if math.prod(w.shape) > 1 and w.norm not in ("max", "sign")]
    tiles.update({w.shape: Tile(4, 2, 4) for w in several if small})
    model = Model(several, False, torch.float32)
    before = [p.detach().clone() for p in model.params]
    for p in model.params:
        model.state[p]["momentum"].fill_(1.7e19)
        p.grad = torch.full(p.shape, 1.7e19)  # which is itself not
    model.launches.step(model)
    assert model.launches.lost.tolist() == [[1, 0, 0, 0]] * len(several)
    assert all(torch.equal(p, old) for p, old in zip(model.params, before, strict=True))


@pytest.mark.parametrize("adam", [True, False], ids=["adam", "sgd"])
@pytest.mark.parametrize("small", [False, True], ids=["whole rows", "small tiles"])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_moment_that_is_spoiled_leaves_its_weight_alone(
    adam: bool, small: bool, bad: float, tiles: dict[Any, Tile]
) -> None:
    tiles.update({w.shape: Tile(4, 2, 4) for w in ALL if small})
    model = Model(ALL, adam, torch.float32)
    for p in model.params:
        model.state[p][model.moments[0]].view(-1)[0] = bad
        p.grad = model.random(p.shape)
    before = [p.detach().clone() for p in model.params]
    vectors = [model.state[p].get("vector", p.detach()).clone() for p in model.params]
    model.launches.step(model)
    assert model.launches.lost.tolist() == [[0, 1, 0, 0]] * len(ALL)
    assert [why for _, why in model.launches.lost_since()] == [WRITTEN] * len(ALL)
    for p, old, vector, w in zip(model.params, before, vectors, ALL, strict=True):
        rows = p.detach() != old
        if w.norm in ("row_rms", "row"):
            assert not rows[0].any()
            assert rows[1:].all()
            assert p.isfinite().all()
        else:
            assert not rows.any(), w.name
            assert torch.equal(model.state[p].get("vector", p.detach()), vector), w.name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_entries_that_would_not_be_finite_stay_as_they_were(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And so do those that are not: a weight with NaN is named in the first step."""
    several = [w for w in ALL if math.prod(w.shape) > 1]
    model = Model(several, True, dtype)
    most = torch.finfo(dtype).max
    for p in model.params:
        with torch.no_grad():
            p.view(-1)[0] = math.nan
            p.view(-1)[-1] = most
        model.state[p]["master"] = p.detach().float()
        p.grad = -torch.ones_like(p)
    # As with a rate on the device, which the host does not look at.
    monkeypatch.setattr(launch, "known_rate", lambda group: 0.0)
    model.group.update(lr=torch.tensor(3e4 if dtype == torch.float16 else 1e38), weight_decay=0.0)
    before = [p.detach().clone() for p in model.params]
    for _ in range(2):
        model.launches.step(model)
        assert [why for _, why in model.launches.lost_since()] == [WRITTEN] * len(several)
        for p, old, w in zip(model.params, before, several, strict=True):
            assert p.view(-1)[0].isnan()
            assert p.view(-1)[1:].isfinite().all()
            assert p.view(-1)[-1] == old.view(-1)[-1] == most
            if len(p.view(-1)) > 2 and w.norm != "sign":
                assert p.view(-1)[1] != old.view(-1)[1], w.name
            if dtype != torch.float32:
                assert model.state[p]["master"].view(-1)[1:].isfinite().all()


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 3e19])
def test_what_is_not_finite_leaves_its_weight_alone(bad: float) -> None:
    model = Model(ALL, True, torch.float32)
    model.step([model.random(w.shape) for w in ALL])
    before = [p.detach().clone() for p in model.params]
    states = [{k: x.clone() for k, x in model.state[p].items()} for p in model.params]
    grads = [model.random(w.shape) for w in ALL]
    for grad in grads:
        grad.view(-1)[0] = bad
    for p, grad in zip(model.params, grads, strict=True):
        p.grad = grad
    model.launches.step(model)
    assert model.launches.lost.tolist() == [[1, 0, 0, 0]] * len(ALL)
    for p, old, was, w in zip(model.params, before, states, ALL, strict=True):
        rows = p.detach() != old
        if w.norm in ("row_rms", "row"):  # the other rows are whole, and move
            assert not rows[0].any()
            assert rows[1:].all()
        else:
            assert not rows.any(), w.name
        assert all(x.isfinite().all() for x in model.state[p].values())
        for name in model.moments:
            assert model.state[p][name].view(-1)[0] == was[name].view(-1)[0]
    model.step([model.random(w.shape) for w in ALL])
    assert all((p != old).all() for p, old in zip(model.params, before, strict=True))
    assert model.launches.lost.tolist() == [[1, 0, 0, 0]] * len(ALL)


def test_any_stride_gives_the_same_step() -> None:
    shapes = [weight("spectral", 6, 10, name="a"), weight("spectral_taps", 4, 8, 3, 3, name="b")]
    plain, strided = Model(shapes, True, torch.float32), Model(shapes, True, torch.float32)
    grads = [plain.random(w.shape) for w in shapes]
    a, b = strided.params
    a.data = a.data.T.contiguous().T
    b.data = b.data.to(memory_format=torch.channels_last)
    plain.step(grads)
    a.grad, b.grad = grads[0].T.contiguous().T, grads[1].to(memory_format=torch.channels_last)
    strided.launches.step(strided)
    shifted = Model(shapes, True, torch.float32)
    for p in shifted.params:  # at an address that is no multiple of 16 bytes
        p.data = torch.cat([torch.zeros(1), p.data.flatten()])[1:].view(p.shape)
    for p, grad in zip(shifted.params, grads, strict=True):
        p.grad = grad
    shifted.launches.step(shifted)
    for p, q, r in zip(plain.params, strided.params, shifted.params, strict=True):
        assert torch.equal(p, q)
        assert torch.equal(p, r)
    assert a.stride() == (1, 6)


def test_missing_gradients_and_groups() -> None:
    model = Model(ALL[:4], True, torch.float32)
    other = dict(model.group, lr=torch.tensor(0.125), weight_decay=0.0)
    items = [
        (model.group if i % 2 else other, p, w)
        for i, (p, w) in enumerate(zip(model.params, ALL, strict=False))
    ]
    model.launches = Launches(items, model.rule, Plan())
    before = [p.detach().clone() for p in model.params]
    grads = [model.random(w.shape) for w in ALL[:4]]
    model.step(grads)
    model.params[0].grad = model.params[1].grad = None
    after = [p.detach().clone() for p in model.params]
    model.launches.step(model)
    moved = [not torch.equal(p, old) for p, old in zip(model.params, after, strict=True)]
    assert moved == [False, False, True, True]
    halved = Model(ALL[:4], True, torch.float32)
    halved.group.update(lr=0.125, weight_decay=0.0)
    halved.step(grads)
    wanted = halved.params[0].detach() - before[0]
    assert torch.allclose(after[0] - before[0], wanted, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_16_bit_weights_are_roundings_of_a_float32_copy(dtype: torch.dtype) -> None:
    model = Model(ALL, True, dtype)
    for _ in range(3):
        model.step([model.random(w.shape) for w in ALL])
    model.check(1e-5)
    spacing = torch.finfo(dtype).eps
    for p in model.params:
        master = model.state[p]["master"]
        assert torch.allclose(p.float(), master, rtol=spacing, atol=1e-7)
    with torch.no_grad():
        model.params[0].zero_()
    model.state[model.params[0]]["master"].fill_(9.0)
    model.group["weight_decay"] = 0.0
    model.launches.step(model)
    assert model.state[model.params[0]]["master"].abs().max() < 8  # the zeros counted, not 9


def test_two_runs_are_equal_to_the_last_bit() -> None:
    runs = [Model(ALL, True, torch.float32, seed=3) for _ in range(2)]
    for model in runs:
        for _ in range(2):
            model.step([model.random(w.shape) for w in ALL])
    for p, q in zip(runs[0].params, runs[1].params, strict=True):
        assert torch.equal(p, q)


def test_nothing_is_written_to_the_tables_twice() -> None:
    """A step whose addresses and options are the last one's sends no table to the device."""
    model = Model(ALL, True, torch.float32)
    grads = [model.random(w.shape) for w in ALL]
    model.step(grads)
    tables = dict(model.launches.sent)
    for p, grad in zip(model.params, grads, strict=True):
        assert p.grad is not None
        p.grad.copy_(grad)
    model.launches.step(model)
    assert all(model.launches.sent[name] is tables[name] for name in tables)
    model.group["lr"] = 2 * LR
    model.launches.step(model)
    assert model.launches.sent["options"] is not tables["options"]
