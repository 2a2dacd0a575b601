"""What expressions evaluate to: numbers, truth values and module trees."""

from __future__ import annotations

import gc
import math
from fractions import Fraction
from typing import Any

import pytest
from evaluated import evaluate, module, written
from hypothesis import given
from hypothesis import strategies as st

from modnorm.graph import evaluate as bounds
from modnorm.graph.evaluate import OutOfSteps
from modnorm.graph.lookups import Lookups
from modnorm.graph.modules import Hole, Repeat, walk
from modnorm.graph.values import POISON
from modnorm.pipeline import ANALYSIS, analyse_text

DEFS = """
param width = 3
param flag = true
param kind = "wide"
def a = Linear(2)
def sized(n, twice = 1) = Linear(n * twice)
def third = 1 / 3
def both(f, g) = f @ g
shared one = Linear(5)
"""


def value(expression: str, before: str = DEFS) -> Any:
    """A value without mistakes; a module as text."""
    found, reported = evaluate(expression, before)
    assert not reported, reported
    return written(found)


def mistakes(expression: str, before: str = DEFS) -> list[str]:
    found, reported = evaluate(expression, before)
    assert reported
    assert found is POISON or any(isinstance(x, Hole) for x in walk(found))
    return reported


# --- numbers -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("expression", "result"),
    [
        ("1 + 2 * 3", 7),
        ("(1 + 2) * 3", 9),
        ("7 / 2", Fraction(7, 2)),
        ("6 / 2", 3),
        ("1 - 1 / 3 - 2 / 3", 0),
        ("0.1 + 0.2", Fraction(3, 10)),
        ("1e3", 1000),
        ("-2 ** 2", -4),
        ("2 ** -1", Fraction(1, 2)),
        ("2 ** 3 ** 2", 512),
        ("- - 3", 3),
        ("+width", 3),
        ("third * 3", 1),
        ("third() * 3", 1),
        ("floor(7 / 2)", 3),
        ("ceil(7 / 2)", 4),
        ("floor(-1 / 2)", -1),
        ("min(3, 1 / 2, 2)", Fraction(1, 2)),
        ("max(3)", 3),
        ("min(third, 1 / 4)", Fraction(1, 4)),
    ],
)
def test_exact_numbers(expression: str, result: object) -> None:
    found = value(expression)
    assert found == result
    assert type(found) is type(result)


@pytest.mark.parametrize(
    ("expression", "result"),
    [
        ("sqrt(2)", math.sqrt(2)),
        ("sqrt(4)", 2.0),
        ("log2(8)", 3.0),
        ("2 ** (1 / 2)", math.sqrt(2)),
        ("sqrt(2) * 2 - 1 / 2", math.sqrt(2) * 2 - 0.5),
    ],
)
def test_roots_and_logarithms_are_floats(expression: str, result: float) -> None:
    found = value(expression)
    assert isinstance(found, float)
    assert found == pytest.approx(result, rel=1e-15)


@given(st.fractions(-20, 20, max_denominator=12), st.fractions(-20, 20, max_denominator=12))
def test_arithmetic_is_pythons_on_fractions(a: Fraction, b: Fraction) -> None:
    x, y = (f"({f.numerator} / {f.denominator})" for f in (a, b))
    assert value(f"{x} + {y}") == a + b
    assert value(f"{x} - {y}") == a - b
    assert value(f"{x} * {y}") == a * b
    assert value(f"{x} < {y}") == (a < b)
    assert value(f"{x} == {y}") == (a == b)
    if b:
        assert value(f"{x} / {y}") == a / b


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("1 / 0", "division by zero"),
        ("0 ** -1", "0 has no negative power"),
        ("(-8) ** (1 / 3)", "-8 is negative and has no power 1/3"),
        ("sqrt(-1)", "-1 is negative and has no square root"),
        ("log2(0)", "0 is not positive and has no logarithm"),
        ("2 ** 5000", "the result is an exact number of more than 4096 bits"),
        ("sqrt(2) ** 10000", "the result is too large"),
        ("1 / sqrt(0)", "division by zero"),
    ],
)
def test_numbers_that_are_none(expression: str, message: str) -> None:
    assert mistakes(expression) == [f"E303: {message}"]


