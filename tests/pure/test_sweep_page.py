"""The page of a sweep, and its pictures."""

from __future__ import annotations

import importlib.util
import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from xml.etree import ElementTree

import pytest

from modnorm.measure.problems import CheckError
from modnorm.sweep import page, plot
from modnorm.sweep.analysis import found
from modnorm.sweep.plot import lines, rows, window
from modnorm.sweep.problems import SweepError
from tests.sweeps import DEPTHS, WIDTHS, drifting, grid, outcome, sweep

VOID = {"meta"}
with_matplotlib = pytest.mark.skipif(
    importlib.util.find_spec("matplotlib") is None, reason="matplotlib is not installed"
)


class Checked(HTMLParser):
    """Whether every element is closed; the ids, and what would be fetched."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.fetched: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            if name in ("src", "href", "data"):
                self.fetched.append(value or "")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_whole_and_by_itself() -> None:
    shown = page.render(found(grid(missing=2)))
    checked = Checked(shown)
    assert not checked.open
    assert not checked.fetched
    assert len(set(checked.ids)) == len(checked.ids)
    assert "<script" not in shown
    assert "url(" not in shown.replace("url(#", "")
    assert "2 runs are missing" in shown
    assert '<td class="bad">drifts</td>' in shown
    assert shown.count("<tr>") >= 792 + 24


@with_matplotlib
def test_it_has_a_panel_for_each_axis_and_a_line_for_each_size() -> None:
    shown = page.render(found(grid()))
    pictures = re.findall(r"<svg.*?</svg>", shown, re.DOTALL)
    assert len(pictures) == 4
    counts = []
    for picture in pictures:
        root = ElementTree.fromstring(picture)
        assert root.get("role") == "img"
        assert "log2 of the learning rate, by" in (root.get("aria-label") or "")
        counts.append(len(re.findall(r'<g id="[\w-]+-curve-\d+-0"><title>', picture)))
        assert not re.findall(r'="[^"]*(?:nan|inf)\b', picture)
        assert all(0 < y < float(root.get("viewBox", "").split()[3]) for _, y in marks(picture))
    assert counts == [len(WIDTHS), len(DEPTHS)] * 2


def marks(picture: str) -> list[tuple[float, float]]:
    """Where the optima are in a picture, from the smallest size on."""
    group = r'<g id="[\w-]+-curve-\d+-1"><title>.*?<use [^>]*x="([\d.]+)" y="([\d.]+)"'
    return [(float(x), float(y)) for x, y in re.findall(group, picture, re.DOTALL)]


@with_matplotlib
def test_optima_are_drawn_where_they_are() -> None:
    """Equal optima are above one another; a drift moves them, by the same step a doubling."""
    findings = found(grid())
    for name, moves in (("normed_adam", 0.03), ("adam", -0.6)):
        picture = re.findall(r"<svg.*?</svg>", plot.svg(findings, name), re.DOTALL)[0]
        xs = [x for x, _ in marks(picture)]
        steps = [b - a for a, b in pairwise(xs)]
        assert max(steps) - min(steps) <= 0.2
        assert (steps[0] > 0) == (moves > 0)


@with_matplotlib
def test_pictures_in_a_page_have_the_colours_of_its_scheme() -> None:
    shown = page.render(found(grid()))
    for picture in re.findall(r"<svg.*?</svg>", shown, re.DOTALL):
        assert "var(--text)" in picture
        assert not re.findall(r": #[0-9a-f]{3,6}", picture), "fixed in both schemes"
        assert "<style" not in picture, "it would be the whole page's"


def test_hostile_text_stays_text() -> None:
    made = sweep({"<b>&\"'": drifting(-2, 0, 0)}, {"d_embed": (32, 64)}, model="</title><script>")
    shown = page.render(found(made))
    assert "<script" not in shown
    assert "<b>" not in shown
    assert not Checked(shown).open


@pytest.mark.parametrize("count", [0, 1, 7])
def test_a_sweep_that_has_just_begun_has_a_page(count: int) -> None:
    made = grid()
    findings = found(replace(made, runs=made.runs[:count], missing=1))
    assert not Checked(page.render(findings)).open


def test_all_diverged_is_shown() -> None:
    made = sweep({"adam": drifting(-2, 0, 0)}, {"d_embed": (32, 64)})
    for first in (4.2, math.inf):
        runs = tuple((trial, outcome(None, first=first)) for trial, _ in made.runs)
        assert not Checked(page.render(found(replace(made, runs=runs)))).open


# --- what is shown --------------------------------------------------------------------------


def test_the_window_keeps_optima_and_drops_divergence() -> None:
    findings = found(grid())
    low, high = window(findings.curves)
    assert low < 2 < high < 2.6
    flat = sweep({"adam": drifting(-2, 0, 0)}, {"d_embed": (32, 64)}, bend=0.0)
    low, high = window(found(flat).curves)
    assert low < 2 < high


def test_each_row_varies_one_axis_at_the_smallest_of_the_others() -> None:
    shown = rows(found(grid()))
    assert [axis for axis, _ in shown] == ["d_embed", "blocks"]
    assert [dict(c.sizes)["d_embed"] for c in shown[0][1]["adam"]] == list(WIDTHS)
    assert {dict(c.sizes)["blocks"] for c in shown[0][1]["adam"]} == {2}
    whole = found(grid())
    star = [(t, o) for t, o in whole.sweep.runs
            if dict(t.sizes)["d_embed"] == 64 or dict(t.sizes)["blocks"] == 4]  # fmt: skip
    shown = rows(found(replace(whole.sweep, runs=tuple(star))))
    assert {dict(c.sizes)["blocks"] for c in shown[0][1]["adam"]} == {4}
    assert len(lines(whole.of("adam"), "d_embed")) == len(DEPTHS)


# --- pictures -------------------------------------------------------------------------------


@with_matplotlib
@pytest.mark.parametrize("kind", ["curves", "drift"])
@pytest.mark.parametrize(("form", "start"), [("png", b"\x89PNG"), ("svg", b"<?xml"),
                                             ("pdf", b"%PDF")])  # fmt: skip
def test_pictures_are_the_same_of_the_same(kind: plot.Kind, form: str, start: bytes) -> None:
    findings = found(grid(seeds=(0, 1)))
    picture = plot.picture(findings, form, kind)
    assert picture.startswith(start)
    assert picture == plot.picture(findings, form, kind)


@with_matplotlib
@pytest.mark.parametrize("kind", ["curves", "drift"])
def test_odd_sweeps_have_pictures(kind: plot.Kind) -> None:
    made = sweep({"adam": drifting(-2, 0, 0)}, {"d_embed": (32, 64)})
    failed = tuple((trial, outcome(None, first=math.inf)) for trial, _ in made.runs)
    for odd in (
        sweep({"adam": drifting(-2, 0, 0)}, {}),
        sweep({"adam": drifting(-20, 0, 0)}, {"d_embed": (32, 64)}),
        sweep({"adam": lambda sizes, seed: -2.0}, {"mass": (1, 2)}),
        replace(made, runs=made.runs[:1]),
        replace(made, runs=failed),
    ):
        assert plot.picture(found(odd), "svg", kind).startswith(b"<?xml")


@with_matplotlib
def test_what_cannot_be_drawn_is_refused() -> None:
    findings = found(grid(seeds=(0,)))
    for form, kind in (("gif", "curves"), ("png", "lines")):
        with pytest.raises(SweepError, match="a picture is one of"):
            plot.picture(findings, form, kind)  # type: ignore[arg-type]
    with pytest.raises(SweepError, match="nothing to draw"):
        plot.picture(found(replace(grid(), runs=())))


def test_without_matplotlib_the_page_works_and_pictures_say_why(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == "matplotlib" else find(name)
    )
    findings = found(grid(seeds=(0,)))
    shown = page.render(findings)
    assert "<svg" not in shown
    assert shown.count("<code>pip install &quot;modnorm[plot]&quot;</code>") == 1
    assert not Checked(shown).open
    with pytest.raises(CheckError, match="matplotlib"):
        plot.picture(findings)
