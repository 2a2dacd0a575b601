"""Findings of sweeps as text for terminals and as Markdown."""

from __future__ import annotations

import math
import re
from dataclasses import replace

import pytest

from modnorm.sweep import tables
from modnorm.sweep.analysis import found
from modnorm.sweep.findings import Findings
from modnorm.sweep.interface import rendered
from tests.sweeps import WIDTHS, drifting, grid, sweep


def as_text(findings: Findings, width: int, color: bool = False) -> str:
    return rendered(findings, "text", (width, color))


def as_markdown(findings: Findings) -> str:
    return rendered(findings, "markdown", (80, False))


def lines(shown: str) -> list[list[str]]:
    return [line.split() for line in shown.splitlines()]


def test_the_text_has_the_numbers() -> None:
    shown = as_text(found(grid()), 120)
    assert "runs      792, " in shown
    assert "     32       2  -2.00 ± 0.02   0.25  2.000 ± 0.000" in shown
    heads = ["d_embed", "blocks", "log2", "lr", "lr", "train", "held", "out"]
    assert [*heads, "same", "lr", "same", "lr", "diverged"] in lines(shown)
    rows = lines(shown)
    assert ["normed_adam", "d_embed", "+0.03", "±", "0.00", "transfers"] in rows
    assert ["normed_adam", "blocks", "-0.02", "±", "0.00", "transfers"] in rows
    assert ["adam", "blocks", "-0.20", "±", "0.00", "drifts"] in rows


def test_zero_has_no_sign() -> None:
    assert [tables.signed(x) for x in (-0.001, 0.001, 0.0, -0.01)] == ["0.00"] * 3 + ["-0.01"]
    assert [tables.percent(x) for x in (-0.0001, 0.02, 1.5)] == ["0.0%", "+2.0%", "+150%"]


def test_the_loss_at_the_smallests_learning_rate_is_shown() -> None:
    made = sweep({"adam": drifting(-2, -0.5, 0)}, {"d_embed": (32, 128)}, seeds=(0, 1))
    (row,) = [row for row in lines(as_text(found(made), 120)) if row[:1] == ["128"]]
    assert "+2.0%" in row  # 2 + 0.04·1² beside 2
    assert "2.040" in row


@pytest.mark.parametrize("width", [40, 60, 80, 100, 160])
def test_it_fits_in(width: int) -> None:
    three = sweep(
        {"dualized_sgd:momentum=0.9:steps=5": drifting(-9, -0.2, 0), "adam": drifting(-2, 0, 0)},
        {"d_embed": WIDTHS, "blocks": (2, 4), "mass": (0.5, 1)},
        seeds=(0, 1),
    )
    for findings in (found(grid()), found(three)):
        for color in (False, True):
            assert as_text(findings, width, color)
        assert max(map(len, as_text(findings, width).splitlines())) <= width


def test_at_80_columns_no_number_is_cut() -> None:
    shown = as_text(found(grid()), 80)
    assert "…" not in shown
    assert shown.count("±") == 3 * 24 + 4


def test_colour_marks_verdicts() -> None:
    shown = as_text(found(grid()), 100, True)
    assert "\x1b[1;31mdrifts" in shown
    assert "\x1b[32mtransfers" in shown
    assert "\x1b" not in as_text(found(grid()), 100)


def test_edges_missing_runs_and_divergence_are_said() -> None:
    made = sweep({"adam": drifting(-12, 0, 0)}, {"d_embed": (32, 64)}, diverges=9, missing=3)
    for shown in (as_text(found(made), 200), as_markdown(found(made))):
        plain = shown.replace("\\", "")
        assert "3 runs are missing" in plain
        assert "add 2^-11..2^-8 to --lr" in plain
        assert "< -8.00" in plain
        assert "fewer than two sizes have an optimum" in plain
        assert "5/11" in plain


def test_only_the_loss_that_decides_is_bounded_at_an_edge() -> None:
    made = sweep({"adam": drifting(-2, 9, 0)}, {"d_embed": (32, 64)})
    (row,) = [line for line in as_text(found(made), 200).splitlines() if "> " in line]
    train, held_out = re.findall(r"\S+%", row)
    assert train.startswith("≥+")
    assert not held_out.startswith("≥")


def test_masses_are_recommended() -> None:
    made = sweep(
        {"normed_adam": lambda sizes, seed: -2 + 0.01 * seed},
        {"d_embed": (32, 64), "mass": (0.5, 1, 2)},
        seeds=(0, 1),
        low=lambda sizes: 2 + 0.1 * math.log2(sizes["mass"]) ** 2,
    )
    shown = as_text(found(made), 100)
    assert "What mass to use" in shown
    assert ["normed_adam", "64", "1", "2.000", "±", "0.000", "–", "as", "good", "here"] in lines(
        shown
    )
    assert "## What `mass` to use" in as_markdown(found(made))


def test_what_to_use_is_said() -> None:
    """One rate where it transfers; where it drifts that of the largest size: -4 - 3·0.6 - 2·0.2."""
    shown = [re.split(r"  +", line) for line in as_text(found(grid()), 120).splitlines()]
    used = {row[0]: row[1:] for row in shown if row[1:] and row[1].startswith("lr = ")}
    assert used == {
        "normed_adam": ["lr = 0.25", "at every size"],
        "adam": ["lr = 0.014", "at d_embed = 256, blocks = 8: it drifts"],
    }


def test_nothing_is_nothing() -> None:
    empty = found(replace(grid(), runs=(), missing=5))
    assert "5 runs are missing" in as_text(empty, 80)
    assert "5 runs are missing" in as_markdown(empty)


def test_hostile_names_stay_text() -> None:
    made = sweep(
        {"a|b\n`c`": drifting(-2, 0, 0)}, {"d_embed": (32, 64)}, model="x\x1b[31m", source="|*a*|"
    )
    assert "\x1b" not in as_text(found(made), 80)
    shown = as_markdown(found(made))
    assert "\x1b" not in shown
    assert "\\|\\*a\\*\\|" in shown


def test_markdown_is_made_of_whole_tables() -> None:
    shown = as_markdown(found(grid()))
    assert "| normed\\_adam | d\\_embed | +0.03 ± 0.00 | transfers |" in shown
    assert "**drifts**" in shown
    blocks = [block for block in shown.split("\n\n") if block.startswith("|")]
    assert len(blocks) == 5
    for block in blocks:
        widths = {line.replace("\\|", "").count("|") for line in block.splitlines()}
        assert len(widths) == 1
