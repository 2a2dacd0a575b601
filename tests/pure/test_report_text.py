"""The text report: as it looks, within 80 columns, with and without colour, in ASCII too."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from report_models import GPT, MLP, ODD, RESCNN, TIED, analysed, check_golden
from report_models import as_text as render

from modnorm.report.document import rows
from modnorm.report.words import encodable

PROGRAMS = {"gpt": GPT, "odd": ODD, "tied": TIED, "mlp": MLP, "rescnn": RESCNN}
ANSI = re.compile(r"\x1b\[[0-9;]*m")


@pytest.mark.parametrize("name", PROGRAMS)
def test_golden(name: str) -> None:
    without_warnings = replace(analysed(PROGRAMS[name], f"{name}.mod"), diagnostics=())
    check_golden(f"report_{name}.txt", render(without_warnings))


def test_golden_with_warnings() -> None:
    frozen = "input x: float[b, 8]\nmodel M = Linear(8, mass = 0) >> ReLU >> Linear(8)\n"
    check_golden("report_warned.txt", render(analysed(frozen, "frozen.mod")))


@pytest.mark.parametrize("width", [80, 100])
@pytest.mark.parametrize("name", PROGRAMS)
def test_no_line_is_wider_than_asked(name: str, width: int) -> None:
    text = render(analysed(PROGRAMS[name]), width=width)
    assert max(map(len, text.splitlines())) <= width
    assert all(line == line.rstrip() for line in text.splitlines())


def test_long_names_are_cut_and_numbers_are_not() -> None:
    long = "a" * 100
    program = f"input x: float[b, 8]\ndef {long} = Linear(8) >> Linear(8)\n"
    program += f"model M = (ReLU >> {long}) ** 3 >> ReLU\n"
    plain = program.replace(long, "short")
    cut, whole = (render(analysed(p)).splitlines() for p in (program, plain))
    assert max(map(len, cut)) <= 80
    assert any("aaa…" in line for line in cut)
    for one, other in zip(cut, whole, strict=True):
        assert one.split("  ")[-1] == other.split("  ")[-1]


@pytest.mark.parametrize("name", PROGRAMS)
def test_colour_changes_nothing_but_colour(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    analysis = analysed(PROGRAMS[name])
    plain, colored = render(analysis), render(analysis, color=True)
    assert "\x1b" not in plain
    assert ANSI.search(colored)
    bare = "\n".join(line.rstrip() for line in ANSI.sub("", colored).split("\n"))
    assert bare == plain


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", None, "no-such-encoding"])
def test_without_unicode(encoding: str | None) -> None:
    text = encodable(render(analysed(GPT, "gpt.mod")), encoding)
    assert text.isascii()
    assert "?" not in text
    assert "`- linear                 ##" in text
    assert "block x 4" in text
    assert encodable(text, encoding) == text


def test_unicode_is_kept_where_it_can_be_shown() -> None:
    text = render(analysed(GPT))
    assert encodable(text, "utf-8") == text


def test_shares_of_the_parts_add_up() -> None:
    for program in PROGRAMS.values():
        for row in rows(analysed(program).program):
            if row.inner:
                inner = sum(r.part.mass for r in row.inner)
                assert inner == pytest.approx(row.part.mass, rel=1e-12)


def test_targets_along_copies() -> None:
    """The first and the last copy's, where the repeated part has not sensitivity 1."""
    program = "input x: float[b, 8]\nmodel M = (1/2 * Linear(8)) ** 4\n"
    (row,) = [row for row in rows(analysed(program).program) if row.part.targets]
    # share 1/4, and three, …, no more factors of 1/2 behind the one of its own
    assert row.part.targets == pytest.approx((0.25 / 0.5**4, 0.25 / 0.5))
    assert "4 … 0.5" in render(analysed(program))


def test_repeated_parts_are_one_row() -> None:
    few, many = (list(rows(analysed(GPT, blocks=n).program)) for n in (3, 300))
    assert len(few) == len(many)
    titles = [row.title for row in many]
    assert "body.block × 300" in titles


def test_a_run_of_a_shared_module_has_its_mass() -> None:
    program = "input x: float[b, 8]\nshared s = Linear(8) >> Tanh\nmodel M = s ** 4 >> Linear(8)\n"
    shares = {row.title: row.part.share for row in rows(analysed(program).program)}
    assert shares["0…3 × 4"] == shares["s.linear"] == shares["linear"] == 0.5


def test_frozen_weights_and_no_weights() -> None:
    frozen = "input x: float[b, 8]\nmodel M = Linear(8, mass = 0) >> Linear(8)\n"
    assert "0 (frozen)" in render(analysed(frozen))
    without = render(analysed("input x: float[b, 8]\nmodel M = Softmax(2)\n"))
    assert "0 weights, 0 parameters" in without
    assert without.splitlines()[-1].split() == ["M", "0.0%", "2", "1"]  # RMS to RMS: half


def test_a_small_share_is_not_shown_as_none() -> None:
    text = render(analysed("input x: float[b, 8]\nmodel M = Linear(8, mass = 1e-9) >> Linear(8)\n"))
    (line,) = [line for line in text.splitlines() if "─ linear " in line]
    assert "▏" in line
    assert "< 0.1%" in line


def test_deep_trees_stay_within_the_page() -> None:
    program = "input x: float[batch, 8]\ndef d0 = Linear(8) >> Linear(8)\n"
    for i in range(1, 40):
        program += f"def d{i} = d{i - 1} >> Linear(8)\n"
    text = render(analysed(program + "model M = d39 >> Linear(8)\n"))
    assert max(map(len, text.splitlines())) <= 80
    for i in range(40):
        assert re.search(rf"^.* d{i} ", text, re.MULTILINE), "no name is pushed off the page"


def test_names_cannot_draw_on_the_terminal() -> None:
    program = 'param a = "\\n\x1b[31m"\ninput x: float[b, 8]\nmodel M = Linear(8)\n'
    assert "\x1b" not in render(analysed(program, "evil\x1b[2J.mod"))
