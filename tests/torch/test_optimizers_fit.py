"""Which parameters and options the optimizers take, and what they say about others."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from optimizer_cases import KINDS, PLAN, give_gradients, parameters, run
from torch import nn

from modnorm.kernels import DualizedSGD, NormedAdam, NormedOptimizer, NormedSGD, Plan, Weight


def refused(named: Any, match: str, **options: Any) -> str:
    with pytest.raises(ValueError, match=match) as caught:
        NormedAdam(named, **{"lr": 0.1, "plan": PLAN, **options})
    return str(caught.value)


@pytest.mark.parametrize(
    "prefix", ["", "_orig_mod.", "module.", "module._orig_mod.", "_orig_mod.module.module."]
)
def test_wrappers_prefixes_are_taken_off(prefix: str) -> None:
    named, plain = parameters(), parameters()
    run(NormedAdam, [(prefix + name, p) for name, p in named], 2)
    run(NormedAdam, plain, 2)
    assert all(torch.equal(p, q) for (_, p), (_, q) in zip(named, plain, strict=True))


def test_prefixes_inside_a_name() -> None:
    """As when a block, not the model, was compiled."""
    named = [(name.replace(".weight", "._orig_mod.weight"), p) for name, p in parameters()]
    run(NormedAdam, named, 1)


def test_a_plan_whose_own_names_look_like_prefixes() -> None:
    plan = (PLAN[2]._replace(name="module.weight"), PLAN[3]._replace(name="b.module.weight"))
    for prefix in ("", "module."):
        named = [(prefix + name, p) for name, p in parameters(plan=plan)]
        run(NormedAdam, named, 1, plan=plan)


def test_a_name_that_only_a_prefix_tells_from_another() -> None:
    plan = (PLAN[2]._replace(name="module.weight"), PLAN[6]._replace(name="weight"))
    run(NormedAdam, parameters(plan=plan), 1, plan=plan)


def test_torch_compile_and_data_parallel_name_them_so() -> None:
    model = nn.Sequential(nn.Linear(4, 5, bias=False))
    plan = (Weight("0.weight", "Linear", (5, 4), "spectral", 1.0, 1.0),)
    NormedAdam(torch.compile(model).named_parameters(), lr=0.1, plan=plan)
    NormedAdam(nn.DataParallel(model).named_parameters(), lr=0.1, plan=plan)


def test_order_does_not_matter() -> None:
    named, other = parameters(), parameters()
    run(NormedAdam, named[::-1], 2)
    optimizer = NormedAdam(other, lr=0.1, plan=PLAN)
    for step in range(2):
        give_gradients(other[::-1], step)
        optimizer.step()
    assert all(torch.equal(p, q) for (_, p), (_, q) in zip(named, other, strict=True))


def test_groups_have_options_of_their_own() -> None:
    named, plain = parameters(), parameters()
    groups = [
        {"params": named[:3], "lr": 0.3, "weight_decay": 0.5, "betas": (0.5, 0.5)},
        {"params": iter(named[3:])},
    ]
    optimizer = NormedAdam(groups, lr=0.1, plan=PLAN)
    for step in range(3):
        give_gradients(named, step)
        optimizer.step()
    first = parameters()
    run(NormedAdam, first, 3, lr=0.3, weight_decay=0.5, betas=(0.5, 0.5))
    run(NormedAdam, plain, 3)
    for i, (_, p) in enumerate(named):
        assert torch.equal(p, (first if i < 3 else plain)[i][1])


def test_unnamed_parameters() -> None:
    tensors = [p for _, p in parameters()]
    refused(tensors, "model.named_parameters()")
    refused([{"params": tensors}], "model.named_parameters()")
    with pytest.raises(ValueError, match="without names"):
        NormedAdam([parameters()[0], *tensors[1:]], lr=0.1, plan=PLAN)
    with pytest.raises((TypeError, ValueError)):
        NormedAdam(tensors[0], lr=0.1, plan=PLAN)
    with pytest.raises((TypeError, ValueError)):
        NormedAdam([], lr=0.1, plan=PLAN)


def test_everything_that_does_not_fit_is_named_with_what_was_expected() -> None:
    named = parameters()
    del named[1]
    named[1] = ("a.weight", nn.Parameter(torch.zeros(4, 5)))
    named[2] = ("c.weight", named[2][1])
    text = refused(named, f"do not fit the plan of {len(PLAN)} weights")
    assert r"conv.weight: missing" in text
    assert r"a.weight: floating (4, 5) instead of floating (5, 4)" in text
    assert r"b.weight: missing" in text
    assert r"c.weight: unknown" in text
    assert "embed" not in text
    assert "model.named_parameters()" in text


def test_long_lists_are_shortened() -> None:
    plan = tuple(Weight(f"w{i}", "Bias", (3,), "rms", 1.0, 1.0) for i in range(40))
    text = refused([("w7", nn.Parameter(torch.zeros(3)))], "w0: missing", plan=plan)
    assert "(39 in all)" in text
    assert len(text) < 600


def test_doubled_names_and_tensors() -> None:
    named = parameters()
    refused([*named, ("module.a.weight", named[2][1])], r"a\.weight: given twice")
    refused([*named, ("a.weight", nn.Parameter(torch.zeros(5, 4)))], r"a\.weight: given twice")
    tied = [*named[:3], ("b.weight", named[2][1]), *named[4:]]
    with pytest.warns(UserWarning, match="duplicate"):
        refused(tied, r"b\.weight: given twice")


@pytest.mark.parametrize("dtype", [torch.int64, torch.complex64, torch.bool])
def test_other_types(dtype: torch.dtype) -> None:
    named = parameters()
    named[2] = ("a.weight", nn.Parameter(torch.zeros(5, 4, dtype=dtype), requires_grad=False))
    refused(named, rf"a\.weight: {dtype} \(5, 4\) instead of floating")


def test_the_default_plan_is_the_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="plan of 0 weights"):
        NormedAdam(parameters(), lr=0.1)
    monkeypatch.setattr(NormedOptimizer, "default_plan", Plan(PLAN))
    assert NormedAdam(parameters(), lr=0.1).plan == PLAN


def test_a_plan_of_plain_tuples() -> None:
    optimizer = NormedAdam(parameters(), lr=0.1, plan=[tuple(w) for w in PLAN])  # type: ignore[misc]
    assert optimizer.plan == PLAN


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"lr": -0.1}, "lr must be at least 0"),
        ({"lr": math.nan}, "lr must"),
        ({"lr": math.inf}, "lr must"),
        ({"lr": "0.1"}, "lr must"),
        ({"lr": None}, "lr must"),
        ({"lr": (0.1, 0.1)}, "lr must"),
        ({"lr": torch.tensor([0.1, 0.2])}, "lr must"),
        ({"lr": torch.tensor(-1.0)}, "lr must"),
        ({"weight_decay": -1e-9}, "weight_decay must"),
        ({"weight_decay": math.inf}, "weight_decay must"),
        ({"betas": (0.9, 1.0)}, "betas must be at least 0 and below 1"),
        ({"betas": (-0.1, 0.9)}, "betas must"),
        ({"betas": 0.9}, "betas must"),
        ({"betas": (0.9, 0.9, 0.9)}, "betas must"),
        ({"betas": (0.9, "0.9")}, "betas must"),
        ({"eps": 0.0}, "eps must be at least 1e-30"),
        ({"eps": math.nan}, "eps must"),
        ({"nonfinite": "ignore"}, "nonfinite must be 'raise' or 'skip', not 'ignore'"),
        ({"nonfinite": None}, "nonfinite must"),
    ],
)
def test_options_out_of_range(options: dict[str, Any], match: str) -> None:
    refused(parameters(), match, **options)
    named = parameters()
    refused([{"params": named[:2], **options}, {"params": named[2:]}], match)
    optimizer = run(NormedAdam, parameters(), 1)
    optimizer.param_groups[0].update(options)
    with pytest.raises(ValueError, match=match):
        optimizer.step()


@pytest.mark.parametrize("kind", [NormedSGD, DualizedSGD])
@pytest.mark.parametrize("momentum", [1.0, -0.5, math.nan, "0.9", None])
def test_momentum_out_of_range(kind: Any, momentum: Any) -> None:
    with pytest.raises(ValueError, match="momentum must be at least 0 and below 1"):
        kind(parameters(), lr=0.1, momentum=momentum, plan=PLAN)


def test_nesterov_is_a_truth_value() -> None:
    with pytest.raises(ValueError, match="nesterov"):
        DualizedSGD(parameters(), lr=0.1, nesterov="no", plan=PLAN)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", KINDS)
def test_an_unknown_option_is_an_error(kind: Any) -> None:
    with pytest.raises(TypeError, match="weigth_decay"):
        kind(parameters(), lr=0.1, weigth_decay=0.1, plan=PLAN)


def test_a_group_more_is_refused() -> None:
    named = parameters()
    optimizer = run(NormedAdam, named, 1)
    extra = nn.Parameter(torch.zeros(2))
    with pytest.raises(ValueError, match="no weight of the plan is left"):
        optimizer.add_param_group({"params": [("x", extra)]})
    assert len(optimizer.param_groups) == 1
    give_gradients(named)
    optimizer.step()
