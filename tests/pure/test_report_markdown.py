"""The Markdown report: tables that a Markdown parser reads back, whatever the names are."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from report_models import GPT, MLP, ODD, RESMLP, TIED, analysed, as_text

from modnorm.pipeline import Analysis
from modnorm.report import as_json, document, formats
from modnorm.report.blocks import Cell, Table
from modnorm.report.diagnostics import clean
from modnorm.report.markdown import table

PARSER = MarkdownIt("commonmark").enable("table")


def render(analysis: Analysis) -> str:
    return formats.render(analysis, "markdown")


def tables(text: str) -> list[list[list[str]]]:
    """The tables of a Markdown text: rows of cells, as plain text."""
    found: list[list[list[str]]] = []
    inside = False
    for token in PARSER.parse(text):
        if token.type in ("table_open", "table_close"):
            inside = token.type == "table_open"
            found += [[]] if inside else []
        elif token.type == "tr_open":
            found[-1].append([])
        elif token.type == "inline" and inside:
            inner = token.children or []
            found[-1][-1].append("".join(t.content for t in inner))
    return found


@pytest.mark.parametrize("program", [GPT, MLP, ODD, TIED, RESMLP])
def test_tables_have_whole_rows(program: str) -> None:
    text = render(analysed(program))
    assert text.startswith("# ")
    assert text.endswith("\n")
    assert not text.endswith("\n\n")
    found = tables(text)
    assert len(found) >= 3
    for rows in found:
        assert len({len(row) for row in rows}) == 1


def test_weights_are_those_of_the_json_report() -> None:
    analysis = analysed(GPT)
    found = as_json.report(analysis)
    (weights,) = [rows for rows in tables(render(analysis)) if rows[0][0] == "weight"][:1]
    assert weights[0][:5] == ["weight", "copies", "shape", "mass", "target"]
    targets = {row[0].split()[0]: row[4] for row in weights[1:]}
    copies = {row[0].split()[0]: int(row[1]) for row in weights[1:]}
    assert sum(copies.values()) == len(found["atoms"])
    for atom in found["atoms"]:
        path = re.sub(r"block\.\d+", "block.*", atom["path"])
        assert float(targets[path]) == pytest.approx(atom["target"], rel=1e-3)


def test_the_tree_is_indented() -> None:
    (parts,) = [rows for rows in tables(render(analysed(GPT))) if rows[0][0] == "part"]
    names = [row[0] for row in parts[1:]]
    assert names[0] == "GPT"
    block = names.index("\u2003body.block × 4")
    attention = names.index("\u2003" * 2 + "residual.attention", block)
    assert attention > block
    shares = [row[1] for row in parts[1:]]
    assert shares[0] == "100.0%"


def test_a_column_more_is_a_line_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one of CONTRIBUTING.md, in each format."""
    page = (Path(__file__).parents[2] / "CONTRIBUTING.md").read_text(encoding="utf-8")
    (line,) = re.findall(r"^Column\(.*\)$", page, re.MULTILINE)
    column = eval(line, {"Column": document.Column})
    monkeypatch.setattr(document, "PARTS", (*document.PARTS, column))
    (parts,) = [rows for rows in tables(render(analysed(GPT))) if rows[0][0] == "part"]
    assert {row[0].strip(): row[-1] for row in parts}["body.block × 4"] == "4"
    shown = as_text(analysed(GPT)).splitlines()
    (head,) = [line for line in shown if line.startswith("part ")]
    assert head.split()[-2:] == ["target", "copies"]
    below = shown[shown.index(head) + 1 :][: len(parts) - 1]
    assert {line.split()[-1] for line in below} == {"1", "4"}


def test_findings_have_their_place() -> None:
    program = "input x: float[batch, 8]\nmodel M = Linear(8) @ Linear(8, mass = 0)\n"
    text = render(analysed(program, "a_b.mod"))
    assert "**warning W602** a\\_b.mod:2: `Linear` has mass 0: its weight is frozen" in text


@given(st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=30))
def test_escaped_text_is_shown_as_it_is(text: str) -> None:
    rows = tables(table(Table(("a", "b"), [(text, Cell(text.strip(), kind="code"))])))[0]
    wanted = re.sub(r"\s+", " ", clean(text)).strip()
    assert re.sub(r"\s+", " ", rows[1][0]).strip() == wanted


@pytest.mark.parametrize("text", ["`", "a`b", "``a", "a|b", "a\\|b", "*x*", "<b>", "$x$"])
def test_code_keeps_every_sign(text: str) -> None:
    (rows,) = tables(table(Table(("a",), [(Cell(text, kind="code"),)])))
    assert rows[1] == [text]


def test_a_comparison() -> None:
    one, other = analysed(GPT), analysed(GPT, heads=8, d_embed=64)
    text = formats.render(one, "markdown", formats.Extras(against=other))
    facts, weights, parts = tables(text)
    assert ["d_embed", "128", "64"] in facts
    assert ["changed", "linear", "shape 65 × 128 → 65 × 64"] in weights
    assert any("SplitHeads(4) → SplitHeads(8)" in row[2] for row in parts)
    same = formats.render(one, "markdown", formats.Extras(against=one))
    assert same.count("No difference.") == 2
