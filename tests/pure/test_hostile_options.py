"""Values of parameters, and names of models, as a command line or a program may give them."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest

from modnorm.codegen.assemble import generate
from modnorm.diagnostics import Diagnostic, ModnormError
from modnorm.pipeline import Analysis, analyse_text

X = "input x: float[batch, 8]\n"
WITH_PARAMS = (
    "param d = 8\nparam on = true\nparam name = 'a'\n"
    f"{X}model M = Linear(d) if on and name == 'a' else ReLU\n"
)


def analysed(text: str, **options: object) -> Analysis:
    """The analysis, of which Python can read what is generated."""
    analysis = analyse_text(text, "main.mod", **options)  # type: ignore[arg-type]
    compile(generate(analysis.program), "main.py", "exec")
    return analysis


def refused(text: str, **options: object) -> tuple[Diagnostic, ...]:
    """The errors of a program that does not compile."""
    with pytest.raises(ModnormError) as caught:
        analyse_text(text, "main.mod", **options)  # type: ignore[arg-type]
    return tuple(d for d in caught.value.diagnostics if d.severity == "error")


@pytest.mark.parametrize(
    ("value", "code"),
    [
        *[("", "E102"), (" ", "E102"), ("#", "E102"), ("=", "E102"), ("d=3", "E102")],
        *[("1 2", "E102"), ("(", "E102"), ("\0", "E102"), ("é", "E102"), ("model M = 3", "E102")],
        *[("8 @ 8", "E302"), ("true", "E302"), ('"a"', "E302"), ("(1, 2)", "E302")],
        *[("ReLU", "E201"), ("foo", "E201"), ("d", "E201"), ("a.b", "E201"), ("x + 1", "E201")],
        *[("compose(ReLU for i in range(3))", "E201"), ("Linear(8)", "E201")],
        *[("0", "E304"), ("-1", "E304"), ("8.5", "E304"), ("1/3", "E304"), ("sqrt(2)", "E304")],
        *[("1e300", "E305"), ("2 ** 31", "E305"), ("1e999", "E103"), ("9" * 1000, "E103")],
        *[("1/0", "E303"), ("2 ** 10 ** 9", "E303"), ("sqrt(-1)", "E303"), ("log2(0)", "E303")],
        *[("(" * 300 + "8" + ")" * 300, "E104"), (" + ".join(["1"] * 5000), "E104")],
        *[(b"8", "E302"), (None, "E302"), ([8], "E302"), (8j, "E302"), (True, "E302")],
        *[(math.nan, "E103"), (math.inf, "E103"), (10**5000, "E103"), (8.5, "E304")],
        *[(1e300, "E305"), (-8, "E304"), (Fraction(1, 3), "E304"), (1e-300, "E304")],
    ],
    ids=lambda value: "number" if isinstance(value, int) else repr(value)[:20],
)
def test_values_of_a_param(value: object, code: str) -> None:
    assert {d.code for d in refused(WITH_PARAMS, params={"d": value})} == {code}


@pytest.mark.parametrize(
    "value", [8, 8.0, Fraction(8), "8", " 8 ", "8.0", "2 ** 3", "sqrt(64)", "max(1, 8)", "8 # x"]
)
def test_good_values_of_a_param(value: object) -> None:
    analysis = analysed(WITH_PARAMS, params={"d": value})
    assert analysis.program.weights[0].op.weight_shape == (8, 8)


def test_numbers_from_python_are_what_is_written() -> None:
    text = f"param p = 1\n{X}model M = p * Linear(8) + (1 - p) * Identity\n"
    analysis = analysed(text, params={"p": 0.1})
    assert analysis.program.params["p"] == Fraction(1, 10)
    assert analysis.program.sensitivity == 1


@pytest.mark.parametrize("name", ["", "D", "x", "M", "d ", "é", "a" * 10_000, "__class__"])
def test_params_that_are_not_there(name: str) -> None:
    (problem,) = refused(WITH_PARAMS, params={name: "8"})
    assert problem.code == "E207"


@pytest.mark.parametrize("name", ["", "m", "x", "d", "é", "a" * 10_000])
def test_models_that_are_not_there(name: str) -> None:
    (problem,) = refused(WITH_PARAMS, model=name)
    assert problem.code == "E206"
