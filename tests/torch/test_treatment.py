"""What optimizers do with a parameter is found from their steps, which leave no trace."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torch import Tensor, nn  # noqa: E402

from modnorm.adopting.interface import adopt  # noqa: E402
from modnorm.adopting.problems import AuditError  # noqa: E402
from modnorm.adopting.products import InFloat32  # noqa: E402
from modnorm.adopting.treatment import Treatment, treatments  # noqa: E402
from modnorm.adopting.updates import orthogonal  # noqa: E402
from tests import published  # noqa: E402

OPTIM = torch.optim


class One(nn.Module):
    """A parameter of a shape."""

    def __init__(self, *shape: int, dtype: Any = None) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.w = nn.Parameter(torch.randn(shape, generator=generator).to(dtype or torch.float32))


def treated(make: Callable[..., Any], *shape: int, **options: Any) -> Treatment:
    model = One(*shape)
    return treatments(model, make(model.parameters(), **options))["w"]


# --- kinds ----------------------------------------------------------------------------------

ELEMENTWISE = [OPTIM.Adam, OPTIM.AdamW, OPTIM.NAdam, OPTIM.Adamax, OPTIM.RMSprop, published.Lion]


@pytest.mark.parametrize("make", ELEMENTWISE)
@pytest.mark.parametrize("shape", [(40,), (24, 36), (12, 6, 3, 3)])
def test_entries_of_one_size(make: Any, shape: tuple[int, ...]) -> None:
    found = treated(make, *shape, lr=0.01)
    assert found.kind == "elementwise"
    assert abs(found.response) < 1e-3


@pytest.mark.parametrize("make", [OPTIM.Adam, OPTIM.AdamW, published.Lion])
def test_their_size_is_the_rate(make: Any) -> None:
    assert treated(make, 24, 36, lr=0.01).rms == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("options", [{}, {"momentum": 0.9}, {"momentum": 0.9, "nesterov": True}])
def test_plain_descent(options: dict[str, Any]) -> None:
    found = treated(OPTIM.SGD, 24, 36, lr=0.01, **options)
    assert found.kind == "proportional"
    assert found.response == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("make", [OPTIM.Adafactor, OPTIM.Rprop])
def test_what_is_neither_is_not_orthogonalised(make: Any) -> None:
    assert treated(make, 24, 36).kind in ("other", "elementwise")


SHAPES = [(24, 36), (36, 24), (30, 30), (120, 30), (30, 120), (5, 60)]
ADJUSTED: dict[Any, Callable[[int, int], float]] = {
    None: lambda m, n: max(1, m / n) ** 0.5,
    "original": lambda m, n: max(1, m / n) ** 0.5,
    "match_rms_adamw": lambda m, n: 0.2 * max(m, n) ** 0.5,
}
"""As torch documents them."""


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("adjust", ADJUSTED)
def test_muon_of_torch(shape: tuple[int, int], adjust: Any) -> None:
    found = treated(OPTIM.Muon, *shape, lr=0.01, adjust_lr_fn=adjust)
    assert (found.kind, found.key) == ("orthogonalised", "whole")
    assert 0.75 < found.scale / ADJUSTED[adjust](*shape) < 1.15  # its five steps end near there
    assert found.update is not None
    values = torch.linalg.svdvals(found.update)
    assert found.scale == pytest.approx(float(values.mean()), rel=0.05)
    assert abs(found.response) < 1e-3


@pytest.mark.parametrize("shape", [*SHAPES, (4, 7, 9), (1, 8)])
def test_orthogonal_factors_are_those_of_the_svd(shape: tuple[int, ...]) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    u, _, v = torch.linalg.svd(x, full_matrices=False)
    torch.testing.assert_close(orthogonal(x), u @ v, rtol=1e-6, atol=1e-6)


READINGS = [
    (published.Muon, (16, 4, 3, 3), "whole"),
    (published.Muon, (24, 8, 5), "whole"),
    (published.Muon, (4, 20, 12), "whole"),
    (published.LastAxisMuon, (4, 20, 12), "last"),
    (published.StackMuon, (4, 20, 12), "each"),
    (published.StackMuon, (6, 4, 3, 3), "sides"),
    (published.TransposedMuon, (24, 36), "whole"),
]


@pytest.mark.parametrize(("make", "shape", "key"), READINGS)
def test_matrices_of_several_axes(make: Any, shape: tuple[int, ...], key: str) -> None:
    found = treated(make, *shape)
    assert (found.kind, found.key) == ("orthogonalised", key)


@pytest.mark.parametrize(("rows", "count"), [(32, 2), (24, 2), (24, 3), (48, 4)])
def test_equal_blocks(rows: int, count: int) -> None:
    model = One(rows, 20)
    size = rows // count
    cut = [list(range(i * size, (i + 1) * size)) for i in range(count)]
    made = published.SplitMuon([{"params": [*model.parameters()], "rows": cut}])
    found = treatments(model, made)["w"]
    assert found.key == "rows"
    assert str(found).startswith(f"orthogonalised as {count} equal blocks of rows ({size}, ")


def test_the_rate_is_divided_out() -> None:
    one, two = (treated(OPTIM.Muon, 24, 36, lr=lr) for lr in (0.01, 0.04))
    assert one.scale == pytest.approx(two.scale, rel=5e-3)  # in bfloat16
    assert (one.holders[0].lr, two.holders[0].lr) == (0.01, 0.04)


@pytest.mark.parametrize("make", [OPTIM.AdamW, OPTIM.Muon, published.Lion])
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_decay_is_found_beside_the_update(make: Any, decay: float) -> None:
    found = treated(make, 24, 36, lr=0.01, weight_decay=decay)
    assert found.decay == pytest.approx(decay, abs=2e-3)
    assert found.holders[0].weight_decay == decay


@pytest.mark.parametrize("make", [OPTIM.AdamW, OPTIM.Muon])
def test_bfloat16(make: Any) -> None:
    model = One(24, 36, dtype=torch.bfloat16)
    found = treatments(model, make(model.parameters(), lr=1e-4))["w"]
    assert found.kind == treated(make, 24, 36, lr=1e-4).kind != "other"


def test_a_warm_up_from_nothing() -> None:
    model = One(24, 36)
    made = OPTIM.AdamW(model.parameters(), lr=0.01)
    OPTIM.lr_scheduler.LambdaLR(made, lambda step: step / 10)
    assert made.param_groups[0]["lr"] == 0
    found = treatments(model, made)["w"]
    assert (found.kind, found.holders[0].lr) == ("elementwise", 0.01)
    assert made.param_groups[0]["lr"] == 0


def test_sparse_gradients() -> None:
    table = nn.Embedding(30, 12, sparse=True)
    found = treatments(table, OPTIM.SparseAdam(table.parameters()))["weight"]
    assert found.kind == "elementwise"


def test_a_first_step_that_only_prepares() -> None:
    class Late(OPTIM.SGD):
        def step(self, closure: Any = None) -> None:  # type: ignore[override]
            ready = self.state.setdefault("ready", {"is": False})
            if ready["is"]:
                super().step()
            ready["is"] = True

    assert treated(Late, 24, 36, lr=0.01).kind == "proportional"


# --- parameters that look alike -------------------------------------------------------------


def layers(count: int = 4) -> nn.Module:
    torch.manual_seed(0)
    return nn.ModuleList(nn.Linear(12, 16, bias=False) for _ in range(count))


@pytest.mark.parametrize("odd", range(4))
def test_one_that_is_treated_otherwise_than_others_of_its_shape(odd: int) -> None:
    class Passing(published.Muon):
        def mapped(self, p: Any, u: Any) -> Any:
            return u.sign() if p is self.param_groups[0]["params"][odd] else super().mapped(p, u)

    model = layers()
    found = treatments(model, Passing(model.parameters()))
    kinds = ["elementwise" if i == odd else "orthogonalised" for i in range(4)]
    assert [one.kind for one in found.values()] == kinds


@pytest.mark.parametrize("make", [OPTIM.AdamW, published.Muon, OPTIM.SGD])
def test_those_that_are_alike_are_found_as_if_alone(make: Any) -> None:
    model = layers()
    together = treatments(model, make(model.parameters(), lr=0.01, weight_decay=0.1))
    alone = treatments(model, [make([p], lr=0.01, weight_decay=0.1) for p in model.parameters()])
    for one, own in zip(together.values(), alone.values(), strict=True):
        for name in ("kind", "key"):
            assert getattr(one, name) == getattr(own, name)
        for name in ("scale", "rms", "response", "decay"):
            assert getattr(one, name) == pytest.approx(getattr(own, name), rel=1e-3, abs=1e-5)
        torch.testing.assert_close(one.update, own.update, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("product", [
    lambda a, b: a @ b, lambda a, b: torch.addmm(a, a, b, beta=0.5, alpha=2.0),
    lambda a, b: a.expand(3, -1, -1) @ b, lambda a, b: torch.baddbmm(a, a.expand(3, -1, -1),
                                                                     b.expand(3, -1, -1)),
])  # fmt: skip
def test_products_of_bfloat16_are_rounded_once(product: Any) -> None:
    a, b = torch.randn(2, 40, 40, generator=torch.Generator().manual_seed(0)).bfloat16()
    with InFloat32():
        found = product(a, b)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(
        found.double(), product(a.double(), b.double()), rtol=2**-8, atol=1e-5
    )


# --- who has a parameter --------------------------------------------------------------------


def test_groups_and_optimizers() -> None:
    model = nn.Sequential(nn.Linear(8, 12), nn.Linear(12, 5))
    weights = [model[0].weight, model[1].weight]
    adam = OPTIM.AdamW([{"params": [model[0].bias]}, {"params": [model[1].weight], "lr": 0.1}])
    found = treatments(model, [OPTIM.Muon(weights, lr=0.02), adam])
    where = {
        n: [(h.optimizer, h.index, h.group, h.lr) for h in t.holders] for n, t in found.items()
    }
    assert where == {
        "0.weight": [("Muon", 0, 0, 0.02)],
        "0.bias": [("AdamW", 1, 0, 0.001)],
        "1.weight": [("Muon", 0, 0, 0.02), ("AdamW", 1, 1, 0.1)],
        "1.bias": [],
    }
    assert str(found["1.bias"]) == "given to no optimizer"
    assert found["0.weight"].kind == "orthogonalised"


def test_what_is_frozen_is_left_out() -> None:
    model = nn.Linear(8, 12)
    model.bias.requires_grad_(False)
    assert list(treatments(model, OPTIM.AdamW(model.parameters()))) == ["weight"]


class Gradless:
    """No optimizer of torch's, and yet one."""

    def __init__(self, params: Any) -> None:
        self.param_groups = [{"params": [*params], "lr": 0.5}]

    def step(self) -> None:
        for p in self.param_groups[0]["params"]:
            p.data -= 0.5 * p.grad.sign()


