"""`modnorm.adopt` on the models of tests/zoo: what it finds is what was read in their sources."""

from __future__ import annotations

import math
import os
import warnings
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torch import Tensor, nn  # noqa: E402

import modnorm  # noqa: E402
from modnorm.kernels import DualizedSGD, NormedAdam, Plan  # noqa: E402
from modnorm.kernels.plan import plan_hash  # noqa: E402
from modnorm.kernels.weight import Weight  # noqa: E402
from tests.zoo import ZOO, Entry, Expected  # noqa: E402

CLASSES = {"normed_adam": NormedAdam, "dualized_sgd": DualizedSGD}
LONG = bool(os.environ.get("MODNORM_LONG"))
RATE, STEPS = 0.3, 20
FALL = 0.9
SLOW = {"opt": 0.98, "efficientnet": 0.95, "lstm": 0.985, "gcn": 0.985, "dit": 0.95}
"""Of what it was, the loss after 20 steps; less falls where sums over time or many branches, of
which each is allowed for, cancel, or where every gate begins at zero."""
HOOKS = (
    "_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks",
    "_forward_hooks_always_called", "_state_dict_hooks", "_load_state_dict_pre_hooks",
)  # fmt: skip
EVERYWHERE = (
    "_global_forward_hooks", "_global_forward_pre_hooks", "_global_backward_hooks",
    "_global_backward_pre_hooks", "_global_forward_hooks_always_called",
)  # fmt: skip


@dataclass(frozen=True)
class Adopted:
    """A model of the zoo, its plan, what was warned of, and how it was before and after."""

    entry: Entry
    model: nn.Module
    example: Any
    plan: Any
    warned: list[str]
    before: dict[str, Any]
    after: dict[str, Any]

    def records(self) -> dict[str, list[Weight]]:
        """By name of a parameter, the records of the weights in it."""
        found: dict[str, list[Weight]] = defaultdict(list)
        for w in self.plan:
            found[w.layout.parameter if w.layout else w.name].append(w)
        return found

    def trained(self) -> dict[str, tuple[nn.Parameter, Expected]]:
        """The parameters that a plan has to have, and what they are."""
        own = dict(self.model.named_parameters())
        expected = self.entry.named(list(own))
        return {n: (own[n], x) for n, x in expected.items() if not self.entry.is_unused(n)}


def state(model: nn.Module) -> dict[str, Any]:
    """All that adopting could change: copies of numbers, and the rest as it is."""
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return {
        "numbers": {name: (id(x), x.detach().clone()) for name, x in tensors.items()},
        "written": {name: x._version for name, x in model.named_parameters()},
        "trained": {name: (x.requires_grad, x.grad) for name, x in tensors.items()},
        "training": {name: m.training for name, m in model.named_modules()},
        "hooks": {
            name: {hook: len(getattr(m, hook, ())) for hook in HOOKS}
            for name, m in model.named_modules()
        },
        "global hooks": [len(getattr(nn.modules.module, hook)) for hook in EVERYWHERE],
        "attributes": {name: sorted(vars(m)) for name, m in model.named_modules()},
        "random": torch.get_rng_state(),
        "gradients": torch.is_grad_enabled(),
    }


def same(one: Any, other: Any) -> bool:
    """Equal, tensors bit for bit."""
    if isinstance(one, Tensor):
        return isinstance(other, Tensor) and one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, Mapping):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


@pytest.fixture(params=ZOO, scope="module")
def adopted(request: pytest.FixtureRequest) -> Adopted:
    entry: Entry = ZOO[request.param]
    if entry.needs is not None:
        pytest.importorskip(entry.needs)
    model, example = entry.build(), entry.example()
    before = state(model)
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        plan = modnorm.adopt(model, example, plan_only=True)
    ours = [str(w.message) for w in heard if w.filename == __file__]  # where adopt was called
    return Adopted(entry, model, example, plan, ours, before, state(model))


# --- what is found --------------------------------------------------------------------------


def test_roles(adopted: Adopted) -> None:
    found = {name: {w.role for w in own} for name, own in adopted.records().items()}
    assert found == {name: {what.role} for name, (_, what) in adopted.trained().items()}


def test_cuts(adopted: Adopted) -> None:
    """The rows of each logical weight, along the axis of a parameter's output features."""
    records = adopted.records()
    for name, (p, what) in adopted.trained().items():
        if not p.ndim:
            continue
        size = p.shape[what.axis]
        shape = [-1 if axis == what.axis else 1 for axis in range(p.ndim)]
        numbers = torch.arange(size).view(shape).expand(p.shape).contiguous()
        found = sorted(sorted(set(w.part(numbers).flatten().tolist())) for w in records[name])
        wanted = sorted(sorted(rows) for _, rows in what.pieces) or [list(range(size))]
        assert found == wanted, name


def test_each_entry_is_of_one_weight(adopted: Adopted) -> None:
    records = adopted.records()
    for name, (p, _) in adopted.trained().items():
        numbers = torch.arange(p.numel()).view(p.shape)
        held = [w.cut(numbers) for w in records[name]]
        assert [tuple(x.shape) for x in held] == [w.shape for w in records[name]], name
        assert torch.cat([x.flatten() for x in held]).sort().values.equal(numbers.flatten()), name