# --- truth values, strings -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("expression", "result"),
    [
        ("1 / 2 == 0.5", True),
        ("1 != 1", False),
        ("2 <= 2", True),
        ("third > 0.3", True),
        ("flag and 1 < 0", False),
        ("flag or 1 / 0 == 1", True),  # the right side is not evaluated
        ("false and 1 / 0 == 1", False),
        ("not flag", False),
        ("not 1 < 0 and true", True),
        ('kind == "wide"', True),
        ('kind < "x"', True),
        ("kind == 3", False),
        ("true == 1", False),
        ("3 if flag else 1 / 0", 3),  # the other branch is not evaluated
        ('"a" if kind == "narrow" else "b"', "b"),
        ("1 if false else 2 if flag else 3", 2),
    ],
)
def test_conditions(expression: str, result: object) -> None:
    found = value(expression)
    assert found == result
    assert type(found) is type(result)


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("1 if 1 else 2", "E302: a condition must be true or false, but this is the number 1"),
        ("not 3", "E302: a condition must be true or false, but this is the number 3"),
        ("flag and 3", "E302: a condition must be true or false, but this is the number 3"),
        ("a == a", "E302: modules cannot be compared"),
        ("kind < 3", 'E302: `<` cannot order the string "wide" and the number 3'),
        ("flag <= flag", "E302: `<=` cannot order the truth value true and the truth value true"),
    ],
)
def test_conditions_that_are_none(expression: str, message: str) -> None:
    assert mistakes(expression) == [message]


# --- modules -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("expression", "result"),
    [
        ("ReLU", "ReLU"),
        ("Linear(width + 1)", "Linear(4)"),
        ("Linear(4, mass = 1 / 2)", "Linear(4, mass = 1/2)"),
        # composition: the right side first, `>>` the other way round and binding loosest
        ("Tanh @ ReLU @ Abs", "(Abs >> ReLU >> Tanh)"),
        ("Abs >> ReLU >> Tanh", "(Abs >> ReLU >> Tanh)"),
        ("Abs >> Tanh @ ReLU", "(Abs >> ReLU >> Tanh)"),
        ("Abs >> ReLU + Tanh", "(Abs >> [ReLU, Tanh] >> Add)"),
        ("(ReLU, a)", "[ReLU, a:Linear(2)]"),
        # `+` and `-` are Add on a tuple
        ("ReLU + Abs", "([ReLU, Abs] >> Add)"),
        ("ReLU - Abs", "([ReLU, (Abs >> Mul(-1))] >> Add)"),
        ("-ReLU", "(ReLU >> Mul(-1))"),
        ("+ReLU", "ReLU"),
        # a number on the left is applied after, on the right before
        ("2 * ReLU", "(ReLU >> Mul(2))"),
        ("ReLU * 2", "(Mul(2) >> ReLU)"),
        ("ReLU / 4", "(Mul(1/4) >> ReLU)"),
        ("third * Identity + (1 - third) * ReLU",
         "([(Identity >> Mul(1/3)), (ReLU >> Mul(2/3))] >> Add)"),
        # `@` and `*` bind alike, from the left; `**` binds tightest
        ("2 * ReLU @ Abs", "(Abs >> ReLU >> Mul(2))"),
        ("ReLU @ (2 * Abs)", "(Abs >> Mul(2) >> ReLU)"),
        ("2 * ReLU ** 3", "(ReLU^3 >> Mul(2))"),
        ("ReLU ** width", "ReLU^3"),
        ("ReLU ** (4 / 2)", "ReLU^2"),
        ("ReLU ** 0", "Identity"),
        ("(ReLU ** 2) ** 3", "ReLU^2^3"),
        ("tare(a, 1 / 2)", "tare(a:Linear(2), 1/2)"),
        ("tare(a, 0)", "tare(a:Linear(2), 0)"),
        ("ReLU if flag else Abs", "ReLU"),
        # definitions
        ("a", "a:Linear(2)"),
        ("a()", "a:Linear(2)"),
        ("sized(2)", "sized:Linear(2)"),
        ("sized(2, 3)", "sized:Linear(6)"),
        ("sized(twice = 3, n = 2)", "sized:Linear(6)"),
        ("both(a, ReLU)", "both:(ReLU >> a:Linear(2))"),
        ("one @ one", "(one!Linear(5) >> one!Linear(5))"),
    ],
)  # fmt: skip
def test_modules(expression: str, result: str) -> None:
    assert value(expression) == result


