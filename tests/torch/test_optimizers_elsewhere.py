"""Optimizers in loops that others wrote: checkpoints, hooks, wrappers, groups, compilers."""

from __future__ import annotations

import copy
import io
import math
import os
import pickle
import re
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from optimizer_cases import KINDS, PLAN, everything, give_gradients, parameters, run, values
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    get_state_dict,
    set_optimizer_state_dict,
    set_state_dict,
)

import modnorm
from modnorm.kernels import DualizedSGD, NormedAdam, NormedSGD
from modnorm.kernels.weight import plan_names

TEXT = """
input x: float[batch, 8]
model Net = Linear(3) @ (Tanh @ Linear(16)) ** 2 @ Tanh @ Linear(16, mass = 0) @ Linear(16)
"""
NAMES = ["NormedAdam", "NormedSGD", "DualizedSGD"]


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A generated file."""
    path = tmp_path_factory.mktemp("net") / "net.mod"
    path.write_text(TEXT)
    return modnorm.load(str(path))


def made(net: Any, kind: str = "NormedAdam", seed: int = 0, **options: Any) -> tuple[Any, Any]:
    model = net.Net(generator=torch.Generator().manual_seed(seed))
    return model, getattr(net, kind)(model.named_parameters(), **{"lr": 0.1, **options})


def loss_of(model: Any, step: int = 0) -> Tensor:
    x = torch.randn(4, 8, generator=torch.Generator().manual_seed(step))
    return nn.functional.cross_entropy(model(x), torch.tensor([0, 1, 2, 0]))


def train(model: Any, optimizer: Any, steps: range | int) -> None:
    for step in range(steps) if isinstance(steps, int) else steps:
        loss_of(model, step).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()


def alike(one: Any, other: Any) -> bool:
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return all(torch.equal(p, q) for p, q in pairs)


def through_a_file(value: Any) -> Any:
    file = io.BytesIO()
    torch.save(value, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


# -- checkpoints ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", NAMES)
@pytest.mark.parametrize("flat", [False, True])
def test_distributed_checkpoints_resume_bit_for_bit(net: Any, kind: str, flat: bool) -> None:
    options = StateDictOptions(flatten_optimizer_state_dict=flat)
    model, optimizer = made(net, kind, nonfinite="skip")
    train(model, optimizer, 3)
    optimizer.skipped = {net.PLAN[0].name: 2}
    saved = through_a_file(get_state_dict(model, optimizer, options=options))
    again, resumed = made(net, kind, seed=1, lr=0.7)
    set_state_dict(
        again, resumed, model_state_dict=saved[0], optim_state_dict=saved[1], options=options
    )
    assert resumed.param_groups[0]["lr"] == 0.1
    assert resumed.skipped == optimizer.skipped
    for one in ((model, optimizer), (again, resumed)):
        train(*one, range(3, 6))
    assert alike(model, again)


def test_distributed_checkpoints_of_weights_in_another_order(net: Any) -> None:
    """There names, not places, say which state is whose."""
    model, optimizer = made(net)
    train(model, optimizer, 2)
    saved = get_optimizer_state_dict(model, optimizer)
    again = copy.deepcopy(model)
    turned = net.NormedAdam([*again.named_parameters()][::-1], lr=0.1)
    set_optimizer_state_dict(again, turned, saved)
    for one in ((model, optimizer), (again, turned)):
        train(*one, range(2, 4))
    assert alike(model, again)


@pytest.mark.parametrize("flat", [False, True])
def test_distributed_checkpoints_of_another_plan_are_refused(net: Any, flat: bool) -> None:
    options = StateDictOptions(flatten_optimizer_state_dict=flat)
    model, optimizer = made(net)
    train(model, optimizer, 1)
    saved = get_optimizer_state_dict(model, optimizer, options=options)
    plan = (net.PLAN[0]._replace(target=0.4321), *net.PLAN[1:])
    other = net.NormedAdam(model.named_parameters(), lr=0.1, plan=plan)
    before = [x.clone() for state in other.state.values() for x in state.values()]
    with pytest.raises(ValueError, match=r"plan_hash: [0-9a-f]{64} instead of"):
        set_optimizer_state_dict(model, other, saved, options=options)
    after = [x for state in other.state.values() for x in state.values()]
    assert all(map(torch.equal, before, after))


WORKER = """
import os, sys, torch
from torch.distributed.checkpoint.state_dict import *
from torch.nn.parallel import DistributedDataParallel
sys.path.insert(0, sys.argv[1])
import net
rank = int(sys.argv[2])
torch.distributed.init_process_group("gloo", init_method="file://" + sys.argv[1] + "/store",
                                     rank=rank, world_size=2)
