"""How diagnostics are shown."""

from __future__ import annotations

import re
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modnorm.diagnostics import Diagnostic, Label, Source, Span
from modnorm.report.diagnostics import cells, clean, render, to_json

SOURCE = Source("gpt.mod", "param a = 3\ndef f = Linaer(a)\nmodel M = f\n")
OTHER = Source("common.mod", "def f = Identity\n")


def span(source: Source, line: int, column: int, end: int, end_line: int = 0) -> Span:
    return Span(source, line, column, end_line or line, end)


UNKNOWN = Diagnostic(
    "E201",
    "unknown name `Linaer`",
    span(SOURCE, 2, 9, 15),
    "not defined",
    hint="did you mean `Linear`?",
)


def test_one_diagnostic() -> None:
    assert render([UNKNOWN]) == (
        """\
error[E201]: unknown name `Linaer`
 --> gpt.mod:2:9
  |
2 | def f = Linaer(a)
  |         ^^^^^^ not defined
  |
  = help: did you mean `Linear`?

1 error
"""
    )


def test_nothing_to_show() -> None:
    assert render([]) == ""


def test_second_places_in_the_same_and_in_another_file() -> None:
    diagnostic = Diagnostic(
        "E202",
        "`f` is defined twice",
        span(SOURCE, 3, 11, 12),
        "here",
        (
            Label(span(OTHER, 1, 5, 6), "imported from here"),
            Label(span(SOURCE, 1, 7, 8), "first"),
            Label(span(SOURCE, 2, 5, 6), "second"),
            Label(span(SOURCE, 3, 7, 8), "same line"),
        ),
    )
    assert render([diagnostic]) == (
        """\
error[E202]: `f` is defined twice
 --> gpt.mod:3:11
  |
1 | param a = 3
  |       - first
2 | def f = Linaer(a)
  |     - second
3 | model M = f
  |           ^ here
  |       - same line
 ::: common.mod:1:5
  |
1 | def f = Identity
  |     - imported from here

1 error
"""
    )


def test_lines_left_out_are_marked() -> None:
    diagnostic = Diagnostic(
        "E202",
        "twice",
        span(SOURCE, 3, 7, 8),
        "",
        (Label(span(SOURCE, 1, 7, 8), "first"),),
    )
    assert "  |       - first\n...\n3 | model M = f\n" in render([diagnostic])


def test_order_and_count() -> None:
    late = Diagnostic("W601", "unused", span(SOURCE, 3, 7, 8))
    early = Diagnostic("E102", "syntax", span(SOURCE, 1, 9, 10))
    same_line = Diagnostic("E102", "more syntax", span(SOURCE, 1, 2, 3))
    elsewhere = Diagnostic("E102", "other file", span(OTHER, 1, 1, 4))
    nowhere = Diagnostic("E206", "no model")
    text = render([late, elsewhere, early, same_line, nowhere])
    heads = re.findall(r"^(?:error|warning)\[\w+\]: (.*)", text, re.MULTILINE)
    assert heads == ["no model", "more syntax", "syntax", "unused", "other file"]
    assert text.endswith("\n\n4 errors, 1 warning\n")
    assert render([late]).endswith("\n\n1 warning\n")


def test_without_a_place() -> None:
    text = render([Diagnostic("E206", "no model", hint="write `model NAME = …`")])
    assert text == "error[E206]: no model\n  = help: write `model NAME = …`\n\n1 error\n"


def test_a_span_over_several_lines_shows_the_first() -> None:
    text = render([Diagnostic("E302", "wrong", span(SOURCE, 2, 9, 4, end_line=3), "this")])
    assert "2 | def f = Linaer(a)\n  |         ^^^^^^^^^ this\n" in text
    assert "model" not in text


def test_a_place_behind_the_end_of_a_line() -> None:
    text = render([Diagnostic("E102", "end", span(SOURCE, 1, 12, 12), "here")])
    assert "1 | param a = 3\n  |            ^ here\n" in text


def test_a_place_that_does_not_exist() -> None:
    text = render([Diagnostic("E102", "gone", span(SOURCE, 40, 80, 90), "here")])
    assert text == "error[E102]: gone\n  --> gpt.mod:40:80\n\n1 error\n"


def test_colour_changes_nothing_else() -> None:
    warning = Diagnostic("W601", "unused", span(SOURCE, 3, 7, 8), "this")
    coloured = render([UNKNOWN, warning], color=True)
    assert "\x1b[1;31merror[E201]\x1b[0m" in coloured
    assert "\x1b[1;33mwarning[W601]\x1b[0m" in coloured
    assert re.sub(r"\x1b\[[\d;]*m", "", coloured) == render([UNKNOWN, warning])


def test_the_gutter_is_as_wide_as_the_longest_number() -> None:
    source = Source("a.mod", "\n" * 99 + "param x = 3")
    text = render([Diagnostic("E102", "wrong", span(source, 100, 7, 8))])
    assert "   --> a.mod:100:7\n    |\n100 | param x = 3\n    |       ^\n" in text


