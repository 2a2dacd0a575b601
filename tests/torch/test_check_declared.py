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


GROWING = """
input x: float[batch, 12, 8]
bond Small(x) = x ** 2 / 2 on [-1, 1] sensitivity 1
def cell = 2 * Select(0) + (FIRST + Tanh @ Small @ Select(MEMBER))
model M = Linear(8) @ Scan(cell, carry = 1) @ Tanh @ x
"""


@pytest.mark.parametrize("member", [0, 1])
def test_a_cell_is_looked_at_behind_its_first_step(member: int, tmp_path: Path) -> None:
    """A state begins at 0, where it is in every range; it leaves it later. Entries stay."""
    first = "1/4 * (Abs @ Select(1))"
    text = GROWING.replace("FIRST", first).replace("MEMBER", str(member))
    found = [note for note in notes(text, tmp_path) if "is declared for" in note]
    if member:
        assert found == []
        return
    (note,) = found
    assert note.startswith("`Small` at line 4 is declared for values from -1 to 1, but ")


def test_steps_of_a_cell_are_no_copies(tmp_path: Path) -> None:
    path = tmp_path / "m.mod"
    path.write_text(GROWING.replace("FIRST", "Select(1)").replace("MEMBER", "1"))
    found = modnorm.check(path)
    assert {module.copies for module in found.findings.modules} == {1}
