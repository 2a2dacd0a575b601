"""Bonds by formula, without torch: what may be written, what it becomes, what the check finds."""

from __future__ import annotations

import math
from fractions import Fraction
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from op_types import B, f, i

from modnorm.codegen.assemble import generate
from modnorm.diagnostics import Diagnostics, Source
from modnorm.graph.modules import Leaf, walk
from modnorm.ops.base import Misfit
from modnorm.ops.formula import Formula
from modnorm.ops.formula_tree import BadFormula
from modnorm.pipeline import analyse_text
from modnorm.syntax import tree
from modnorm.syntax.parser import parse


def formula(text: str, declared: Any = 1, domain: Any = None, **constants: Any) -> Formula:
    """The bond `B(x, …)` with that formula."""
    names = "".join(f", {name}" for name in constants)
    diagnostics = Diagnostics()
    file = parse(Source("t.mod", f"bond B(x{names}) = {text} sensitivity 1\n"), diagnostics)
    diagnostics.check()
    assert file is not None
    (statement,) = file.statements
    assert isinstance(statement, tree.Bond)
    return Formula.of(statement, constants, declared, domain)


EMITTED = [
    ("x", {}, "x"),
    ("cap * tanh(x / cap)", {"cap": 15}, "15 * torch.tanh(x / 15)"),
    ("a * x", {"a": Fraction(1, 3)}, "1/3 * x"),
    ("x / (1/3) * 2", {}, "x / (1/3) * 2"),
    ("x - (1 - x) - 2 * (x + 1)", {}, "x - (1 - x) - 2 * (x + 1)"),
    ("x - -2", {}, "x - -2"),
    ("-x ** 2 + (-x) ** 2 + -(x + 1)", {}, "-x ** 2 + (-x) ** 2 + -(x + 1)"),
    ("(x ** 2) ** 3 + 2 ** x ** 2", {}, "(x ** 2) ** 3 + 2 ** x ** 2"),
    ("(2 * 3 + 1) * x + sqrt(16) - abs(-2)", {}, "7 * x + 4 - 2"),
    ("abs(x) + erf(x) + sigmoid(x)", {}, "torch.abs(x) + torch.erf(x) + torch.sigmoid(x)"),
    ("min(max(x, -1), 1)", {}, "torch.clamp(x, min=-1, max=1)"),
    ("max(min(x, 1), -1)", {}, "torch.clamp(x, min=-1, max=1)"),
    ("max(min(x, -1), 1)", {}, "torch.clamp(torch.clamp(x, max=-1), min=1)"),
    ("min(1, x, 2, x * x)", {}, "torch.clamp(torch.minimum(x, x * x), max=1)"),
    ("max(2, 3) * x", {}, "3 * x"),
    ("+x", {}, "x"),
    ("1/2", {}, "torch.full_like(x, 0.5)"),
]


@pytest.mark.parametrize(("text", "constants", "code"), EMITTED, ids=[e[0] for e in EMITTED])
def test_emission(text: str, constants: dict[str, Any], code: str) -> None:
    op = formula(text, **constants)
    assert op.emit("x", f(B), "") == code
    scope = {"x": 0.0, "torch": None}
    if "torch" not in code:
        assert op.evaluate(0.0) == pytest.approx(eval(code, scope))


MISTAKES = [
    ("x + y", "E201", "`y` is neither the tensor `x` nor a constant of this bond", "y"),
    ("cosh(x)", "E201", "a bond's formula cannot use `cosh`", "cosh"),
    ("floor(x)", "E201", "cannot use `floor`", "floor"),
    ("tanh(x, x)", "E301", "`tanh` takes one argument, but here are 2", "tanh(x, x)"),
    ("min()", "E301", "`min` takes at least one argument", "min()"),
    ("tanh(a=x)", "E301", "no named arguments", "a=x"),
    ("ReLU @ x", "E302", "arithmetic on its tensor", "ReLU @ x"),
    ("x if 1 > 2 else x", "E302", "arithmetic on its tensor", "x if 1 > 2 else x"),
    ("(x, x)", "E302", "arithmetic on its tensor", "(x, x)"),
    ("true * x", "E302", "arithmetic on its tensor", "true"),
    ("x / 0", "E303", "division by zero", "x / 0"),
    ("x + 1/0", "E303", "division by zero", "1/0"),
    ("x * sqrt(-1)", "E303", "no real number", "sqrt(-1)"),
    ("x * log(0)", "E303", "no real number", "log(0)"),
    ("x * (-8) ** (1/3)", "E303", "no real number", "(-8) ** (1/3)"),
    ("x * 10 ** 400", "E303", "too large for a float", "10 ** 400"),
    ("x * 9 ** 9 ** 9 ** 9", "E303", "too large for a float", "9 ** 9 ** 9"),
]


