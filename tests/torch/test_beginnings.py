"""Weights that are told how to begin: in generated files, for optimizers, in reports."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

import modnorm
from modnorm.pipeline import analyse_text
from modnorm.report.as_json import report

NET = """
input x: float[batch, 3, 6, 6]
model Net = Linear(4, init = "zero") @ Scale(init = "zero") @ Linear(8, init = "normal", std = 0.02)
    @ Flatten @ Conv2D(6, groups = 3, init = "zero") @ Conv2D(6, init = "normal") @ Conv2D(3)
"""
HEADS = """
input x: float[batch, seq, 8]
model Net = Linear(4, init = "zero") @ MergeHeads @ Attention @ QKV(8, 2, init = "zero")
"""


def start(text: str, seed: int = 0, **options: Any) -> tuple[Any, Any]:
    module = modnorm.load(text)
    return module, module.Net(generator=torch.Generator().manual_seed(seed), **options)


def test_weights_begin_as_they_are_told_to() -> None:
    _, model = start(NET)
    first, normal, zero, narrow, gain, last = model.parameters()
    assert first.any()
    assert not any(p.any() for p in (zero, gain, last))
    assert narrow.std().item() == pytest.approx(0.02, rel=0.1)
    assert normal.std().item() == pytest.approx(first.std().item(), rel=0.5)
    again, other = start(NET)[1], start(NET, 1)[1]
    assert all(map(torch.equal, model.parameters(), again.parameters()))
    assert not torch.equal(narrow, list(other.parameters())[3])
    assert "init=normal, std=1/50" in repr(model)


@pytest.mark.parametrize("text", [NET, HEADS])
@pytest.mark.parametrize("kind", ["NormedAdam", "NormedSGD", "DualizedSGD"])
def test_zeros_are_moved_by_their_targets(text: str, kind: str) -> None:
    module, model = start(text, dtype=torch.float64)
    held = dict(model.named_parameters())
    optimizer = getattr(module, kind)(held.items(), lr=0.5, weight_decay=0.1)
    before = {name: p.detach().clone() for name, p in held.items()}
    torch.manual_seed(0)
    for p in held.values():
        p.grad = torch.randn_like(p)
    optimizer.step()
    plan = {w.name: w for w in module.PLAN}
    for record in analyse_text(text).program.weights:
        w = plan[f"{record.path}.weight"]
        name = w.layout.parameter if w.layout else w.name
        if before[name].any():
            continue
        moved = held[name].detach()
        value = w.cut(moved) if record.stored else moved
        size = record.op.weight_norm(value).item()
        assert size == pytest.approx(0.5 * w.target, rel=0.5 if kind == "NormedSGD" else 0.3)


def test_a_report_tells_of_it_where_it_is_not_the_usual() -> None:
    found = report(analyse_text(NET))["atoms"]
    told = [(atom.get("init"), atom.get("std")) for atom in found]
    assert told == [
        (None, None), ("normal", None), ("zero", None), ("normal", 0.02), ("zero", None),
        ("zero", None),
    ]  # fmt: skip


def test_a_model_of_zeros_is_checked() -> None:
    found = modnorm.check(HEADS)
    assert not found.violations
    assert "NaN" not in json.dumps(found.json)
