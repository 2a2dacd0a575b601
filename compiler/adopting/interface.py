"""`modnorm.adopt`: an optimizer for a model that was written in PyTorch."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

from modnorm import kernels
from modnorm.adopting.masses import BLOCKS, SMALL
from modnorm.adopting.plan import How, make_plan
from modnorm.adopting.trace import unwrapped
from modnorm.kernels.optimizer import NormedOptimizer
from modnorm.kernels.plan import Plan
from modnorm.kernels.state import is_shared, some
from modnorm.kernels.weight import plan_names
from modnorm.sweep.axes import NORMED


def adopt(
    model: nn.Module, example: Any = None, kind: str = "dualized_sgd", lr: float | None = None, *,
    plan: Plan | None = None, plan_only: bool = False, params: Iterable[Any] | None = None,
    sensitivity: How = "auto", blocks_mass: float = BLOCKS, small_mass: float = SMALL,
    masses: Mapping[str, float] | None = None, **options: Any,
) -> Any:  # fmt: skip
    """An optimizer over all weights of a model with one learning rate; the model stays as it is.

    One run of the model on the example tells what each parameter is, by its use and not by its
    name: how it is stored, which logical weights it holds, and what comes after them. So do the
    optimizer's `plan`, a record for each weight.

    example: what the model is called with: a tensor, a tuple of arguments, a dict of them, or a
        pair of both. A small batch will do.
    kind: "dualized_sgd" (as Muon, for every weight in its own norm), "normed_adam" or "normed_sgd".
    lr: the modular norm of a step; by default the optimizer's own.
    plan: one that was made before, by `adopt(…).plan` or `modnorm.load_plan`, in place of a run.
    plan_only: give the plan alone.
    params: groups of named parameters with options of their own; by default all that are trained.
    sensitivity: how far the output moves with what a weight gives, as "declared" by the operations
        that come after it, or "measured" by random cotangents, at random weights of norm 1, where
        the modular norm is meant, or, with "as_is", at those that the model has. "auto" measures
        where what is declared says little: if sums grow along a stream that no norm reads, if an
        operation is not known, or a weight is not understood.
    blocks_mass: the mass of all blocks of a repetition together, where a table or readout has 1.
    small_mass: that of a bias or gain, or of a weight that is not understood.
    masses: by pattern of names of weights in the plan (as fnmatch), masses to take instead.
    options: the optimizer's.

    Raises:
        ValueError: if the output depends on no parameter, if parameters have no shape or no numbers
            yet or are sharded, an option is none, or a pattern in masses fits no weight.
    """
    if kind not in NORMED:
        raise ValueError(f"kind must be one of {', '.join(NORMED)}, not {kind!r}")
    given = plan is not None
    if plan is None:
        if example is None:
            raise ValueError("adopt needs an example of what the model is called with, or a plan")
        if any(map(is_shared, model.parameters())):
            raise ValueError(
                "adopt runs a whole model, and parameters of this one are sharded (DTensor): make "
                "the plan before they are, by plan_only=True, and give it here as plan="
            )
        plan = make_plan(
            model, example, sensitivity=sensitivity, blocks_mass=blocks_mass,
            small_mass=small_mass, masses=masses,
        )  # fmt: skip
    elif (sensitivity, blocks_mass, small_mass, masses) != ("auto", BLOCKS, SMALL, None):
        raise ValueError("masses and sensitivities stand in the plan: give those, or a plan")
    if plan_only:
        return plan
    if lr is not None:
        options["lr"] = lr
    if params is None:
        own = dict(unwrapped(model).named_parameters())
        own |= dict(zip(plan_names(list(own), plan.stored), own.values(), strict=True))
        params = [(w.name, own[w.name]) for w in plan.stored if w.name in own]
        held = {id(p) for _, p in params}
        left = [n for n, p in own.items() if p.requires_grad and id(p) not in held]
        if left and given:
            warnings.warn(f"no part of the plan, and not trained: {some(left)}", stacklevel=2)
    made: type[NormedOptimizer] = getattr(kernels, NORMED[kind])
    return made(params, plan=plan, **options)
