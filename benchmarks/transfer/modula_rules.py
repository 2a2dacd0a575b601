"""modula's own optimizer (PyPI, 0.0.0.0.0.2) on compiled models, for sweeps.

`--optimizer modula_rules:gpt` or `:mlp` with this folder on PYTHONPATH. Averages, normalisation and
its power iteration are those of modula's example; only the forward pass is the compiled one. Its
weights lack the factors that modula's forward multiplies with: √(out/in), and √dim for tables.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


class ModulaAdam(torch.optim.Optimizer):
    """modula's Adam and `normalize` for the weights of a model, in modula's order."""

    def __init__(self, network: Any, weights: list[nn.Parameter], scales: list[float], lr: float):
        super().__init__(weights, {"lr": lr, "betas": (0.9, 0.99)})
        self.network, self.scales, self.steps = network, scales, 0
        self.like = network.initialize(device="cpu")  # normalize keeps its vectors by these
        self.moments = [[torch.zeros_like(w) for w in weights] for _ in range(2)]

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        group = self.param_groups[0]
        change = 0 * self.like
        first, second = (1 - b for b in group["betas"])
        power = self.steps / (self.steps + 1)
        self.steps += 1
        for place, (p, s) in enumerate(zip(group["params"], self.scales, strict=True)):
            grad, (one, two) = p.grad * s, (moment[place] for moment in self.moments)
            one.lerp_(grad, first**power)
            two.lerp_(grad.square(), second**power)
            change[place].copy_(one / two.sqrt())
        change.zero_nans()
        self.network.normalize(change, target_norm=group["lr"])
        for p, s, moved in zip(group["params"], self.scales, change, strict=True):
            p.sub_(moved * s)


def gpt(module: Any, model: nn.Module, lr: float, heads: int = 4, mass: int = 5) -> Any:
    """modula's optimizer for the model of examples/gpt.mod."""
    from modula.compound import GPT

    vocab, width = module.PLAN[0].shape
    network = GPT(
        vocab_size=vocab, context=module.PLAN[1].shape[0], num_heads=heads, d_embed=width,
        d_query=width // heads, d_value=width // heads, num_blocks=(len(module.PLAN) - 3) // 6,
        blocks_mass=mass,
    )  # fmt: skip
    return for_model(network, module, model, lr)


def mlp(module: Any, model: nn.Module, lr: float, depth: int = 2) -> Any:
    """modula's optimizer for the model of examples/resmlp.mod with two blocks or more."""
    from modula.compound import ResMLP

    (width, inputs), (classes, _) = module.PLAN[0].shape, module.PLAN[-1].shape
    blocks = (len(module.PLAN) - 2) // depth
    network = ResMLP(width, blocks, depth, inputs, classes)
    return for_model(network, module, model, lr)


def for_model(network: Any, module: Any, model: nn.Module, lr: float) -> ModulaAdam:
    """The optimizer of a modula network for the weights of a compiled model."""
    weights = [model.get_parameter(record.name) for record in module.PLAN]
    scales = [
        (record.shape[1] if record.atom == "Embed" else record.shape[0] / record.shape[1]) ** 0.5
        for record in module.PLAN
    ]
    return ModulaAdam(network, weights, scales, lr)
