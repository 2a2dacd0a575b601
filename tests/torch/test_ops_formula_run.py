"""Bonds by formula: the emitted expression, the reference and the plain evaluation agree."""

from __future__ import annotations

import math
from fractions import Fraction

import op_samples as samples
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from modnorm.ops.formula import Formula
from modnorm.ops.formula_tree import FUNCTIONS, Apply, Constant, Node, X
from modnorm.ops.types import Tensor

NUMBERS = [Fraction(0), Fraction(1), Fraction(-3), Fraction(1, 3), Fraction(-7, 2), 2, 2**0.5]


def nodes() -> st.SearchStrategy[Node]:
    """Formulas of any shape, with constants anywhere but never all of an operation's arguments."""
    leaf = st.one_of(st.just(X()), st.sampled_from(NUMBERS).map(Constant))

    def grow(inner: st.SearchStrategy[Node]) -> st.SearchStrategy[Node]:
        one = st.builds(
            lambda name, a: Apply(name, (a,)), st.sampled_from([*FUNCTIONS, "-"]), inner
        )
        two = st.builds(
            lambda name, a, b: Apply(name, (a, b)),
            st.sampled_from(["+", "-", "*", "/", "**"]),
            inner,
            inner,
        )
        extreme = st.builds(
            lambda name, a, b: Apply(name, (a, b)), st.sampled_from(["min", "max"]), inner, inner
        )
        return st.one_of(one, two, extreme).filter(sound)

    return st.recursive(leaf, grow, max_leaves=7)


def sound(node: Node) -> bool:
    """Whether the builder makes such trees: no constant operations, a constant last in `min`."""
    assert isinstance(node, Apply)
    if all(isinstance(a, Constant) for a in node.arguments):
        return False
    return node.function not in ("min", "max") or not isinstance(node.arguments[0], Constant)


@samples.examples(300, 5000)
@given(node=nodes())
def test_emission_reference_and_evaluation_agree(node: Node) -> None:
    op = Formula("F", node, (), 1)
    x = torch.tensor([-2.5, -1.0, -0.3, 0.0, 0.25, 1.0, 3.0], dtype=torch.float64)
    type = Tensor("float", (7,))
    expected = op.reference(x)
    got = samples.emitted(op, x, type, None)
    torch.testing.assert_close(got, expected, equal_nan=True, rtol=1e-9, atol=1e-12)
    for a, b in zip(x.tolist(), expected.tolist(), strict=True):
        y = op.evaluate(a)
        if math.isfinite(b) and math.isfinite(y):
            assert y == pytest.approx(b, rel=1e-9, abs=1e-12)
        elif math.isfinite(b):  # undefined in between, as tanh(1/0) = 1
            assert math.isnan(y)
        else:
            assert not math.isfinite(y)


@samples.examples(200, 3000)
@given(node=nodes())
def test_slopes_are_torchs_gradients(node: Node) -> None:
    from modnorm.ops.formula_check import Program

    op, program = Formula("F", node, (), 1), Program(node)
    x = torch.tensor([-2.17, -0.83, 0.31, 1.47], dtype=torch.float64, requires_grad=True)
    out = op.reference(x)
    if not out.requires_grad:
        return
    (gradient,) = torch.autograd.grad(out.sum(), x)
    for a, b in zip(x.tolist(), gradient.tolist(), strict=True):
        value, slope = program(a)
        ties = _has_tie(node, a)
        if math.isfinite(value) and math.isfinite(slope) and math.isfinite(b) and not ties:
            assert slope == pytest.approx(b, rel=1e-7, abs=1e-9)


def _has_tie(node: Node, x: float) -> bool:
    """Whether a kink is met exactly at x, where any slope between its sides is as good."""
    if not isinstance(node, Apply):
        return False
    values = [Formula("F", a, (), 1).evaluate(x) for a in node.arguments]
    if node.function in ("min", "max") and values[0] == values[1]:
        return True
    if node.function == "abs" and values[0] == 0:
        return True
    return any(_has_tie(a, x) for a in node.arguments)