def made(seed, kind):
    model = DistributedDataParallel(net.Net(generator=torch.Generator().manual_seed(seed)))
    return model, kind(model.named_parameters(), lr=0.1)
def train(model, optimizer, steps):
    for step in steps:
        x = torch.randn(4, 8, generator=torch.Generator().manual_seed(2 * step + rank))
        model(x).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
for kind in (net.NormedAdam, net.NormedSGD, net.DualizedSGD):
    for flat in (False, True):
        options = StateDictOptions(flatten_optimizer_state_dict=flat)
        model, optimizer = made(0, kind)
        train(model, optimizer, range(3))
        weights, state = get_state_dict(model, optimizer, options=options)
        again, resumed = made(1, kind)
        set_state_dict(again, resumed, model_state_dict=weights, optim_state_dict=state,
                       options=options)
        train(model, optimizer, range(3, 5))
        train(again, resumed, range(3, 5))
        pairs = zip(model.parameters(), again.parameters(), strict=True)
        assert all(torch.equal(p, q) for p, q in pairs)
        sums = torch.stack([p.detach().double().sum() for p in model.parameters()])
        both = [torch.empty_like(sums) for _ in range(2)]
        torch.distributed.all_gather(both, sums)
        assert torch.equal(*both)
torch.distributed.destroy_process_group()
print("both alike")
"""


@pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="needs gloo")
def test_distributed_checkpoints_under_data_parallelism(tmp_path: Path) -> None:
    (tmp_path / "net.mod").write_text(TEXT)
    source = modnorm.compile(str(tmp_path / "net.mod"))
    (tmp_path / "net.py").write_text(source if isinstance(source, str) else str(source))
    command = [sys.executable, "-c", WORKER, str(tmp_path)]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    ranks = [
        subprocess.Popen(
            [*command, rank], env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        for rank in "01"
    ]
    said = [process.communicate(timeout=240)[0].decode() for process in ranks]
    assert all(text.endswith("both alike\n") for text in said), said


def test_states_saved_before_groups_named_the_plan_are_still_read() -> None:
    named = parameters()
    saved = copy.deepcopy(run(NormedAdam, named, 2).state_dict())
    for group in saved["param_groups"]:
        for key in ("optimizer", "plan_hash", "skipped"):
            del group[key]
    saved["skipped"] = {"a.weight": 3}
    resumed = NormedAdam([(n, nn.Parameter(p.detach().clone())) for n, p in named], 0.1, plan=PLAN)
    resumed.load_state_dict(saved)
    assert resumed.skipped == {"a.weight": 3}


@pytest.mark.parametrize("kind", KINDS)
def test_policies_are_those_of_the_constructor(kind: Any) -> None:
    """A run that died of a NaN goes on with nonfinite="skip"; its checkpoint says "raise"."""
    saved = run(kind, parameters(), 2).state_dict()
    optimizer = kind(parameters(), lr=0.7, plan=PLAN, nonfinite="skip", missing="skip")
    optimizer.load_state_dict(saved)
    group = optimizer.param_groups[0]
    assert (group["nonfinite"], group["missing"], group["lr"]) == ("skip", "skip", 0.1)
    strict = kind(parameters(), lr=0.7, plan=PLAN)
    strict.load_state_dict(optimizer.state_dict())
    assert strict.param_groups[0]["nonfinite"] == strict.param_groups[0]["missing"] == "raise"


def test_wrong_checkpoints_are_refused_in_a_sentence_with_five_names() -> None:
    optimizer = run(NormedAdam, parameters(), 1)
    named = parameters()
    groups = [{"params": named[:5]}, {"params": named[5:]}]
    turned = NormedAdam(named[::-1], lr=0.1, plan=PLAN).state_dict()
    for saved, said in (
        (torch.optim.AdamW(parameters(), lr=0.1).state_dict(), "it names no plan"),
        (NormedAdam(groups, lr=0.1, plan=PLAN).state_dict(), "bias.weight: group 1, place 0 ins"),
        (turned, "embed.weight: group 0, place 11 instead of group 0, place 0"),
        ([("a", 1)], "no state_dict of NormedAdam"),
    ):
        with pytest.raises(ValueError, match=re.escape(said)) as caught:
            optimizer.load_state_dict(saved)
        text = str(caught.value)
        assert len(text) < 500
        assert sum(text.count(w.name) for w in PLAN) <= 5


def test_load_hooks_run_in_torchs_order() -> None:
    """A hook before may rename what is loaded, and one after it change what has been."""
    named, other = parameters(), parameters()
    saved = run(NormedAdam, named, 2).state_dict()
    renamed = copy.deepcopy(saved)
    for state in renamed["state"].values():
        state["m"] = state.pop("exp_avg") if "exp_avg" in state else None
    renamed["state"].pop(4, None)  # of the weight that is frozen
    optimizer = NormedAdam(other, lr=0.1, plan=PLAN)

    def rename(_: Any, given: dict[str, Any]) -> dict[str, Any]:
        states = {i: {**s, "exp_avg": s["m"]} for i, s in given["state"].items()}
        for state in states.values():
            del state["m"]
        return {**given, "state": states}

    seen = []

    def zero(loaded: Any) -> None:
        seen.append(loaded.state[other[2][1]]["exp_avg"].clone())
        loaded.state[other[2][1]]["exp_avg"].zero_()

    optimizer.register_load_state_dict_pre_hook(rename)
    optimizer.register_load_state_dict_post_hook(zero)
    optimizer.load_state_dict(renamed)
    assert torch.equal(seen[0], saved["state"][2]["exp_avg"])
    assert not optimizer.state[other[2][1]]["exp_avg"].any()
    assert torch.equal(optimizer.state[other[3][1]]["exp_avg"], saved["state"][3]["exp_avg"])


def test_save_hooks_run_in_torchs_order() -> None:
    optimizer, calls = run(NormedAdam, parameters(), 1), []
    optimizer.register_state_dict_pre_hook(lambda _: calls.append("before"))
    optimizer.register_state_dict_post_hook(lambda _, saved: {**saved, "seen": saved["plan_hash"]})
    saved = optimizer.state_dict()
    assert calls == ["before"]
    assert saved["seen"] == saved["plan_hash"]
    NormedAdam(parameters(), lr=0.1, plan=PLAN).load_state_dict(saved)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("when", ["before the first step", "later"])
def test_what_wrappers_put_into_states_is_kept_saved_and_loaded(
    kind: Any, dtype: torch.dtype, when: str
) -> None:
    named, plain = parameters(dtype), parameters(dtype)
    optimizer = run(kind, named, 0 if when.startswith("before") else 1)
    extra = {name: torch.rand(p.shape) for name, p in named}
    for name, p in named:
        optimizer.state[p].update(z=extra[name].clone(), count=3, kind="averaged")
    for step in range(2):
        give_gradients(named, step)
        optimizer.step()
    if when == "later":
        run_on = run(kind, plain, 1)
        for step in range(2):
            give_gradients(plain, step)
            run_on.step()
    else:
        run(kind, plain, 2)
    assert all(torch.equal(p, q) for (_, p), (_, q) in zip(named, plain, strict=True))
    other = parameters(dtype)
    resumed = kind(other, lr=0.1, plan=PLAN)
    resumed.load_state_dict(through_a_file(optimizer.state_dict()))
    for one, pairs in ((optimizer, named), (resumed, other)):
        for name, p in pairs:
            state = one.state[p]
            assert (state["count"], state["kind"]) == (3, "averaged")
            assert torch.equal(state["z"], extra[name])


def test_a_state_that_a_wrapper_began_is_completed() -> None:
    """schedule_free's wrapper puts z there before the base optimizer has made its own."""
    named, plain = parameters(), parameters()
    optimizer = NormedAdam(named, lr=0.1, plan=PLAN)
    for _, p in named:
        optimizer.state[p] = {"z": p.detach().clone()}
    give_gradients(named)
    optimizer.step()
    run(NormedAdam, plain, 1)
    assert all(torch.equal(p, q) for (_, p), (_, q) in zip(named, plain, strict=True))


