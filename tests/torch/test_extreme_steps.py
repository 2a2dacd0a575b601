"""Steps whose size no weight's type can hold."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch

from modnorm.codegen.assemble import generate
from modnorm.codegen.imports import import_source
from modnorm.pipeline import ANALYSIS, analyse_text

OPTIMIZERS = ["NormedSGD", "NormedAdam", "DualizedSGD"]


def module(count: int) -> ModuleType:
    text = f"input x: float[b, 8]\nmodel M = (Linear(8) >> ReLU) ** {count}\n"
    return import_source(generate(analyse_text(text, passes=ANALYSIS).program, "cpu"), "extreme")


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize(
    ("count", "lr", "dtype", "named"),
    [
        (1000, 0.1, torch.float32, "0.linear.weight"),
        (2, 1e300, torch.float32, "1.linear.weight"),
        (2, 1e39, torch.bfloat16, "0.linear.weight"),
    ],
)
def test_a_step_beyond_floats_names_the_weight(
    optimizer: str, count: int, lr: float, dtype: torch.dtype, named: str
) -> None:
    made = module(count)
    model = made.M(dtype=dtype)
    before = [p.clone() for p in model.parameters()]
    stepping = getattr(made, optimizer)(model.named_parameters(), lr=lr)
    model(torch.ones(2, 8, dtype=dtype)).sum().backward()
    with pytest.raises(ValueError, match=f"lr times the target .*{named}"):
        stepping.step()
    for p, old in zip(model.parameters(), before, strict=True):
        assert torch.equal(p, old)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_wider_weights_take_what_narrow_ones_cannot(optimizer: str) -> None:
    made = module(2)
    model = made.M(dtype=torch.float64)
    stepping = getattr(made, optimizer)(model.named_parameters(), lr=1e100)
    model(torch.ones(2, 8, dtype=torch.float64)).square().sum().backward()
    stepping.step()
    assert max(p.abs().max().item() for p in model.parameters()) > 1e98
