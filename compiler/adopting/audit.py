"""`modnorm.audit`: whether optimizers treat each parameter as its use implies."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from modnorm.adopting.audited import Audit, Audited
from modnorm.adopting.faults import Case, find
from modnorm.adopting.plan import make_plan
from modnorm.adopting.problems import AuditError
from modnorm.adopting.trace import unwrapped
from modnorm.adopting.treatment import as_sequence, treatments
from modnorm.kernels.plan import Plan
from modnorm.kernels.weight import Weight


def audit(
    model: nn.Module, optimizer: Any, example: Any, *,
    other: tuple[nn.Module, Any, Any] | None = None, groups: Sequence[Any] | None = None,
) -> Audit:  # fmt: skip
    """Find parameters that optimizers treat in another way than their use in the model implies.

    What a parameter is, is found from one run of the model on the example (like `modnorm.adopt`);
    what is done with it, from steps on made-up gradients. Weights, gradients, buffers, the
    optimizers' states and random numbers are put back, bit for bit.

    optimizer: one, or a list or tuple of all that step the model: what has `param_groups`, and a
        `step` that needs no closure.
    example: what the model is called with: a tensor, a tuple of arguments, a dict of them, or a
        pair of both.
    other: a model of the same kind and another width, its optimizers, and an example for it: then
        updates whose sizes change with the width are findings too.
    groups: the param_groups that were handed in, where something else made the optimizer of them:
        then options that it does not have are findings too.

    Raises:
        AuditError: if the run, or a step, fails, or the output depends on no parameter.
    """
    case, plan, notes = examined(model, optimizer, example, groups)
    if other is not None:
        second, _, _ = examined(*other)
        case = replace(case, other=second)
    parameters = tuple(Audited(name, case.role(name), t) for name, t in case.treatments.items())
    return Audit(type(unwrapped(model)).__name__, find(case), parameters, notes, plan)


def examined(
    model: nn.Module, optimizer: Any, example: Any, groups: Sequence[Any] | None = None
) -> tuple[Case, Plan, tuple[str, ...]]:
    """What is known of a model and its optimizers, its plan, and what could not be looked at."""
    model = unwrapped(model)
    several = as_sequence(optimizer)
    plan, notes = planned(model, example)
    held: dict[str, tuple[Weight, ...]] = {w.name: plan.held(w) for w in plan.stored}
    own = dict(model.named_parameters())
    with_plan = {
        id(p)
        for one in several if isinstance(getattr(one, "plan", None), Plan)
        for group in one.param_groups for p in group["params"]
    }  # fmt: skip
    case = Case(
        held=held,
        shapes={name: tuple(p.shape) for name, p in own.items()},
        treatments=treatments(model, several, held),
        frozen={name: tuple(p.shape) for name, p in own.items() if not p.requires_grad},
        planned=frozenset(name for name, p in own.items() if id(p) in with_plan),
        options=options_of(own, groups or (), several),
    )
    return case, plan, notes


def planned(model: nn.Module, example: Any) -> tuple[Plan, tuple[str, ...]]:
    """What the weights of a model are, and what of them is not known."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        try:
            plan = make_plan(model, example, sensitivity="declared")
        except Exception as error:  # whatever a stranger's model raises
            said = f"{type(error).__name__}: {error}"
            raise AuditError(f"the model cannot be run on the example: {said}") from error
    return plan, tuple(dict.fromkeys(str(w.message) for w in caught if w.category is UserWarning))


def options_of(
    own: Mapping[str, Tensor], groups: Sequence[Any], optimizers: Sequence[Any]
) -> dict[str, tuple[Mapping[str, object], Mapping[str, object]]]:
    """By name, the options of the groups that were handed in, and those of the optimizers'."""
    names = {id(p): name for name, p in own.items()}
    has = {
        id(p): group
        for one in optimizers for group in one.param_groups for p in group["params"]
    }  # fmt: skip
    found: dict[str, tuple[Mapping[str, object], Mapping[str, object]]] = {}
    for group in groups:
        if not isinstance(group, Mapping):
            raise AuditError("groups are dicts of params and options, as optimizers take them")
        given = {key: value for key, value in group.items() if key not in ("params", "name")}
        params = group["params"]
        for entry in [params] if isinstance(params, Tensor) else params:
            p = entry[1] if isinstance(entry, tuple) else entry
            if id(p) in names and id(p) in has:
                found[names[id(p)]] = given, has[id(p)]
    return found