# -- groups --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_groups_that_were_replaced_count(kind: Any) -> None:
    named, plain = parameters(), parameters()
    optimizer, other = run(kind, named, 2), run(kind, plain, 2)
    optimizer.param_groups = [dict(group, lr=0.0) for group in optimizer.param_groups]
    before = values(named)
    give_gradients(named, 2)
    optimizer.step()
    assert all(torch.equal(p, before[name]) for name, p in named)
    optimizer.param_groups[0] = dict(optimizer.param_groups[0], lr=0.3)
    other.param_groups[0]["lr"] = 0.0
    give_gradients(plain, 2)
    other.step()
    other.param_groups[0]["lr"] = 0.3
    for pairs, one in ((named, optimizer), (plain, other)):
        give_gradients(pairs, 3)
        one.step()
    one, two = everything(optimizer, named), everything(other, plain)
    assert all(map(torch.equal, one, two))


@pytest.mark.parametrize("kind", KINDS)
def test_a_weight_taken_out_of_its_group_stays_and_may_come_back(kind: Any) -> None:
    named, plain = parameters(), parameters()
    optimizer, other = run(kind, named, 2), run(kind, plain, 2, missing="skip")
    p = optimizer.param_groups[0]["params"].pop(2)
    for step in (2, 3):
        for pairs, one in ((named, optimizer), (plain, other)):
            give_gradients(pairs, step)
            if one is other:
                dict(pairs)["a.weight"].grad = None
            one.step()
    assert torch.equal(p, dict(plain)["a.weight"])
    saved = optimizer.state_dict()
    assert "a.weight" not in saved["param_groups"][0]["param_names"]
    optimizer.load_state_dict(saved)
    copied = copy.deepcopy(optimizer)
    assert len(copied.state_dict()["state"]) == len(saved["state"])
    optimizer.param_groups[0]["params"].insert(2, p)
    for pairs, one in ((named, optimizer), (plain, other)):
        give_gradients(pairs, 4)
        one.step()
    assert all(map(torch.equal, everything(optimizer, named), everything(other, plain)))