def test_whatever_has_groups_and_steps() -> None:
    found = treated(Gradless, 8, 12)
    assert (found.kind, found.rms) == ("elementwise", pytest.approx(1, abs=1e-5))


def test_what_cannot_be_looked_at_is_told() -> None:
    model = One(4, 6)
    with pytest.raises(AuditError, match=r"^LBFGS cannot be looked at, .* raised TypeError: "):
        treatments(model, OPTIM.LBFGS(model.parameters()))
    with pytest.raises(AuditError, match=r"^function is no optimizer: it has no list"):
        treatments(model, lambda: None)


# --- no trace -------------------------------------------------------------------------------


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 10), nn.Tanh(), nn.Linear(10, 10), nn.Linear(10, 4))


def in_two(model: nn.Module) -> list[Any]:
    hidden = [p for p in model.parameters() if p.ndim == 2]
    return [OPTIM.Muon(hidden), OPTIM.AdamW([p for p in model.parameters() if p.ndim < 2])]


def whole(make: Any, **options: Any) -> Callable[[nn.Module], list[Any]]:
    return lambda model: [make(model.parameters(), **options)]


MADE: dict[str, Callable[[nn.Module], list[Any]]] = {
    "sgd": whole(OPTIM.SGD, lr=0.1, momentum=0.9, weight_decay=0.01),
    "adamw": whole(OPTIM.AdamW, amsgrad=True),
    "tensor rate": whole(OPTIM.Adam, lr=torch.tensor(1e-3)),
    "asgd": whole(OPTIM.ASGD),
    "adafactor": whole(OPTIM.Adafactor),
    "muon and adamw": in_two,
    "lion": whole(published.Lion, weight_decay=0.1),
    "jordan": whole(published.MuonWithAdam, clip=1.0),
    **{
        kind: lambda model, kind=kind: [adopt(model, torch.ones(2, 6), kind)]
        for kind in ("dualized_sgd", "normed_adam", "normed_sgd")
    },
}