# --- widths -----------------------------------------------------------------------------------


def marked(text: str, column: int, end: int, width: int = 100) -> str:
    """What stands above the carets."""
    source = Source("a.mod", text)
    rendered = render([Diagnostic("E102", "x", span(source, 1, column, end))], width=width)
    line, carets = rendered.split("\n")[3:5]
    left, right = carets.index("^"), carets.rindex("^") + 1
    out, place = "", 0
    for character in line:
        if left <= place < right:
            out += character
        place += cells(character)
    return out


@pytest.mark.parametrize(
    ("text", "column", "end", "shown"),
    [
        ("a\tb", 3, 4, "b"),
        ("\t\tb", 3, 4, "b"),
        ("abcd\tb", 5, 6, "    "),
        ("模型 b", 4, 5, "b"),
        ("模型 b", 2, 3, "型"),
        ("e\u0301 b", 4, 5, "b"),
        ("\x1b[31m b", 7, 8, "b"),
        ("\x1b b", 1, 2, "␛"),
        ("\u202eab", 2, 3, "a"),
        ("\u202eab", 1, 2, "\\u{202e}"),
        ("\udc80ab", 2, 3, "a"),
        ("\x7f\x80ab", 3, 4, "a"),
        ("🙂 b", 3, 4, "b"),
    ],
)
def test_carets_stand_below_their_text(text: str, column: int, end: int, shown: str) -> None:
    assert marked(text, column, end) == shown


@pytest.mark.parametrize("place", [0, 1, 39, 40, 99, 100, 150, 500, 998, 999])
@pytest.mark.parametrize("filling", ["ab ", "模", "\t", "é"])
def test_long_lines_are_cut_around_the_place(place: int, filling: str) -> None:
    text = (filling * 1000)[:place] + "^" + (filling * 1000)[:1000]
    source = Source("a.mod", text.replace("^", "X"))
    rendered = render([Diagnostic("E102", "x", span(source, 1, place + 1, place + 2))], width=60)
    line, carets = rendered.split("\n")[3:5]
    assert cells(line) <= 60
    assert cells(line[: line.index("X")]) == carets.index("^")
    assert ("…" in line[:6]) == (place > 30)


def test_marks_far_apart_in_a_long_line() -> None:
    source = Source("a.mod", "(" + "x" * 500 + "]")
    diagnostic = Diagnostic(
        "E102",
        "brackets",
        span(source, 1, 502, 503),
        "wrong",
        (Label(span(source, 1, 1, 2), "opened here"),),
    )
    lines = render([diagnostic], width=60).split("\n")
    assert lines[3].endswith("x]")
    assert lines[4].endswith("^ wrong")
    assert lines[5].startswith("1 | (xxx")
    assert lines[6] == "  | - opened here"


def test_a_span_longer_than_the_line() -> None:
    source = Source("a.mod", "x" * 500)
    rendered = render([Diagnostic("E102", "x", span(source, 1, 1, 501), "long")], width=60)
    line, carets = rendered.split("\n")[3:5]
    assert cells(line) <= 60
    assert carets.count("^") == len(line) - 4


def test_messages_cannot_move_the_cursor() -> None:
    source = Source("\x1b[2Ja.mod", "x")
    text = render(
        [Diagnostic("E102", "\x1b[2J\r\n\u202e", span(source, 1, 1, 2), "\x07", hint="\x9b")]
    )
    assert all(c == "\n" or c.isprintable() for c in text)
    assert clean("plain `x`\ttab") == "plain `x` tab"


@settings(derandomize=True, max_examples=200, deadline=None)
@given(st.text(max_size=200), st.data())
def test_any_text_is_shown(text: str, data: st.DataObject) -> None:
    source = Source("a.mod", text)
    number = st.integers(1, 210)
    places = [
        span(source, data.draw(st.integers(1, 5)), data.draw(number), data.draw(number))
        for _ in range(3)
    ]
    diagnostic = Diagnostic("E102", text, places[0], text, (Label(places[1], text),), text)
    rendered = render([diagnostic, Diagnostic("W601", "x", places[2])], width=50)
    assert rendered.endswith("1 error, 1 warning\n")
    assert not [c for c in rendered if c != "\n" and unicodedata.category(c) in ("Cc", "Cf", "Cs")]


# --- JSON -------------------------------------------------------------------------------------


def test_json() -> None:
    assert to_json(UNKNOWN) == {
        "code": "E201",
        "severity": "error",
        "message": "unknown name `Linaer`",
        "line": 2,
        "column": 9,
        "hint": "did you mean `Linear`?",
        "file": "gpt.mod",
    }
    assert to_json(Diagnostic("W605", "renamed")) == {
        "code": "W605",
        "severity": "warning",
        "message": "renamed",
        "line": None,
        "column": None,
    }
