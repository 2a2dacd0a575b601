"""What interval arithmetic proves of a formula's slope."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modnorm.ops.formula_bounds import Interval, Undefined, bounds, largest
from modnorm.ops.formula_check import Program
from modnorm.ops.formula_tree import Apply, Constant, Node, X

FUNCTIONS = ["abs", "exp", "log", "sqrt", "tanh", "sigmoid", "erf", "sin", "cos", "-"]
OPERATORS = ["+", "-", "*", "/", "min", "max", "**"]
ENDS = st.floats(-8, 8, width=32)


def formulas() -> st.SearchStrategy[Node]:
    constants = st.sampled_from([2, -1, 0.5, 3, -2, 1.5, 0.1]).map(Constant)
    return st.recursive(
        st.just(X()),
        lambda inner: st.one_of(
            st.builds(lambda f, a: Apply(f, (a,)), st.sampled_from(FUNCTIONS), inner),
            st.builds(
                lambda f, a, b: Apply(f, (a, b)),
                st.sampled_from(OPERATORS),
                inner,
                st.one_of(inner, constants),
            ),
            st.builds(
                lambda f, a, b: Apply(f, (a, b)), st.sampled_from(OPERATORS), constants, inner
            ),
        ),
        max_leaves=6,
    )


@given(formulas(), ENDS, ENDS, st.floats(0, 1))
def test_values_and_slopes_on_a_piece_lie_in_their_intervals(
    formula: Node, one: float, other: float, part: float
) -> None:
    low, high = sorted((one, other))
    x = min(max(low + part * (high - low), low), high)
    value, slope = Program(formula)(x)
    try:
        found = bounds(formula, Interval(low, high))
    except Undefined:
        return
    assert math.isnan(value) or within(value, found.value)
    assert math.isnan(slope) or within(slope, found.slope)


def within(value: float, interval: Interval) -> bool:
    room = 1e-12 * (1 + abs(value)) if math.isfinite(value) else 0.0
    return interval.low - room <= value <= interval.high + room


@given(formulas(), st.floats(0.125, 30), st.floats(-1, 1))
def test_no_slope_is_steeper_than_the_bound(formula: Node, high: float, part: float) -> None:
    slope = Program(formula)(part * high)[1]
    bound = largest(formula, high).bound
    assert math.isnan(slope) or abs(slope) <= bound * (1 + 1e-9) + 1e-12


def call(name: str, *arguments: Node) -> Node:
    return Apply(name, arguments)


SILU = call("*", X(), call("sigmoid", X()))
SOFTCAP = call("*", Constant(15), call("tanh", call("/", X(), Constant(15))))
KNOWN = [
    (SILU, 30.0, 1.0998393194),
    (SOFTCAP, math.inf, 1.0),
    (call("max", X(), Constant(0)), math.inf, 1.0),
    (call("sin", call("*", Constant(3), X())), 10.0, 3.0),
    (call("**", X(), Constant(2)), 5.0, 10.0),
    (call("exp", X()), 2.0, math.exp(2)),
    (call("sqrt", call("+", call("*", X(), X()), Constant(1))), 1.0, math.sqrt(0.5)),
    (call("min", call("max", X(), Constant(-1)), Constant(1)), math.inf, 1.0),
]


@pytest.mark.parametrize(("formula", "high", "slope"), KNOWN, ids=lambda v: str(v)[:30])
def test_bounds_are_close_to_the_steepest_slope(formula: Node, high: float, slope: float) -> None:
    assert slope <= largest(formula, high).bound * (1 + 1e-12)
    assert largest(formula, high).bound <= slope * 1.003


@pytest.mark.parametrize(
    "formula",
    [call("exp", X()), call("**", X(), Constant(2)), call("*", X(), call("sin", X()))],
    ids=str,
)
def test_a_slope_that_grows_has_no_bound_on_all_numbers(formula: Node) -> None:
    assert largest(formula, math.inf).bound == math.inf


@pytest.mark.parametrize(
    "formula",
    [
        call("sqrt", X()),
        call("log", X()),
        call("/", Constant(1), X()),
        call("sqrt", call("abs", X())),
    ],
    ids=str,
)
def test_where_a_formula_is_undefined_or_vertical_there_is_no_bound(formula: Node) -> None:
    assert largest(formula, 1.0).bound == math.inf


@given(formulas(), ENDS, ENDS, st.floats(0, 1))
def test_second_derivatives_on_a_piece_lie_in_their_interval(
    formula: Node, one: float, other: float, part: float
) -> None:
    """Against differences of slopes: their quotient is a second derivative somewhere between."""
    low, high = sorted((one, other))
    x = low + part * (high - low)
    step = 1e-3 * (high - low)
    sides = max(x - step, low), min(x + step, high)
    if not sides[0] < sides[1]:
        return
    try:
        bend = bounds(formula, Interval(low, high)).bend
    except Undefined:
        return
    (_, a), (_, b) = (Program(formula)(side) for side in sides)
    if not math.isfinite(bend.size) or not math.isfinite(a + b):
        return
    width = sides[1] - sides[0]
    room = 1e-9 * (1 + abs(a) + abs(b)) / width + 1e-6 * bend.size
    assert bend.low - room <= (b - a) / width <= bend.high + room


GELU = call("*", X(), call("+", Constant(1), call("erf", call("/", X(), Constant(2**0.5)))))
BENDS = [
    (call("tanh", X()), math.inf, 4 / (3 * math.sqrt(3))),
    (call("tanh", X()), 0.25, 2 * math.tanh(0.25) * (1 - math.tanh(0.25) ** 2)),
    (call("sigmoid", X()), math.inf, 1 / (6 * math.sqrt(3))),
    (call("*", Constant(0.5), GELU), 30.0, math.sqrt(2 / math.pi)),
    (SILU, 30.0, 0.5),
    (call("exp", X()), 2.0, math.exp(2)),
    (call("**", X(), Constant(3)), 2.0, 12.0),
    (call("/", Constant(1), call("+", Constant(1), call("*", X(), X()))), 5.0, 2.0),
]


@pytest.mark.parametrize(("formula", "high", "bend"), BENDS, ids=lambda v: str(v)[:30])
def test_bounds_are_close_to_the_largest_second_derivative(
    formula: Node, high: float, bend: float
) -> None:
    bound = largest(formula, high, 2).bound
    assert bend * (1 - 1e-12) <= bound <= bend * 1.003


@pytest.mark.parametrize("name", ["abs", "max"])
def test_a_corner_has_no_bound_on_its_second_derivative(name: str) -> None:
    corner = call("abs", X()) if name == "abs" else call("max", X(), Constant(0))
    assert largest(corner, 1.0, 2).bound == math.inf


def test_values_are_bounded_too() -> None:
    assert largest(call("tanh", X()), 2.0, 0).bound == pytest.approx(math.tanh(2), rel=1e-9)
    assert largest(SILU, 1.0, 0).bound == pytest.approx(1 / (1 + math.exp(-1)), rel=1e-3)