def train(model: nn.Module, made: list[Any], steps: int) -> None:
    for _ in range(steps):
        for one in made:
            one.zero_grad()
        model(torch.randn(5, 6)).square().mean().backward()
        for one in made:
            one.step()


def kept(model: nn.Module, made: list[Any]) -> Any:
    grads = [p.grad for p in model.parameters()]
    return copy.deepcopy(([o.state_dict() for o in made], model.state_dict(), grads,
                          torch.get_rng_state()))  # fmt: skip


def same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


@pytest.mark.parametrize("before", [0, 3])
@pytest.mark.parametrize("name", MADE)
def test_everything_is_put_back(name: str, before: int) -> None:
    model = network()
    made = MADE[name](model)
    train(model, made, before)
    held = [(id(p), p.data_ptr()) for p in model.parameters()]
    states = [id(x) for o in made for s in o.state.values() for x in s.values()]
    old = kept(model, made)
    treatments(model, made)
    assert same(kept(model, made), old)
    assert held == [(id(p), p.data_ptr()) for p in model.parameters()]
    assert states == [id(x) for o in made for s in o.state.values() for x in s.values()]


@pytest.mark.parametrize("name", MADE)
def test_training_goes_on_as_if_nothing_was(name: str) -> None:
    ends = []
    for looked in (False, True):
        model = network()
        made = MADE[name](model)
        train(model, made, 2)
        if looked:
            treatments(model, made)
        train(model, made, 3)
        ends.append(kept(model, made))
    assert same(*ends)


def test_everything_is_put_back_when_a_step_fails() -> None:
    class Breaks(OPTIM.AdamW):
        def step(self, closure: Any = None) -> Any:
            super().step()
            raise RuntimeError("no")

    model = network()
    made = [Breaks(model.parameters())]
    old = kept(model, made)
    with pytest.raises(AuditError, match=r"^Breaks cannot be looked at, .* RuntimeError: no$"):
        treatments(model, made)
    assert same(kept(model, made), old)


@pytest.mark.parametrize("name", ["sgd", "adamw", "muon and adamw", "lion", "dualized_sgd"])
def test_earlier_steps_change_nothing_of_what_is_found(name: str) -> None:
    model = network()
    made = MADE[name](model)
    fresh = treatments(model, made)
    train(model, made, 4)
    later = treatments(model, made)
    assert {n: str(t) for n, t in later.items()} == {n: str(t) for n, t in fresh.items()}
