"""What `modnorm check` says of sensitivities that are assumed, and of ranges that are declared."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from test_named_inputs import drawn, loaded

import modnorm

INVERSE = """
input x: float[batch, 8]
bond Inverse(x) = 1 / x on [1/2, 2] sensitivity 4
model M = Linear(8) @ Inverse @ BEFORE @ x
"""
ASSUMED = """
input x: float[batch, 8]
model M = Linear(8) @ (assume sensitivity NUMBER: 2 * Linear(8))
"""


def notes(text: str, tmp_path: Path) -> list[str]:
    path = tmp_path / "m.mod"
    path.write_text(text)
    found = modnorm.check(path)
    assert not found.violations
    return list(found.findings.notes)


@pytest.mark.parametrize("inside", [True, False])
def test_values_that_leave_a_range_are_told_of(inside: bool, tmp_path: Path) -> None:
    before = "(5/4 + 3/4 * Tanh)" if inside else "Identity"
    found = notes(INVERSE.replace("BEFORE", before), tmp_path)
    if inside:
        assert found == []
        return
    (note,) = found
    assert note.startswith("`Inverse` at line 4 is declared for values from 0.5 to 2, but ")
    assert " of 32 were outside, between -" in note


@pytest.mark.parametrize(("number", "wrong"), [("1/2", True), ("1.99", True), ("3", False)])
def test_assumptions_are_held_against_what_is_measured(
    number: str, wrong: bool, tmp_path: Path
) -> None:
    found = notes(ASSUMED.replace("NUMBER", number), tmp_path)
    said = f"sensitivity {float(eval(number)):.6g} is assumed at line 3, but 2 was measured there"
    assert found == ([said] if wrong else [])


def test_neither_changes_what_is_computed(tmp_path: Path) -> None:
    x = drawn(3, 8).abs() + 1
    model = loaded(INVERSE.replace("BEFORE", "Identity"), tmp_path)
    (w,) = model.parameters()
    torch.testing.assert_close(model(x), (1 / x) @ w.T, rtol=1e-12, atol=1e-12)
    model = loaded(ASSUMED.replace("NUMBER", "1/2"), tmp_path)
    first, second = model.parameters()
    torch.testing.assert_close(model(x), 2 * x @ first.T @ second.T, rtol=1e-12, atol=1e-12)