def test_a_weight_may_come_back_in_a_group_of_its_own() -> None:
    named = parameters()
    optimizer = run(NormedAdam, named, 1)
    optimizer.param_groups[0]["params"].pop(2)
    optimizer.state_dict()
    optimizer.add_param_group({"params": [named[2]], "lr": 0.0})
    before = named[2][1].detach().clone()
    give_gradients(named, 1)
    optimizer.step()
    assert torch.equal(named[2][1], before)
    assert not torch.equal(named[3][1], before)
    with pytest.raises(ValueError, match="no weight of the plan is left"):
        optimizer.add_param_group({"params": [("x", nn.Parameter(torch.zeros(2)))]})
    assert [len(group["params"]) for group in optimizer.param_groups] == [len(PLAN) - 1, 1]


@pytest.mark.parametrize("kind", KINDS)
def test_a_group_may_be_added_after_a_step(kind: Any) -> None:
    """Layers that are unfrozen one by one, say."""
    named = parameters()
    for _, p in named[2:]:
        p.requires_grad_(False)
    optimizer = kind(named[:2], lr=0.1, plan=PLAN, missing="skip")
    give_gradients(named[:2], 0)
    optimizer.step()
    for _, p in named[2:]:
        p.requires_grad_(True)
    optimizer.add_param_group({"params": named[2:], "lr": 0.2})
    before = values(named)
    give_gradients(named, 1)
    optimizer.step()
    moved = {name for name, p in named if not torch.equal(p, before[name])}
    assert moved == {w.name for w in PLAN if w.target}
    saved = optimizer.state_dict()
    again = kind(named[:2], lr=0.1, plan=PLAN, missing="skip")
    again.add_param_group({"params": named[2:]})
    again.load_state_dict(saved)


def test_options_that_there_are_not_are_refused_in_groups() -> None:
    named = parameters()
    for key, said in (
        ("momentm", r"NormedSGD has no option 'momentm' for a group: did you mean 'momentum'\?"),
        ("betas", r"NormedSGD has no option 'betas' for a group$"),
    ):
        with pytest.raises(ValueError, match=said):
            NormedSGD([{"params": named, key: 0.5}], lr=0.1, plan=PLAN)
    optimizer = NormedSGD([{"params": named, "my_label": "all", "initial_lr": 1.0}], plan=PLAN)
    assert optimizer.param_groups[0]["my_label"] == "all"


