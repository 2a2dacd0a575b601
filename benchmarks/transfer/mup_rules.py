"""muP for compiled models, by the package `mup` (Yang et al. 2022, arXiv 2203.03466).

An optimizer for sweeps: `--optimizer mup_rules:adam` with this folder on PYTHONPATH. The package is
installed with `pip install --no-deps mup pyyaml`: it asks for torchvision and seaborn, which its
rules do not need.

A compiled model is initialised as muP asks already: matrices have singular values about
sqrt(out/in), the readout's entries shrink as 1/width, attention divides by the size of a head.
What is left are the learning rates, from `MuAdam`, and the readout's multiplier, by a hook as in
`MuReadout`; weights are rescaled so that the model is the same function at the start.
"""

from __future__ import annotations

from typing import Any

import torch
from mup.infshape import InfDim, InfShape
from mup.optim import MuAdam
from torch import nn

from modnorm.sweep.optimizers import BETAS
from modnorm.sweep.parts import roles


def adam(module: Any, model: nn.Module, lr: float, base: int = 32, **options: Any) -> Any:
    """MuAdam for a model, whose width is compared with a model of width `base`.

    The width is the number of inputs of the first weight of the body; dimensions count as
    infinite unless they are the first part's inputs or the last part's outputs.
    """
    parts = roles(module.PLAN)
    body = next(record for part, record in zip(parts, module.PLAN, strict=True) if part == "body")
    width = body.shape[1]
    for part, record in zip(parts, module.PLAN, strict=True):
        weight: Any = model.get_parameter(record.name)
        finite = set(range(2, weight.ndim))
        if part == "last" or record.atom == "Embed":
            finite.add(0)
        elif part == "first":
            finite.add(1)
        weight.infshape = InfShape(
            [
                InfDim(None if axis in finite else size * base // width, size)
                for axis, size in enumerate(weight.shape)
            ]
        )
        if part == "last":
            scale = weight.infshape.width_mult()
            with torch.no_grad():
                weight.mul_(scale)
            owner = model.get_submodule(record.name.rpartition(".")[0])
            owner.register_forward_pre_hook(lambda _, given, s=scale: (given[0] / s, *given[1:]))
    return MuAdam(model.parameters(), lr=lr, betas=BETAS, **options)
