"""Saving, loading, copying and pickling: nothing is lost, and nothing wrong is taken."""

from __future__ import annotations

import copy
import io
import math
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from optimizer_cases import KINDS, PLAN, Named, everything, give_gradients, parameters, run
from torch import nn

from modnorm.kernels import DualizedSGD, NormedAdam, NormedOptimizer, NormedSGD
from modnorm.kernels.plan import plan_hash

TYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]


def through_a_file(value: Any) -> Any:
    file = io.BytesIO()
    torch.save(value, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def go_on(optimizer: NormedOptimizer, named: Named, first: int, count: int) -> None:
    for step in range(first, first + count):
        give_gradients(named, step)
        optimizer.step()


def same(one: NormedOptimizer, a: Named, other: NormedOptimizer, b: Named) -> bool:
    pairs = zip(everything(one, a), everything(other, b), strict=True)
    return all(torch.equal(x, y) and x.dtype == y.dtype for x, y in pairs)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("done", [0, 1, 3])
def test_resuming_is_bit_for_bit(kind: Any, dtype: torch.dtype, done: int) -> None:
    straight, named = parameters(dtype), parameters(dtype)
    whole = run(kind, straight, done + 3, weight_decay=0.1)
    part = run(kind, named, done, weight_decay=0.1)
    saved = through_a_file({"optimizer": part.state_dict(), "values": [p for _, p in named]})
    resumed = [(name, nn.Parameter(x)) for (name, _), x in zip(named, saved["values"], strict=True)]
    optimizer = kind(resumed, lr=0.7, plan=PLAN)
    optimizer.load_state_dict(saved["optimizer"])
    assert optimizer.param_groups[0]["lr"] == 0.1
    go_on(optimizer, resumed, done, 3)
    assert same(whole, straight, optimizer, resumed)


def test_a_loaded_state_is_a_copy() -> None:
    named, other = parameters(), parameters()
    source, optimizer = run(NormedAdam, named, 2), NormedAdam(other, lr=0.1, plan=PLAN)
    optimizer.load_state_dict(source.state_dict())
    before = everything(optimizer, other)
    go_on(source, named, 2, 2)
    assert all(torch.equal(x, y) for x, y in zip(before, everything(optimizer, other), strict=True))


def test_state_dict_is_in_torchs_format_and_names_the_plan() -> None:
    optimizer = run(NormedAdam, parameters(), 1)
    saved = optimizer.state_dict()
    assert saved["param_groups"][0]["params"] == list(range(len(PLAN)))
    assert saved["param_groups"][0]["param_names"] == [w.name for w in PLAN]
    assert set(saved["state"][2]) == {"exp_avg", "exp_avg_sq", "vector"}
    assert set(saved["state"][0]) == {"exp_avg", "exp_avg_sq"}
    assert saved["plan_hash"] == plan_hash(PLAN)
    assert saved["plan"] == [tuple(w)[:6] for w in PLAN]
    assert saved["optimizer"] == "NormedAdam"


def test_skipped_is_kept() -> None:
    named, other = parameters(), parameters()
    optimizer = run(NormedAdam, named, 1, nonfinite="skip")
    give_gradients(named, 1)
    dict(named)["a.weight"].grad = torch.full((5, 4), math.nan)
    optimizer.step()
    resumed = NormedAdam(other, lr=0.1, plan=PLAN)
    resumed.load_state_dict(through_a_file(optimizer.state_dict()))
    assert resumed.skipped == {"a.weight": 1}
    assert pickle.loads(pickle.dumps(optimizer)).skipped == {"a.weight": 1}


def test_groups_prefixes_and_schedulers_survive() -> None:
    def make(prefix: str) -> tuple[Named, NormedOptimizer, Any]:
        named = [(prefix + name, p) for name, p in parameters()]
        groups = [{"params": named[:3], "lr": 0.3}, {"params": named[3:], "weight_decay": 0.1}]
        optimizer = NormedAdam(groups, lr=0.1, plan=PLAN)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10)
        return named, optimizer, schedule

    named, optimizer, schedule = make("_orig_mod.")
    for step in range(2):
        go_on(optimizer, named, step, 1)
        schedule.step()
    other, resumed, schedule2 = make("")
    for (_, p), (_, q) in zip(named, other, strict=True):
        q.data = p.data.clone()
    resumed.load_state_dict(through_a_file(optimizer.state_dict()))
    schedule2.load_state_dict(through_a_file(schedule.state_dict()))
    for step in range(2, 4):
        for some, opt, plan in ((named, optimizer, schedule), (other, resumed, schedule2)):
            go_on(opt, some, step, 1)
            plan.step()
    assert same(optimizer, named, resumed, other)
    assert [g["lr"] for g in optimizer.param_groups] == [g["lr"] for g in resumed.param_groups]