def test_a_rate_of_habit_is_warned_of_in_any_group() -> None:
    named = parameters()
    with pytest.warns(UserWarning, match=r"lr=0\.001 is far below any that works"):
        NormedAdam([{"params": named[:3], "lr": 1e-3}, {"params": named[3:]}], plan=PLAN)


@pytest.mark.parametrize("policy", ["raise", "skip"])
def test_an_automatic_step_leaves_out_a_weight_that_is_not_finite(policy: str) -> None:
    named = parameters()
    optimizer = NormedAdam(named, lr="auto", smoothness=1.0, plan=PLAN, nonfinite=policy)
    name, spoiled = named[2]
    with torch.no_grad():
        spoiled.view(-1)[0] = math.nan
    give_gradients(named, 0)
    before = values(named)
    if policy == "raise":
        with pytest.raises(FloatingPointError, match=name):
            optimizer.step()
    else:
        optimizer.step()
        assert optimizer.skipped == {name: 1}
    assert torch.equal(spoiled.view(-1)[1:], before[name].view(-1)[1:])
    assert not torch.equal(named[3][1], before[named[3][0]])


def test_strangers_in_a_group_are_refused() -> None:
    named = parameters()
    optimizer = run(NormedAdam, named, 1)
    before = values(named)
    optimizer.param_groups[0]["params"][2] = nn.Parameter(torch.zeros(3, 3))
    give_gradients(named, 1)
    with pytest.raises(ValueError, match=r"a\.weight: floating \(3, 3\) instead of floating"):
        optimizer.step()
    optimizer.param_groups[0]["params"][2] = named[2][1]
    optimizer.param_groups[0]["params"].append(nn.Parameter(torch.zeros(3, 3)))
    with pytest.raises(ValueError, match="parameters need their names"):
        optimizer.step()
    assert all(torch.equal(p, before[name]) for name, p in named)


def test_no_group_at_all_moves_nothing() -> None:
    named = parameters()
    optimizer = run(NormedAdam, named, 1)
    before, optimizer.param_groups = values(named), []
    give_gradients(named, 1)
    optimizer.step()
    assert all(torch.equal(p, before[name]) for name, p in named)


# -- names and parameters ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "part", ["_checkpoint_wrapped_module", "_fsdp_wrapped_module", "_module", "module", "_orig_mod"]
)
def test_wrappers_parts_inside_names_are_taken_out(part: str) -> None:
    named = [(name.replace(".weight", f".{part}.weight"), p) for name, p in parameters()]
    run(NormedAdam, [(f"{part}.{name}", p) for name, p in named], 1)


def test_checkpointed_modules_are_recognised(net: Any) -> None:
    from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

    model = net.Net()
    for name, child in [*model.named_children()]:
        setattr(model, name, checkpoint_wrapper(child))
    assert any("_checkpoint_wrapped_module" in name for name, _ in model.named_parameters())
    net.NormedAdam(model.named_parameters(), lr=0.1)


class Holder(nn.Module):
    """A model held as self.net, beside something of the user's."""

    def __init__(self, model: nn.Module, head: bool = False) -> None:
        super().__init__()
        self.net = model
        if head:
            self.head = nn.Linear(3, 2, bias=False)

    def forward(self, x: Tensor) -> Any:
        return self.net(x)


def compiled(model: Any) -> Any:
    return torch.compile(model, backend="eager")


@pytest.mark.parametrize("around", [lambda m: m, nn.DataParallel, compiled])
def test_a_model_held_by_another_module_is_recognised(net: Any, around: Any) -> None:
    model, optimizer = made(net)
    held = made(net)[0]
    other = net.NormedAdam(around(Holder(around(held))).named_parameters(), lr=0.1)
    train(model, optimizer, 2)
    train(held, other, 2)
    assert alike(model, held)
    other.load_state_dict(optimizer.state_dict())
    optimizer.load_state_dict(other.state_dict())


def test_names_in_front_are_found_where_most_agree() -> None:
    names = [f"net.{w.name}" for w in PLAN]
    assert plan_names(names, PLAN) == [w.name for w in PLAN]
    assert plan_names([*names, "head.weight"], PLAN)[-1] == "head.weight"
    assert plan_names(["a.weight", "net.a.weight"], PLAN) == ["a.weight", "net.a.weight"]
    assert plan_names([], PLAN) == []