@pytest.mark.parametrize(
    ("text", "code", "message", "place"), MISTAKES, ids=[m[0] for m in MISTAKES]
)
def test_mistakes_say_what_and_where(text: str, code: str, message: str, place: str) -> None:
    with pytest.raises(BadFormula) as caught:
        formula(text)
    bad = caught.value
    assert bad.code == code
    assert message in bad.message
    line = bad.span.source.line(bad.span.line)
    assert line[bad.span.column - 1 : bad.span.end_column - 1] == place


def test_a_misspelt_name_is_guessed() -> None:
    with pytest.raises(BadFormula) as caught:
        formula("tahn(x)")
    assert caught.value.hint == "did you mean `tanh`?"


def test_types_and_name() -> None:
    op = formula("abs(x)")
    assert op.label == "B"
    assert op.resolve(f(B, 3)) == (op, f(B, 3))
    assert op == formula("abs(x)")
    with pytest.raises(Misfit, match="`B` takes real numbers"):
        op.resolve(i(B))


# the formula, its sharp Lipschitz constant
SOUND: list[tuple[str, float]] = [
    ("x", 1),
    ("3 * tanh(x / 3)", 1),
    ("x * sigmoid(1.702 * x)", 1.0998393),
    ("x * (1 + erf(x / sqrt(2))) / 2", 1.1289042),
    ("log(1 + exp(x))", 1),
    ("max(x, x / 100)", 1),
    ("min(max(x, -1), 1)", 1),
    ("abs(x)", 1),
    ("sin(x) / 2 + x / 4", 0.75),
    ("exp(-x ** 2)", math.sqrt(2 / math.e)),
    ("x ** 2 / (1 + abs(x))", 1),
    ("1 / (1 + exp(-10 * x))", 2.5),
    ("x / sqrt(1 + x ** 2)", 1),
    ("tanh(1000 * (x - 3.333)) / 1000", 1),
    ("tanh(50 * (x - 77.77))", 50),
    ("cos(3 * x)", 3),
    ("abs(x) ** 1.5 / (1 + abs(x))", 0.55045868),
]


@pytest.mark.parametrize(("text", "sharp"), SOUND, ids=[s[0] for s in SOUND])
def test_the_check_knows_the_steepest_slope(text: str, sharp: float) -> None:
    """A sensitivity that holds passes, and one that is a thousandth too small does not."""
    assert formula(text, sharp * (1 + 1e-6)).check() is None
    assert formula(text, sharp * (1 + 1e-6)).undecided() is None or "exp(-10" in text
    violation = formula(text, sharp * 0.999).check()
    assert violation is not None
    assert violation.slope == pytest.approx(sharp, rel=1e-4)
    assert f"{violation.slope:.6g}" in violation.reason
    step = 1e-7
    op = formula(text)
    here = op.evaluate(violation.x)
    sides = [abs(op.evaluate(violation.x + s) - here) / step for s in (step, -step)]
    assert max(sides) == pytest.approx(sharp, rel=1e-3)


BROKEN = [
    ("log(x)", "at x = 0, the logarithm of 0 is taken"),
    ("log(200 - x)", "the logarithm of -116.2 is taken"),
    ("sqrt(x)", "at x = 0 its gradient is not finite"),
    ("sqrt(1 + x)", "the square root of -"),
    ("1 / x", "at x = 0, 1 is divided by 0"),
    ("1 / (x - 2)", "at x = 2, 1 is divided by 0"),
    ("x ** -2", "at x = 0, 0 is raised to the power -2"),
    ("x ** 0.5", "at x = 0 its gradient is not finite"),
    ("(x + 1) ** 1.5", "is raised to the power 1.5"),
    ("exp(exp(x))", "the result is not finite"),
    ("exp(x) - exp(x) * exp(exp(x))", "the result is not finite"),
    ("sqrt(x * x)", "at x = 0 its gradient is not finite"),
]


@pytest.mark.parametrize(("text", "reason"), BROKEN, ids=[b[0] for b in BROKEN])
def test_the_check_finds_where_a_formula_is_undefined(text: str, reason: str) -> None:
    violation = formula(text, 10**9).check()
    assert violation is not None
    assert reason in violation.reason
    assert not math.isfinite(violation.slope)


UNBOUNDED = ["x ** 2", "x * abs(x)", "exp(x)", "x * sin(x)", "2 ** x", "x * tanh(x) * x"]


@pytest.mark.parametrize("text", UNBOUNDED)
def test_the_check_finds_slopes_without_bound(text: str) -> None:
    violation = formula(text, 20).check()
    assert violation is not None
    assert violation.slope > 20


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    scale=st.fractions(-20, 20).filter(bool),
    width=st.fractions(Fraction(1, 20), 20),
    shift=st.fractions(-90, 90),
)
def test_the_check_is_exact_for_shifted_and_scaled_tanh(
    scale: Fraction, width: Fraction, shift: Fraction
) -> None:
    sharp = abs(scale) * width
    text = "s * tanh(w * (x - c))"
    constants = {"s": scale, "w": width, "c": shift}
    assert formula(text, sharp, **constants).check() is None
    violation = formula(text, sharp * Fraction(99, 100), **constants).check()
    assert violation is not None
    assert violation.slope == pytest.approx(float(sharp), rel=1e-3)