def test_hooks_are_called() -> None:
    optimizer, calls = run(NormedAdam, parameters(), 1), []
    optimizer.register_load_state_dict_pre_hook(lambda opt, saved: calls.append("before"))
    optimizer.register_load_state_dict_post_hook(lambda opt: calls.append("after"))
    optimizer.load_state_dict(optimizer.state_dict())
    assert calls == ["before", "after"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_copies_go_on_as_the_original(
    kind: Any, dtype: torch.dtype, copied: Callable[[Any], Any]
) -> None:
    named = parameters(dtype)
    optimizer = run(kind, named, 2)
    both = copied({"named": named, "optimizer": optimizer})
    go_on(optimizer, named, 2, 2)
    go_on(both["optimizer"], both["named"], 2, 2)
    assert both["named"][0][1] is not named[0][1]
    assert same(optimizer, named, both["optimizer"], both["named"])


def test_a_weight_without_saved_state_starts_afresh() -> None:
    """As torch's optimizers do: it may have been frozen by requires_grad until then."""
    named = parameters()
    dict(named)["a.weight"].requires_grad_(False)
    saved = run(NormedAdam, named, 2).state_dict()
    assert 2 not in saved["state"]
    optimizer = NormedAdam(parameters(), lr=0.1, plan=PLAN)
    optimizer.load_state_dict(saved)
    optimizer.param_groups[0]["missing"] = "skip"
    p = optimizer.param_groups[0]["params"][2]
    assert not optimizer.state.get(p)
    p.grad = torch.ones_like(p)
    optimizer.step()
    torch.testing.assert_close(optimizer.state[p]["exp_avg"], torch.full((5, 4), 0.1))


def test_from_float32_to_float64() -> None:
    named, wide = parameters(), parameters(torch.float64)
    optimizer, other = run(NormedAdam, named, 2), NormedAdam(wide, lr=0.1, plan=PLAN)
    other.load_state_dict(optimizer.state_dict())
    for (_, p), (_, q) in zip(named, wide, strict=True):
        for key, x in optimizer.state.get(p, {}).items():
            assert torch.equal(other.state[q][key], x.double())


def reject(saved: Any, match: str, kind: Any = NormedAdam, plan: Any = PLAN) -> str:
    """Loading is refused, and the optimizer that refused goes on as if nothing had been."""
    named, untouched = parameters(), parameters()
    optimizer, other = run(kind, named, 2, plan=plan), run(kind, untouched, 2, plan=plan)
    with pytest.raises(ValueError, match=match) as caught:
        optimizer.load_state_dict(saved)
    assert optimizer.skipped == {}
    assert optimizer.param_groups[0]["lr"] == 0.1
    go_on(optimizer, named, 2, 2)
    go_on(other, untouched, 2, 2)
    assert same(optimizer, named, other, untouched)
    return str(caught.value)


@pytest.mark.parametrize(
    "saved",
    [None, 3, [], "state", {}, {"state": {}, "param_groups": []}, {"plan": [], "plan_hash": ""}],
)
def test_what_is_no_state_dict(saved: Any) -> None:
    reject(saved, "no state_dict of NormedAdam")


def test_states_of_torchs_optimizers() -> None:
    adam = torch.optim.Adam(parameters(), lr=0.1)
    reject(adam.state_dict(), "no state_dict of NormedAdam")


def test_states_of_the_other_optimizers() -> None:
    reject(run(NormedSGD, parameters(), 2).state_dict(), "optimizer: NormedSGD instead of NormedA")
    saved = run(NormedAdam, parameters(), 2).state_dict()
    reject(saved, "optimizer: NormedAdam instead of DualizedSGD", kind=DualizedSGD)


def test_another_plan_is_refused_with_the_differences() -> None:
    saved = run(NormedAdam, parameters(), 2).state_dict()
    for field, value, words in (
        ("target", 0.45, "a.weight target: 0.2 instead of 0.45"),
        ("mass", 2.0, "a.weight mass: 1.0 instead of 2.0"),
        ("atom", "Unembed", "a.weight atom: Linear instead of Unembed"),
        ("norm", "row_rms", "a.weight norm: spectral instead of row_rms"),
    ):
        plan = (*PLAN[:2], PLAN[2]._replace(**{field: value}), *PLAN[3:])
        text = reject(saved, "plan", plan=plan)
        assert words in text
        assert "b.weight" not in text
    reordered = (*PLAN[:2], PLAN[3], PLAN[2], *PLAN[4:])
    reject(saved, "plan_hash", plan=reordered)


def test_a_plan_with_other_weights() -> None:
    named = parameters()[:4]
    optimizer = NormedAdam(named, lr=0.1, plan=PLAN[:4])
    go_on(optimizer, named, 0, 1)
    with pytest.raises(ValueError, match=r"plan bias\.weight: unknown"):
        optimizer.load_state_dict(run(NormedAdam, parameters(), 1).state_dict())
    text = reject(optimizer.state_dict(), "plan still.weight: missing")
    assert "bias.weight" in text


def damaged(change: Callable[[dict[str, Any]], object], dtype: torch.dtype = torch.float32) -> Any:
    saved = copy.deepcopy(run(NormedAdam, parameters(dtype), 2).state_dict())
    change(saved)
    return saved


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda s: (s.pop("plan_hash"), s["param_groups"][0].pop("plan_hash")), "names no plan"),
        (lambda s: s.update(skipped=3), "no state_dict"),
        (lambda s: s.update(plan=[1, 2]), "no state_dict"),
        (lambda s: s.update(plan=[("a", "b")]), "no state_dict"),
        (lambda s: s.update(plan_hash="abc"), "plan_hash: abc instead of"),
        (lambda s: s.update(state=None), "no state_dict"),
        (lambda s: s.update(state={2: 5}), "no state_dict"),
        (lambda s: s.update(param_groups={}), "."),
        (lambda s: s["param_groups"].pop(), r"parameter embed\.weight: missing"),
        (
            lambda s: s["param_groups"].append(s["param_groups"][0]),
            r"parameter embed\.weight: group 1",
        ),
        (lambda s: s["param_groups"][0].pop("lr"), "options"),
        (lambda s: s["param_groups"][0].pop("betas"), "options"),
        (lambda s: s["param_groups"][0].pop("params"), "params"),
        (lambda s: s["param_groups"][0].pop("param_names"), "param_names"),
        (lambda s: s["param_groups"][0].update(lr=-1.0), "lr must"),
        (lambda s: s["param_groups"][0]["params"].pop(), "no state_dict"),
        (lambda s: s["param_groups"][0]["param_names"].reverse(), "parameter embed"),
        (lambda s: s["state"][2].pop("vector"), r"state a\.weight vector: missing"),
        (lambda s: s["state"][2].pop("exp_avg"), r"state a\.weight exp_avg: missing"),
        (lambda s: s["state"][2].update(vector=torch.ones(5)), r"vector: \(5,\) instead of \(4,\)"),
        (lambda s: s["state"][2].update(exp_avg=torch.ones(4, 5)), r"exp_avg: \(4, 5\) instead of"),
        (lambda s: s["state"][2].update(exp_avg=3), "no state_dict"),
        (lambda s: s["state"][2]["exp_avg"].fill_(math.nan), "exp_avg: not finite"),
        (lambda s: s["state"][2]["exp_avg_sq"][1].fill_(-1.0), "exp_avg_sq: negative"),
        (lambda s: s["state"][3]["vector"].fill_(math.inf), r"b\.weight vector: not finite"),
        (lambda s: s["state"].update({4: s["state"][2]}), r"state still\.weight"),
    ],
)
def test_damaged_states(change: Callable[[dict[str, Any]], object], match: str) -> None:
    reject(damaged(change), match)


def test_a_16_bit_run_is_not_mistaken_for_a_32_bit_one() -> None:
    reject(damaged(lambda s: None, torch.bfloat16), r"state embed\.weight master")