def test_what_is_not_used_is_named(adopted: Adopted) -> None:
    missing = sorted(
        name for name, p in adopted.model.named_parameters()
        if p.requires_grad and adopted.entry.is_unused(name)
    )  # fmt: skip
    opaque = sorted(w.name for w in adopted.plan if w.role == "opaque")
    assert len(adopted.warned) == bool(missing) + bool(opaque)
    said = " ".join(adopted.warned)
    assert all(name in said for name in (*missing, *opaque))


def test_masses_and_targets_are_numbers_above_0(adopted: Adopted) -> None:
    for w in adopted.plan:
        assert 0 < w.mass < math.inf, w.name
        assert 0 < w.target < math.inf, w.name


def test_the_model_stays_as_it_was(adopted: Adopted) -> None:
    for key, was in adopted.before.items():
        assert same(was, adopted.after[key]), key


def test_plans_are_kept_in_files(adopted: Adopted, tmp_path: Path) -> None:
    adopted.plan.save(tmp_path / "plan.json")
    loaded = modnorm.load_plan(tmp_path / "plan.json")
    assert loaded == adopted.plan
    assert plan_hash(loaded) == plan_hash(adopted.plan)
    assert (loaded.model, loaded.stored) == (adopted.plan.model, adopted.plan.stored)


# --- training -------------------------------------------------------------------------------


@pytest.fixture(params=CLASSES)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=CLASSES if LONG else [None])
def one_kind(request: pytest.FixtureRequest, adopted: Adopted) -> str:
    """Of every second model another one."""
    kinds = list(CLASSES)
    at = next(i for i, entry in enumerate(ZOO.values()) if entry is adopted.entry)
    return str(request.param or kinds[at % len(kinds)])


def train(adopted: Adopted, model: nn.Module, optimizer: Any, steps: range) -> Iterator[float]:
    """The loss before each of some steps, at a rate that falls to 0 in all of them."""
    args, kwargs = adopted.example
    for step in steps:
        for group in optimizer.param_groups:
            group["lr"] = RATE * (1 - step / STEPS)
        loss = adopted.entry.loss(model(*args, **kwargs))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        yield loss.item()


def test_it_learns(adopted: Adopted, one_kind: str) -> None:
    model = adopted.entry.build()
    optimizer = modnorm.adopt(model, kind=one_kind, plan=adopted.plan)
    losses = list(train(adopted, model, optimizer, range(STEPS)))
    name = next(key for key, entry in ZOO.items() if entry is adopted.entry)
    assert losses[-1] < SLOW.get(name, FALL) * losses[0]


def test_what_is_stored_together_moves_as_if_alone(adopted: Adopted, kind: str) -> None:
    """Each weight as a parameter of its own, of the same target, on the same gradients."""
    model = adopted.entry.build().double()
    optimizer = modnorm.adopt(model, kind=kind, plan=adopted.plan, lr=RATE)
    own = dict(model.named_parameters())
    records = [(w, own[name]) for name, held in adopted.records().items() for w in held]
    alone = [nn.Parameter(w.cut(p.detach()).clone().reshape(w.shape)) for w, p in records]
    plan = Plan([w._replace(layout=None) for w, _ in records])
    named = list(zip([w.name for w, _ in records], alone, strict=True))
    other = CLASSES[kind](named, plan=plan, lr=RATE)
    before = [x.detach().clone() for x in alone]
    generator = torch.Generator().manual_seed(1)
    for _ in range(2):
        for name in adopted.records():
            own[name].grad = torch.randn(own[name].shape, generator=generator, dtype=torch.float64)
        for x, (w, p) in zip(alone, records, strict=True):
            assert p.grad is not None
            x.grad = w.cut(p.grad).clone().reshape(w.shape)
        optimizer.step()
        other.step()
    for x, old, (w, p) in zip(alone, before, records, strict=True):
        moved = float((x.detach() - old).abs().max())
        assert moved > 0, w.name
        found = w.cut(p.detach()).reshape(w.shape)
        torch.testing.assert_close(found, x.detach(), rtol=0, atol=1e-6 * moved)


def test_it_goes_on_bit_for_bit(adopted: Adopted, one_kind: str) -> None:
    model = adopted.entry.build()
    optimizer = modnorm.adopt(model, kind=one_kind, plan=adopted.plan)
    list(train(adopted, model, optimizer, range(5)))
    file = BytesIO()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, file)
    wanted = list(train(adopted, model, optimizer, range(5, 10)))
    file.seek(0)
    kept = torch.load(file, weights_only=True)
    other = adopted.entry.build()
    other.load_state_dict(kept["model"])
    again = modnorm.adopt(other, kind=one_kind, plan=adopted.plan)
    again.load_state_dict(kept["optimizer"])
    assert list(train(adopted, other, again, range(5, 10))) == wanted
    assert same(other.state_dict(), model.state_dict())