def test_what_is_missing_is_called_so(net: Any) -> None:
    held = Holder(net.Net(), head=True)
    named = [pair for pair in held.named_parameters() if pair[0] != f"net.{net.PLAN[0].name}"]
    with pytest.raises(ValueError, match=rf"{re.escape(net.PLAN[0].name)}: missing") as caught:
        net.NormedAdam(named, lr=0.1)
    assert "head.weight: unknown" in str(caught.value)
    assert "nothing" not in str(caught.value).split(".")[0]
    assert "record in plan=" in str(caught.value)


def test_weights_of_mass_0_are_frozen_and_may_be_left_out(net: Any) -> None:
    model = net.Net()
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    assert frozen == {w.name for w in net.PLAN if not w.mass}
    assert len(frozen) == 1
    optimizer = net.NormedAdam([x for x in model.named_parameters() if x[1].requires_grad], lr=0.1)
    before = model.get_parameter(*frozen).detach().clone()
    whole, other = made(net)
    whole.load_state_dict(model.state_dict())
    train(model, optimizer, 2)
    train(whole, other, 2)
    assert alike(model, whole)
    assert torch.equal(model.get_parameter(*frozen), before)


@pytest.mark.parametrize("kind", KINDS)
def test_only_what_is_trained_may_be_passed_with_missing_skip(kind: Any) -> None:
    named, plain = parameters(), parameters()
    for name in ("a.weight", "row.weight"):
        dict(named)[name].requires_grad_(False)
        dict(plain)[name].requires_grad_(False)
    trained = [pair for pair in named if pair[1].requires_grad]
    with pytest.raises(ValueError, match=r"a\.weight: missing, row\.weight: missing.*='skip'"):
        kind(trained, lr=0.1, plan=PLAN)
    optimizer, other = (
        kind(trained, lr=0.1, plan=PLAN, missing="skip"),
        kind(plain, lr=0.1, plan=PLAN),
    )
    for step in range(2):
        for pairs, one in ((named, optimizer), (plain, other)):
            give_gradients(pairs, step)
            one.step()
    assert all(torch.equal(p, q) for (_, p), (_, q) in zip(named, plain, strict=True))
    again = kind(trained, lr=0.1, plan=PLAN, missing="skip")
    again.load_state_dict(optimizer.state_dict())
    dict(named)["a.weight"].requires_grad_(True)
    again.add_param_group({"params": [("a.weight", dict(named)["a.weight"])]})
    give_gradients(named, 2)
    before = values(named)
    again.step()
    assert not torch.equal(dict(named)["a.weight"], before["a.weight"])


def test_parameters_of_which_none_needs_a_gradient_are_refused(net: Any) -> None:
    with pytest.raises(ValueError, match="none of these parameters needs a gradient"):
        net.NormedAdam(net.Net().state_dict().items(), lr=0.1)


def test_sharded_parameters_are_refused_by_a_file_that_stands_alone(tmp_path: Path) -> None:
    """A DTensor is known by its device mesh; that needs no process group here."""

    class Sharded(nn.Parameter):
        device_mesh = "cpu"

    (tmp_path / "net.mod").write_text(TEXT)
    alone: dict[str, Any] = {"__name__": "alone"}
    exec(str(modnorm.compile(str(tmp_path / "net.mod"), standalone=True)), alone)
    named = [*alone["Net"]().named_parameters()]
    named[2] = (named[2][0], Sharded(named[2][1].detach()))
    said = rf"\(DTensor\) in a file that needs torch alone: {named[2][0]}\. .* without --standalone"
    with pytest.raises(ValueError, match=said):
        alone["NormedAdam"](named, lr=0.1)


def test_dtensors_have_what_they_are_known_by() -> None:
    from torch.distributed.tensor import DTensor

    assert hasattr(DTensor, "device_mesh")


def test_parameters_that_are_not_the_models_any_more(net: Any) -> None:
    model, optimizer = made(net)
    model.load_state_dict(net.Net().state_dict(), assign=True)
    loss_of(model).backward()  # type: ignore[no-untyped-call]
    with pytest.raises(ValueError, match=r"no parameter of the model any more.*assign=True"):
        optimizer.step()
    model = net.Net(device="meta")
    optimizer = net.NormedAdam(model.named_parameters(), lr=0.1)
    model.to_empty(device="cpu")
    for p in model.parameters():
        p.detach().zero_()
        p.grad = torch.zeros_like(p)
    with pytest.raises(ValueError, match=r"no parameter of the model any more.*to_empty"):
        optimizer.step()