@pytest.mark.parametrize(
    ("expression", "result"),
    [
        ("compose(Linear(i + 1) for i in range(3))", "Linear(1)^1 Linear(2)^1 Linear(3)^1"),
        ("compose(Linear(2) for i in range(3))", "Linear(2)^3"),
        ("compose(ReLU for i in range(0))", "Identity"),
        ("compose(Linear(i) for i in range(2, 6, 2))", "Linear(2)^1 Linear(4)^1"),
        ("compose(Linear(i) for i in range(3, 1, -1))", "Linear(3)^1 Linear(2)^1"),
        # equal neighbours stay one node
        ("compose(Linear(max(i, 3)) for i in range(6))", "Linear(3)^4 Linear(4)^1 Linear(5)^1"),
        ("compose(sized(1 if i < 2 else 2) for i in range(4))",
         "sized:Linear(1)^2 sized:Linear(2)^2"),
        # an inner index hides an outer one
        ("compose(compose(Linear(i + 1) for i in range(2)) for i in range(3))",
         "Linear(1)^1 Linear(2)^1^3"),
    ],
)  # fmt: skip
def test_compose(expression: str, result: str) -> None:
    assert value(expression) == result


def test_a_repetition_is_one_node_whatever_its_count() -> None:
    found = module("compose(Linear(4) for i in range(100000))")
    assert isinstance(found, Repeat)
    assert len(list(walk(found))) == 2
    assert found.count == 100_000


def test_each_mention_of_a_definition_is_evaluated_where_it_was_written() -> None:
    before = """
param n = 2
def f(n) = g @ Linear(n)
def g = Linear(n)
"""
    assert value("f(7)", before) == "f:(Linear(7) >> g:Linear(2))"


def test_where_bindings_are_scopes_with_the_names_around() -> None:
    before = """
def f(n) = out @ hidden @ hidden
  where
    hidden = Linear(size)
    size = 2 * n
    out = ReLU
"""
    hidden = "hidden:Linear(6)"
    assert value("f(3)", before) == f"f:({hidden} >> {hidden} >> out:ReLU)"


def test_a_where_binding_that_is_not_used_is_not_evaluated() -> None:
    assert value("f", "def f = ReLU\n  where\n    unused = 1 / 0\n") == "f:ReLU"


def test_params_of_the_main_file_can_be_overridden() -> None:
    before = "param n = 2\nparam m = n + 1\n"
    found, reported = evaluate("Linear(m)", before, {"n": 8})
    assert (written(found), reported) == ("Linear(9)", [])


def test_local_names_come_first() -> None:
    found, reported = evaluate("Linear(width)", DEFS, None, width=7)
    assert (written(found), reported) == ("Linear(7)", [])
    _, reported = evaluate("width(3)", DEFS, None, width=7)
    assert reported == ["E301: `width` is the number 7 and takes no arguments"]