NARROW = "exp(-100000000 * (x - {0}) ** 2) / 10000"
"""Slope √(2/e), met within 0.0001 of one place only."""


@pytest.mark.parametrize("place", [1.23456789, -77.123456, 0.000321, 99.98765])
def test_a_steep_place_between_the_points_is_found(place: float) -> None:
    violation = formula(NARROW.format(place), 0.1).check()
    assert violation is not None
    assert violation.x == pytest.approx(place, abs=4e-4)
    assert 0.1 < violation.slope <= math.sqrt(2 / math.e)
    assert formula(NARROW.format(place), 0.858).check() is None
    assert formula(NARROW.format(place), 0.858).undecided() is None


def test_a_slope_that_cannot_be_ruled_out_is_told_of() -> None:
    text = "bond S(x) = 1 / (1 + exp(-10 * x)) sensitivity 5/2\nmodel M = S @ Linear(4, 4)"
    (warning,) = analyse_text(f"input x: float[batch, 4]\n{text}").diagnostics
    assert warning.code == "W612"
    assert "`S`" in warning.message
    text = text.replace("1 / (1 + exp(-10 * x))", "sigmoid(10 * x)")
    assert not analyse_text(f"input x: float[batch, 4]\n{text}").diagnostics


RANGES = [
    ("1 / x", (Fraction(1, 2), 2), 4.0),
    ("1 / x", (-2, Fraction(-1, 4)), 16.0),
    ("sqrt(x)", (Fraction(1, 4), 9), 1.0),
    ("log(x)", (Fraction(1, 8), 100), 8.0),
    ("exp(x)", (-3, 2), math.exp(2)),
    ("x ** 3", (-2, 1), 12.0),
    ("sin(x)", (1, 2), math.cos(1)),
    ("sin(1000 * x)", (0, Fraction(1, 100)), 1000.0),
    ("1 / (x - 3)", (0, 2), 1.0),
    ("x / (1 + 10000 * (x - 1/7) ** 2)", (-1, 1), 9.0),
]
"""Formulas with the largest slope that they have on a range, where none is bounded beyond it."""


@pytest.mark.parametrize(("text", "domain", "most"), RANGES)
def test_a_formula_is_checked_on_its_range(text: str, domain: Any, most: float) -> None:
    if most == 9.0:  # by hand the largest slope of this one is long: by 10⁶ points
        low, high = map(float, domain)
        xs = [low + (high - low) * i / 10**6 for i in range(10**6 + 1)]
        ys = [x / (1 + 1e4 * (x - 1 / 7) ** 2) for x in xs]
        most = max(abs(b - a) for a, b in pairwise(ys)) / (xs[1] - xs[0])
    sharp = formula(text, most * (1 + 1e-5), domain)
    assert sharp.check() is None
    assert sharp.undecided() is None
    assert sharp.meant_for == tuple(map(float, domain))
    violation = formula(text, most * 0.999, domain).check()
    assert violation is not None
    assert violation.most == pytest.approx(most, rel=1e-5)
    assert float(domain[0]) <= violation.x <= float(domain[1])


def test_a_range_proves_nothing_by_itself() -> None:
    """Of x² on [-1, 1] a slope of 2 is proved where entries are in it, and else what they have."""
    bond = "input x: float[b, 4]\nbond S(x) = x ** 2 on [-1, 1] sensitivity 2\n"
    for before, slope in (("Tanh", 2.0), ("1/4 * Identity", 1.0), ("Identity", 4.0)):
        found = analyse_text(f"{bond}model M = S @ ({before})\n", "m.mod").program
        assert found.certificate is not None
        leaf = next(m for m in walk(found.tree) if isinstance(m, Leaf) and m.op.label == "S")
        sensitivity = found.certificate.parts[leaf.id].sensitivity
        assert sensitivity == pytest.approx(slope, rel=3e-3)
        assert float(found.sensitivity) == pytest.approx(2 * (0.25 if "/" in before else 1))


def test_without_a_bound_a_range_is_told_of() -> None:
    bond = "input x: float[b, 4]\nbond I(x) = 1 / x on [1, 2] sensitivity 1\n"
    found = analyse_text(f"{bond}model M = Linear(2) @ I @ Linear(4)\n", "m.mod").program
    assert found.certificate is not None
    (reason,) = found.certificate.reasons
    assert reason.text.endswith("and values outside of [1, 2], its range, are possible")
    text = generate(found, "cpu")
    assert "`I`, m.mod:3, is declared for values from 1 to 2." in text