# -- what surrounds the optimizer ----------------------------------------------------------------


@pytest.mark.parametrize("kind", NAMES)
def test_a_compiled_training_step_is_the_same(net: Any, kind: str) -> None:
    model, optimizer = made(net, kind)
    plain, other = made(net, kind)
    compiled = torch.compile(train, backend="eager")
    for step in range(3):
        compiled(model, optimizer, range(step, step + 1))
        train(plain, other, range(step, step + 1))
    assert alike(model, plain)
    train(model, optimizer, range(3, 5))  # and without the compiler it goes on
    train(plain, other, range(3, 5))
    assert alike(model, plain)


@pytest.mark.parametrize("kind", NAMES)
@pytest.mark.parametrize("device", ["meta", "cpu"])
def test_another_default_device_does_not_matter(net: Any, kind: str, device: str) -> None:
    model, optimizer = made(net, kind)
    plain = net.Net(generator=torch.Generator().manual_seed(0))
    with torch.device(device):
        other = getattr(net, kind)(plain.named_parameters(), lr=0.1)
    train(model, optimizer, 2)
    train(plain, other, 2)
    assert alike(model, plain)


def test_numbers_of_other_kinds_are_numbers() -> None:
    from fractions import Fraction

    numpy = pytest.importorskip("numpy")
    options = {
        "lr": numpy.float32(0.125),
        "betas": [numpy.float64(0.5), Fraction(3, 4)],
        "eps": numpy.float32(2.0**-20),
        "weight_decay": numpy.float16(0.25),
        "iterations": numpy.int64(2),
    }
    named, plain = parameters(), parameters()
    optimizer = run(NormedAdam, named, 2, **options)
    same = {"lr": 0.125, "betas": (0.5, 0.75), "eps": 2.0**-20}
    run(NormedAdam, plain, 2, **same, weight_decay=0.25, iterations=2)
    assert all(torch.equal(p, q) for (_, p), (_, q) in zip(named, plain, strict=True))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda i: numpy.float32(0.5) ** i)
    schedule.step()
    saved = through_a_file(optimizer.state_dict())  # before the next step
    assert saved["param_groups"][0]["lr"] == 0.0625
    assert DualizedSGD(parameters(), lr=0.1, plan=PLAN, steps=numpy.int32(4))
    with pytest.raises(ValueError, match="iterations must be a whole number"):
        NormedSGD(parameters(), lr=0.1, plan=PLAN, iterations=numpy.float32(2))  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", NAMES)
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_a_model_copied_with_its_optimizer_goes_on(net: Any, kind: str, copied: Any) -> None:
    sys.modules[net.__name__] = net
    model, optimizer = made(net, kind)
    train(model, optimizer, 2)
    again, other = copied((model, optimizer))
    train(model, optimizer, range(2, 4))
    train(again, other, range(2, 4))
    assert alike(model, again)


@pytest.mark.parametrize("average", ["swa", "ema"])
def test_averages_of_weights(net: Any, average: str) -> None:
    from torch.optim.swa_utils import SWALR, AveragedModel, get_ema_multi_avg_fn

    model, optimizer = made(net)
    plain, other = made(net)
    kind = {} if average == "swa" else {"multi_avg_fn": get_ema_multi_avg_fn(0.5)}
    averaged = AveragedModel(model, **kind)
    schedule, schedule2 = SWALR(optimizer, swa_lr=0.05), SWALR(other, swa_lr=0.05)
    mean = [torch.zeros_like(p) for p in model.parameters()]
    for step in range(3):
        train(model, optimizer, range(step, step + 1))
        train(plain, other, range(step, step + 1))
        averaged.update_parameters(model)
        schedule.step()
        schedule2.step()
        for x, p in zip(mean, model.parameters(), strict=True):
            rate = 1 / (step + 1) if average == "swa" or not step else 0.5
            x.lerp_(p.detach(), rate)
    assert alike(model, plain)
    for x, p in zip(mean, averaged.module.parameters(), strict=True):
        torch.testing.assert_close(p.detach(), x)