# --- mistakes ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("expression", "messages"),
    [
        ("ReLU * true", ["E302: `*` takes numbers and modules, but this is the truth value true"]),
        ("2 / ReLU", ["E302: `/` takes a module and a number, but here are the number 2 and "
                      "a module"]),
        ("ReLU @ 3", ["E302: `@` takes modules, but this is the number 3"]),
        ("2 ** ReLU", ["E302: the exponent of 2 must be a number, but this is a module"]),
        ("ReLU / 0", ["E303: division by zero"]),
        ("(ReLU, 3)", ["E302: a tuple holds modules or numbers, not both, but this is the "
                       "number 3"]),
        ("tare(3, 1)", ["E302: `tare` takes a module, but this is the number 3"]),
        ("tare(a, -1)", ["E307: a mass cannot be negative, but this is -1"]),
        ("tare(a, 10 ** -400)", ["E305: a mass must be 0 or a number that a float can hold, but "
                                 "it is about 1e-400"]),
        ("compose(3 for i in range(2))", ["E302: `compose` repeats a module, but this is the "
                                          "number 3"]),
        ("compose(ReLU for i in range(0, 4, 0))", ["E304: the step of a `range` cannot be 0"]),
        ("width(3)", ["E301: `width` is the number 3 and takes no arguments"]),
        ("sqrt(1, 2)", ["E301: `sqrt` takes one number, but here are 2"]),
        ("max()", ["E301: `max` takes at least one number, but here are none"]),
        ("sqrt(x = 4)", ["E301: `sqrt` takes no argument named `x`"]),
    ],
)  # fmt: skip
def test_mistakes(expression: str, messages: list[str]) -> None:
    assert mistakes(expression) == messages


@pytest.mark.parametrize(
    ("expression", "count"),
    [
        ("Linear(1 / 0) @ Linear(sqrt(-1))", 2),
        ("(Linear(1 / 0), tare(a, -1), Linear(2))", 2),
        ("1 / 0 + 1", 1),  # what depends on a mistake is silent
        ("Linear(1 / 0) ** 3 @ (2 * tare(a, -1))", 2),
        ("max(1 / 0, 2) if flag else 3", 1),
        ("sized(1 / 0, sqrt(-1))", 2),
    ],
)
def test_independent_mistakes_are_all_reported_and_no_other(expression: str, count: int) -> None:
    assert len(mistakes(expression)) == count


def test_a_mistake_in_a_definition_is_reported_once() -> None:
    assert mistakes("n + n", "param n = 1 / 0\n") == ["E303: division by zero"]


def test_definitions_in_terms_of_themselves() -> None:
    reported = mistakes("f", "def f = g @ ReLU\ndef g = f @ Abs\n")
    assert reported == ["E205: `f` is defined in terms of itself: f → g → f"]


# --- bounds --------------------------------------------------------------------------------------


def test_evaluation_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounds, "MAX_STEPS", 40)
    assert value("compose(Linear(3) for i in range(1000))") == "Linear(3)^1000"
    with pytest.raises(OutOfSteps):
        evaluate("compose(Linear(i + 1) for i in range(1000))")


def test_a_compose_has_so_many_different_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounds, "MAX_RUNS", 3)
    assert value("compose(Linear(min(i, 2) + 1) for i in range(9))").count("^") == 3
    message = "E305: a `compose` of 4 different modules; at most 3 are allowed"
    assert mistakes("compose(Linear(min(i, 3) + 1) for i in range(9))") == [message]


def test_a_tuple_has_so_many_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounds, "MAX_MEMBERS", 2)
    assert value("(ReLU, Abs)") == "[ReLU, Abs]"
    assert value("max(1, 2, 3)") == 3
    assert mistakes("(ReLU, Abs, Tanh)") == ["E305: a tuple of 3 modules; at most 2 are allowed"]


def test_a_value_is_of_its_own_call_whenever_memory_is_cleared(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Names of a call that is over leave their place in memory to those of the next."""
    body = Lookups.body

    def cleared(self: Lookups, *given: Any) -> Any:
        gc.collect()
        return body(self, *given)

    monkeypatch.setattr(Lookups, "body", cleared)
    calls = " @ ".join(f"one({n})" for n in range(1, 30))
    text = (
        "input x: float[batch, 4]\ndef one(n) = Linear(4 * m) @ both\n  where\n    m = n + 1\n"
        f"    both = Linear(2 * m) @ Linear(m)\nmodel M = {calls}\n"
    )
    found = [w.op.weight_shape[0] for w in analyse_text(text, passes=ANALYSIS).program.weights]
    assert found == [k * (n + 1) for n in reversed(range(1, 30)) for k in (1, 2, 4)]
