"""The optimizers of a sweep, made for a model: the generated file's own, and torch's beside them.

An optimizer is a list of torch optimizers, whose learning rates one schedule multiplies.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from modnorm.data.fetch import DataError
from modnorm.data.functions import named, told
from modnorm.kernels.schemes import MATRICES
from modnorm.sweep.axes import NORMED, Label
from modnorm.sweep.parts import roles, with_body_mass

BETAS = (0.9, 0.99)
"""Of Adam, everywhere: those of NormedAdam."""
RATIO = 0.05
"""AdamW's learning rate over Muon's, for the weights that Muon does not take."""

Optimizers = list[torch.optim.Optimizer]


def build(
    module: ModuleType, model: nn.Module, label: Label, lr: float, mass: float | None = None
) -> Optimizers:
    """The optimizers of a label for a model of a compiled module; `mass` is that of its body.

    Raises:
        DataError: if it does not take such options, or not this model.
    """
    options: dict[str, Any] = dict(label.options)
    if label.function is not None:
        return _own(label.function, module, model, lr, options)
    if "beta1" in options or "beta2" in options:
        options["betas"] = (options.pop("beta1", BETAS[0]), options.pop("beta2", BETAS[1]))
    try:
        if label.normed:
            made = getattr(module, NORMED[label.name])
            if mass is not None:
                options["plan"] = with_body_mass(module.PLAN, mass)
            return [made(model.named_parameters(), lr=lr, **options)]
        return BUILDERS[label.name](module, model, lr, **options)
    except DataError:
        raise
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(f"the optimizer {label.name} cannot be made: {error}") from error


def _adam(module: ModuleType, model: nn.Module, lr: float, **options: Any) -> Optimizers:
    options = {"betas": BETAS, "weight_decay": 0.0, "fused": True, **options}
    return [torch.optim.AdamW(model.parameters(), lr=lr, **options)]


def _sgd(module: ModuleType, model: nn.Module, lr: float, **options: Any) -> Optimizers:
    return [torch.optim.SGD(model.parameters(), lr=lr, **{"momentum": 0.9, **options})]


def _muon(
    module: ModuleType, model: nn.Module, lr: float, ratio: float = RATIO, **options: Any
) -> Optimizers:
    """torch's Muon on the matrices of the body, AdamW at `ratio` of its rate on the rest."""
    hidden: list[Tensor] = []
    rest: list[Tensor] = []
    plan = module.PLAN
    for part, record in zip(roles(plan.stored), plan.stored, strict=True):
        weight = model.get_parameter(record.name)
        matrices = all(held.norm in MATRICES for held in plan.held(record))
        takes = part == "body" and weight.ndim in (2, 4) and matrices
        (hidden if takes else rest).append(weight)
    if not hidden:
        raise DataError("muon finds no matrix between the first part and the last")
    options = {"momentum": 0.95, "weight_decay": 0.0, **options}
    return [
        Flattened(hidden, lr=lr, **options),
        torch.optim.AdamW(rest, lr=lr * ratio, betas=BETAS, weight_decay=0.0, fused=True),
    ]


class Flattened(torch.optim.Muon):
    """torch's Muon, which takes matrices only, on kernels (out, in, k, k) as out × in·k·k too."""

    def __init__(self, weights: list[Tensor], **options: Any) -> None:
        self.weights = weights
        super().__init__([nn.Parameter(w.detach().flatten(1)) for w in weights], **options)

    def step(self, closure: Any = None) -> Any:
        for view, weight in zip(self.param_groups[0]["params"], self.weights, strict=True):
            view.grad = None if weight.grad is None else weight.grad.flatten(1)
        return super().step(closure)  # type: ignore[no-untyped-call]

    def zero_grad(self, set_to_none: bool = True) -> None:
        for weight in self.weights:
            weight.grad = None


BUILDERS = {"adam": _adam, "sgd": _sgd, "muon": _muon}


def _own(
    name: str, module: ModuleType, model: nn.Module, lr: float, options: dict[str, Any]
) -> Optimizers:
    """What the function of the user's own makes, called as function(module, model, lr, **options).

    Raises:
        DataError: if there is none, it raises anything, or makes something else.
    """
    function, source = named(name)
    try:
        found = function(module, model, lr, **options)
    except Exception as error:  # whatever a stranger's function raises
        raise DataError(f"{name} raised {told(error, source)}") from error
    made = list(found) if isinstance(found, list | tuple) else [found]
    if not made or not all(isinstance(one, torch.optim.Optimizer) for one in made):
        kinds = ", ".join(type(one).__name__ for one in made) or "nothing"
        raise DataError(
            f"{name} returned {kinds}, but it has to return a torch optimizer or several"
        )
    return made