def test_sharpness_aware_minimisation(net: Any) -> None:
    """Weights are moved uphill and back around a second backward pass (Foret et al. 2020)."""
    model, optimizer = made(net)
    start = values([*model.named_parameters()])
    loss_of(model).backward()  # type: ignore[no-untyped-call]
    up = {n: 0.05 * p.grad / p.grad.norm() for n, p in model.named_parameters() if p.requires_grad}
    with torch.no_grad():
        for name, step in up.items():
            model.get_parameter(name).add_(step)
    optimizer.zero_grad()
    loss_of(model).backward()  # type: ignore[no-untyped-call]
    grads = {n: model.get_parameter(n).grad.clone() for n in up}
    with torch.no_grad():
        for name in up:
            model.get_parameter(name).copy_(start[name])
    optimizer.step()
    plain, other = made(net)
    for name, grad in grads.items():
        plain.get_parameter(name).grad = grad
    other.step()
    assert alike(model, plain)


def test_lookahead(net: Any) -> None:
    """Slow weights take a part of the way of k fast steps (Zhang et al. 2019)."""
    model, optimizer = made(net)
    slow = values([*model.named_parameters()])
    for outer in range(2):
        train(model, optimizer, range(2 * outer, 2 * outer + 2))
        fast = values([*model.named_parameters()])
        with torch.no_grad():
            for name, p in model.named_parameters():
                p.copy_(slow[name].lerp_(p, 0.5))
        assert all(x.isfinite().all() for x in fast.values())
    train(model, optimizer, range(4, 5))
    moved = [not torch.equal(p, slow[n]) for n, p in model.named_parameters() if p.requires_grad]
    assert all(moved)


@pytest.mark.parametrize("schedule", ["cosine", "one cycle", "restarts", "plateau"])
def test_schedules_over_several_groups(net: Any, schedule: str) -> None:
    model = net.Net()
    named = [*model.named_parameters()]
    groups = [{"params": named[:2], "lr": 0.2}, {"params": named[2:]}]
    optimizer = net.NormedAdam(groups, lr=0.1)
    rates = torch.optim.lr_scheduler
    made_so: Any = {
        "cosine": lambda: rates.CosineAnnealingLR(optimizer, 5),
        "one cycle": lambda: rates.OneCycleLR(optimizer, [0.2, 0.1], total_steps=6),
        "restarts": lambda: rates.CosineAnnealingWarmRestarts(optimizer, 2),
        "plateau": lambda: rates.ReduceLROnPlateau(optimizer, patience=0),
    }[schedule]()
    for step in range(5):
        train(model, optimizer, range(step, step + 1))
        made_so.step(*([1.0] if schedule == "plateau" else []))
        first, second = (group["lr"] for group in optimizer.param_groups)
        assert first == pytest.approx(2 * second, abs=1e-9)


def test_scaled_gradients_are_unscaled_and_bad_steps_left_out(net: Any) -> None:
    model, optimizer = made(net)
    plain, other = made(net)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    for step in range(2):
        scaler.scale(loss_of(model, step)).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        train(plain, other, range(step, step + 1))
    for p, q in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(p, q)
    before = values([*model.named_parameters()])
    (scaler.scale(loss_of(model, 2)) * float("inf")).backward()
    scaler.step(optimizer)
    scaler.update()
    assert scaler.get_scale() == 512.0
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())


def automatic_run(net: Any, clip: float | None, kind: str) -> list[str]:
    model, optimizer = made(net, kind, lr="auto", smoothness=5.0)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for step in range(8):
            loss_of(model, step).backward()  # type: ignore[no-untyped-call]
            if clip is not None:
                nn.utils.clip_grad_norm_(model.parameters(), clip)
            optimizer.step()
            optimizer.zero_grad()
    return [str(w.message) for w in caught if "as if clipped" in str(w.message)]


@pytest.mark.parametrize("kind", NAMES)
def test_clipping_beside_an_automatic_rate_is_warned_of_once(net: Any, kind: str) -> None:
    for clip, count in ((0.01, 1), (None, 0), (1e6, 0)):
        said = automatic_run(net, clip, kind)
        assert len(said) == count
        assert all("had the norm 0.01" in text or "0.00999" in text for text in said)
