"""Bounds: nothing that is written into a file makes the front end hang, crash or eat memory."""

from __future__ import annotations

import pytest

from modnorm.diagnostics import Diagnostics, ModnormError, Source
from modnorm.report.diagnostics import render
from modnorm.syntax.depth import MAX_CHAIN, MAX_NESTING
from modnorm.syntax.parser import (
    MAX_CHARACTERS,
    MAX_MISTAKES,
    MAX_TOKENS,
    parse,
    parse_expression,
)


def said(text: str) -> list[tuple[str, str]]:
    found = Diagnostics()
    file = parse(Source("test.mod", text), found)
    assert (file is None) == bool(found.errors)
    rendered = render(found)
    assert all(len(line) < 400 for line in rendered.split("\n"))
    return [(d.code, d.message) for d in found]


NESTED = [("E104", f"an expression nested more than {MAX_NESTING} deep")]
CHAINED = [("E104", f"a chain of more than {MAX_CHAIN} operators")]


@pytest.mark.parametrize("count", [MAX_NESTING + 1, 3_000])
@pytest.mark.parametrize(
    "text",
    [
        "{open}x{close}",
        "{call}x{close}",
        "{minus}x",
        "{nots}x",
        "{power}x",
        "{condition}x",
        "{open}x",
    ],
)
def test_nesting(text: str, count: int) -> None:
    parts = {
        "open": "(" * count,
        "close": ")" * count,
        "call": "f(" * count,
        "minus": "-" * count,
        "nots": "not " * count,
        "power": "x ** " * count,
        "condition": "y if c else " * count,
    }
    assert said("def f = " + text.format(**parts)) == NESTED
    assert said("model M = a where b = " + text.format(**parts)) == NESTED


@pytest.mark.parametrize("operator", ["@", ">>", "+", "/", "and"])
def test_chains(operator: str) -> None:
    count = 10_000 if operator == "@" else MAX_CHAIN + 2
    assert said("def f = " + f" {operator} ".join(["x"] * count)) == CHAINED
    with pytest.raises(ModnormError, match="a chain of"):
        parse_expression(f" {operator} ".join(["x"] * count), "-p x")


def test_a_chain_says_what_to_write_instead() -> None:
    found = Diagnostics()
    parse(Source("test.mod", "def f = " + "x @ " * 10_000 + "x"), found)
    (problem,) = found
    assert "a ** n" in problem.hint
    assert "compose" in problem.hint


def test_what_is_within_the_bounds_is_read() -> None:
    assert said("def f = " + "(" * MAX_NESTING + "x" + ")" * MAX_NESTING) == []
    assert said("def f = " + "-" * MAX_NESTING + "x") == []
    assert said("def f = " + " @ ".join(["x"] * MAX_CHAIN)) == []
    assert said("def f = (" + ", ".join(["x"] * 5_000) + ")") == []
    assert said("def f = g(" + ", ".join(["x"] * 5_000) + ")") == []
    assert said("def f = a where " + " ".join(f"b{i} = c" for i in range(5_000))) == []


def test_large_files() -> None:
    many = [("E101", f"the file has more than {MAX_TOKENS:,} words and signs")]
    assert said("#" * (MAX_CHARACTERS + 1)) == [
        ("E101", f"the file is longer than {MAX_CHARACTERS:,} characters")
    ]
    assert said("(" * (MAX_TOKENS + 1)) == many
    assert said("def a = ! " * (MAX_TOKENS // 4 + 1)) == many


def test_many_mistakes_in_one_line_and_in_many() -> None:
    for text in ("def a = ! " * 9_000, "def a = !\n" * 9_000):
        found = said(text)
        assert len(found) == MAX_MISTAKES + 1
        assert found[-1][1].startswith(f"more than {MAX_MISTAKES} mistakes")


@pytest.mark.parametrize(
    ("value", "code"),
    [
        ("1" * 900_000, "E103"),
        ("1e" + "9" * 900_000, "E103"),
        ("1e-" + "9" * 900_000, "E103"),
        ("0." + "0" * 900_000 + "1", "E103"),
        ("1_" * 400_000, "E102"),
        ("a" * 900_000, "E103"),
        ('"' + "x" * 900_000, "E102"),
        ('"' + "\\q" * 100_000 + '"', "E102"),
        ("é" * 900_000, "E102"),
        ("a." * 19_000, "E102"),
    ],
)
def test_long_words(value: str, code: str) -> None:
    found = said(f"param x = {value}")
    assert {c for c, _ in found} == {code}
    assert all(len(message) < 200 for _, message in found)
