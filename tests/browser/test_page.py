"""The report's page in a browser: folding, search, keys, colours, and views that belong together.

Every test fails if the page logs a message or asks for anything but itself.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("selenium")

from selenium.webdriver.common.keys import Keys

from modnorm.pipeline import analyse, analyse_text
from modnorm.report.formats import extras
from modnorm.report.html import frame, page
from tests.pure.report_models import ODD, RESCNN, TIED
from tests.report_files import GPT, write_run

QUERY = ".attention.q.linear"


def expanded(row: Any) -> str | None:
    found: str | None = row.get_attribute("aria-expanded")
    return found


# --- the tree --------------------------------------------------------------------------------


def test_parts_fold(gpt: Any) -> None:
    before = gpt.rows()
    assert before[:4] == ["GPT", "embed", "token", "embed"]
    gpt.row("block").find_element("css selector", ".twist").click()
    assert expanded(gpt.row("block")) == "false"
    folded = gpt.rows()
    assert "attention" not in folded
    assert len(folded) < len(before)
    gpt.row("block").find_element("css selector", ".twist").click()
    assert gpt.rows() == before
    gpt.one("#collapse").click()
    assert gpt.rows() == ["GPT", "embed", "block", "Standardize", "linear"]
    gpt.one("#expand").click()
    assert gpt.rows() == before


def test_rows_say_where_they_are(gpt: Any) -> None:
    row = gpt.row("attention")
    assert row.get_attribute("aria-level") == "3"
    block = [r for r in gpt.all("[role=treeitem]") if r.get_attribute("aria-level") == "3"]
    size = row.get_attribute("aria-setsize")
    inside = [r for r in block if r.get_attribute("aria-setsize") == size]
    places = [int(r.get_attribute("aria-posinset")) for r in inside]
    assert places == [*range(1, len(places) + 1)]
    assert len(gpt.all("[role=treeitem][tabindex='0']")) == 1
    cells = [cell.text for cell in gpt.row("linear", -1).find_elements("css selector", "span.num")]
    assert cells == ["1", "1", "0.08333"]


def test_keys_move_in_the_tree(gpt: Any) -> None:
    gpt.choose("GPT")
    gpt.keys(Keys.ARROW_DOWN)
    assert gpt.selected() == "embed"
    gpt.keys(Keys.ARROW_LEFT)
    assert expanded(gpt.row("embed")) == "false"
    gpt.keys(Keys.ARROW_RIGHT)
    assert expanded(gpt.row("embed")) == "true"
    gpt.keys(Keys.ARROW_RIGHT)
    assert gpt.selected() == "embed.token"
    gpt.keys(Keys.ARROW_LEFT, Keys.ARROW_LEFT)
    assert gpt.selected() == "embed"
    gpt.keys(Keys.ENTER)
    assert expanded(gpt.row("embed")) == "false"
    gpt.keys(Keys.ENTER)
    assert expanded(gpt.row("embed")) == "true"
    gpt.keys(Keys.END)
    assert gpt.selected() == "linear"
    gpt.keys(Keys.ARROW_DOWN)
    assert gpt.selected() == "linear"
    gpt.keys(Keys.HOME)
    assert gpt.selected() == "GPT"
    gpt.keys("b")
    assert gpt.selected() == "block"
    row = gpt.one("[role=treeitem][aria-selected=true]")
    assert gpt.js("return document.activeElement === arguments[0]", row)


def test_search(gpt: Any) -> None:
    before = gpt.rows()
    gpt.keys("/")
    assert gpt.focused("id") == "search"
    gpt.keys(*"splitheads")
    assert gpt.rows() == ["GPT", "block", "attention", *["q", "split_heads", "k", "split_heads"],
                          *["v", "split_heads"]]  # fmt: skip
    assert gpt.one("#hits").text == "3 found"
    assert {mark.text for mark in gpt.all("mark")} == {"SplitHeads"}
    gpt.keys(Keys.ENTER)
    assert gpt.selected() == "block.*.attention.q.split_heads"
    gpt.keys("/")
    gpt.keys(*"mlp.linear_1")
    assert gpt.rows() == ["GPT", "block", "mlp", "linear_1"]
    gpt.keys(Keys.ESCAPE)
    assert gpt.rows() == before
    assert gpt.one("#search").get_attribute("value") == ""
    assert gpt.js("return document.activeElement.getAttribute('role')") == "treeitem"
    gpt.keys("/", *"no such part")
    assert gpt.rows() == ["GPT"]
    assert gpt.one("#hits").text == "0 found"


def test_search_opens_what_was_folded(gpt: Any) -> None:
    gpt.one("#collapse").click()
    gpt.keys("/", *"Attention(causal")
    assert gpt.rows() == ["GPT", "block", "attention", "attention"]


# --- views that belong together ----------------------------------------------------------------


def chosen_line(tab: Any) -> str:
    (line,) = tab.all(".line.chosen code")
    return str(line.text)


def test_the_treemap_selects(gpt: Any) -> None:
    boxes = gpt.all(".tile-box")
    tiles = {box.get_attribute("aria-label").partition(",")[0]: box for box in boxes}
    assert len(tiles) == 9
    tiles[f"block.*{QUERY}"].click()
    assert gpt.selected() == f"block.*{QUERY}"
    assert "q = SplitHeads(heads) @ Linear(d_embed)" in chosen_line(gpt)
    assert len(gpt.all(".tile-box.chosen")) == 1
    area = {
        name: gpt.js(AREA, tile.find_element("css selector", "rect"))
        for name, tile in tiles.items()
    }
    assert area["linear"] == pytest.approx(2 * area["embed.token.embed"], rel=1e-3)
    assert area["block.*.mlp.linear"] == pytest.approx(area["block.*.mlp.linear_1"], rel=1e-3)


AREA = "const box = arguments[0].getBBox(); return box.width * box.height"


def test_the_treemap_by_keys(gpt: Any) -> None:
    gpt.js("document.querySelector('.tile-box[tabindex=\"0\"]').focus()")
    first = gpt.js("return document.activeElement.dataset.node")
    gpt.keys(Keys.ARROW_RIGHT)
    second = gpt.js("return document.activeElement.dataset.node")
    assert first != second
    gpt.keys(Keys.ENTER)
    assert gpt.one("[role=treeitem][aria-selected=true]").get_attribute("id") == f"n{second}"
    assert len(gpt.all(".tile-box[tabindex='0']")) == 1


def test_the_graph_selects(gpt: Any) -> None:
    box = gpt.one(".box.group")
    gpt.js("arguments[0].scrollIntoView({block: 'center'})", box)
    box.click()
    assert gpt.selected() == "block.*.Standardize"
    assert "chosen" in box.get_attribute("class")
    assert "attention @ Standardize" in chosen_line(gpt)
    gpt.js("document.querySelector('.box[tabindex=\"0\"]').focus()")
    gpt.keys(Keys.END, Keys.ENTER)
    assert gpt.selected() == "linear"


def test_the_tree_shows_a_part_everywhere(gpt: Any) -> None:
    gpt.choose("mlp")
    assert len(gpt.all(".tile-box.chosen")) == 2
    assert {box.get_attribute("class") for box in gpt.all(".box.chosen")} == {
        "box atom chosen", "box group chosen",
    }  # fmt: skip
    top = gpt.js("return document.querySelector('#graph-box').scrollTop")
    assert top > 0
    gpt.choose("GPT")
    assert gpt.all(".box.chosen, .tile-box.chosen") == []


def test_the_plot_along_depth_by_keys(gpt: Any) -> None:
    plot = gpt.one("#depth-plot .plot")
    gpt.js("arguments[0].focus()", plot)
    gpt.keys(Keys.HOME, Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    readout = gpt.one("#depth-plot .readout").text
    assert readout.startswith(f"block.*{QUERY} (copy 1 of 4): target 0.8333")
    gpt.keys(Keys.ENTER)
    assert gpt.selected() == f"block.*{QUERY}"
    gpt.keys(Keys.END)
    assert gpt.one("#depth-plot .readout").text == "linear: target 0.08333, downstream 1"
    assert "27 weights in execution order" in plot.get_attribute("aria-label")
    gpt.one("#depth summary").click()
    rows = [row.text for row in gpt.all("#depth-table tbody tr")]
    assert len(rows) == 9
    assert rows[2].startswith(f"block.*{QUERY} 4 0.8333")


def test_source_links_and_sections(gpt: Any) -> None:
    gpt.choose("mlp")
    link = gpt.one("#details a")
    assert link.text == "line 23"
    link.click()
    assert gpt.js("return document.querySelector('.line:target').id") == "L0-23"
    names = [link.text for link in gpt.all("#contents a")]
    assert names[:2] == ["Findings", "Mass"]
    assert {"Along depth", "Graph", "Source"} <= set(names)


OUTLINED = """
const at = document.activeElement;
const box = at.querySelector(":scope > rect");
return at === document.body || getComputedStyle(at).outlineStyle !== "none"
  || (at.matches(".tile-box") && document.querySelector(".ring.focus") !== null)
  || (at.matches(".box") && getComputedStyle(box).strokeDasharray !== "none")
"""


def test_everything_can_be_reached_by_tab(gpt: Any) -> None:
    gpt.js("document.body.focus()")
    reached = set()
    for _ in range(40):
        gpt.keys(Keys.TAB)
        reached.add(
            gpt.js("""const at = document.activeElement;
            return at.id || at.closest("[id]")?.id || at.className""")
        )
        assert gpt.js(OUTLINED)
    assert {"theme", "expand", "collapse", "search", "map", "depth-plot", "source-box"} <= reached
    assert any(name.startswith("n") and name[1:].isdigit() for name in reached)
    assert "graph-svg" in reached or "graph-box" in reached


# --- what is shown beside the model ------------------------------------------------------------


def test_measured_sensitivities(whole: Any) -> None:
    assert whole.one("#tree-head").text.split() == [
        "part", "mass", "declared", "certified", "measured", "target",
    ]  # fmt: skip
    cells = [cell.text for cell in whole.row("attention").find_elements("css selector", ".num")]
    assert cells[0] == "1"
    assert cells[2] == "1.625"
    gelu = whole.row("gelu").find_elements("css selector", ".num")[2]
    assert (gelu.text, gelu.get_attribute("class")) == ("1.25", "num bad")
    assert "stretches its input by 1.25" in whole.one("#check").text
    whole.choose("gelu")
    assert "violated" in whole.one("#details").text


@pytest.mark.parametrize(
    ("width", "columns"),
    [
        (390, ["part", "measured", "target"]),
        (1280, ["part", "mass", "declared", "certified", "measured", "target"]),
    ],
)
def test_a_phone_shows_targets_and_what_was_measured(
    width: int, columns: list[str], whole: Any
) -> None:
    """Beside the names, of which none is cut."""
    whole.resize(width, 900)
    shown = """return [...document.querySelectorAll("#tree-head > span")]
        .filter((cell) => cell.getClientRects().length).map((cell) => cell.textContent)"""
    wide = """return [...document.querySelectorAll("#tree .row > span")]
        .filter((cell) => cell.scrollWidth > cell.clientWidth + 1).length"""
    assert whole.js(shown) == columns
    assert whole.js(wide) == 0


def test_changes(whole: Any) -> None:
    text = whole.one("#changes").text
    assert "copies 4 → 8" in text
    assert "SplitHeads(4) → SplitHeads(8)" in text


def test_a_run_is_plotted(whole: Any) -> None:
    plots = whole.all("#run-plots .plot-box")
    measures = [plot.get_attribute("data-measure") for plot in plots]
    assert measures == ["norm", "slack", "cosine", "spent", "loss"]
    lines = [path.get_attribute("d").count("M") for path in whole.all("#run-plots .series")]
    assert lines == [0, 27, 0, 27, 0, 27, 0, 27, 0, 1]
    whole.choose("q")
    lines = [path.get_attribute("d").count("M") for path in whole.all("#run-plots .series")]
    assert lines == [23, 4, 23, 4, 23, 4, 23, 4, 0, 1]
    choice = whole.one("#run-weight")
    options = choice.find_elements("css selector", "option")
    assert len(options) == 28
    options[-1].click()
    assert whole.selected() == "linear"
    whole.js("document.querySelector('[data-measure=norm] .plot').focus()")
    whole.keys(Keys.END)
    readout = whole.one("[data-measure=norm] .readout").text
    assert readout == "step 400: 0.74 (linear.weight)"
    whole.choose("GPT")
    assert choice.get_attribute("value") == "-1"


# --- colours and sizes -------------------------------------------------------------------------

CONTRAST = """
const canvas = document.createElement("canvas");
canvas.width = canvas.height = 1;
const paint = canvas.getContext("2d", { willReadFrequently: true });
const light = (color) => {
  paint.clearRect(0, 0, 1, 1);
  paint.fillStyle = color;
  paint.fillRect(0, 0, 1, 1);
  const [r, g, b, a] = [...paint.getImageData(0, 0, 1, 1).data];
  const part = (v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  return [0.2126 * part(r) + 0.7152 * part(g) + 0.0722 * part(b), a];
};
const under = (at) => {
  for (; at; at = at.parentElement) {
    const box = at.matches("g") && at.querySelector(":scope > rect");
    const fill = box ? getComputedStyle(box).fill : getComputedStyle(at).backgroundColor;
    if (fill === "none") continue;
    const [found, opaque] = light(fill);
    if (opaque === 255) return found;
  }
  return 1;
};
const worst = [];
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (walker.nextNode()) {
  const text = walker.currentNode;
  const at = text.parentElement;
  if (!text.data.trim() || at.closest("script, style, title, desc, noscript, option")) continue;
  if (!at.getClientRects().length) continue;
  const style = getComputedStyle(at);
  const [ink] = light(at.closest("svg") ? style.fill : style.color);
  const paper = under(at);
  const ratio = (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05);
  worst.push([ratio, text.data.trim().slice(0, 30), at.className.baseVal ?? at.className]);
}
worst.sort((a, b) => a[0] - b[0]);
return [worst.length, worst.slice(0, 3)];
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read(scheme: str, whole: Any) -> None:
    whole.scheme(scheme)
    for name in ("GPT", "gelu"):
        whole.choose(name)
        count, worst = whole.js(CONTRAST)
        assert count > 300
        assert worst[0][0] >= 4.5, worst


def test_the_scheme_is_the_systems_until_it_is_chosen(gpt: Any) -> None:
    background = "return getComputedStyle(document.body).backgroundColor"
    light = gpt.js(background)
    gpt.scheme("dark")
    dark = gpt.js(background)
    assert light != dark
    assert gpt.one("#theme").get_attribute("aria-pressed") == "true"
    gpt.one("#theme").click()
    assert gpt.js(background) == light
    assert gpt.one("#theme").get_attribute("aria-pressed") == "false"
    gpt.scheme("light")
    gpt.one("#theme").click()
    assert gpt.js(background) == dark


@pytest.mark.parametrize("width", [1440, 900, 400])
def test_the_page_is_never_wider_than_its_window(width: int, whole: Any) -> None:
    whole.resize(width, 900)
    assert whole.js("return document.documentElement.scrollWidth") <= width
    assert (
        whole.js("return document.querySelector('#map svg').getBoundingClientRect().right") <= width
    )


def test_a_deep_model_is_a_small_page(tab: Any, made: Callable[..., Path]) -> None:
    path = made(96)
    assert path.stat().st_size < 2_000_000
    tab.load(path)
    assert tab.rows()[0] == "GPT"
    assert "× 96" in tab.row("block").text
    places = tab.js(
        "return document.querySelector('.points.first').getAttribute('d').split('M').length"
    )
    assert places == 579 + 1


WEIGHTLESS = "input x: float[batch, 8]\nmodel M = (ReLU, (Tanh, Abs))\n"
SINGLE = "input x: float[batch, 8]\nmodel M = Linear(8)\n"
ODD_ONES = {
    "no weights": WEIGHTLESS,
    "one weight": SINGLE,
    "several runs": ODD,
    "shared": TIED,
    "images": RESCNN,
}


@pytest.mark.parametrize("name", ODD_ONES)
def test_odd_models(name: str, tab: Any, tmp_path: Path) -> None:
    path = tmp_path / "odd.html"
    path.write_text(page(analyse_text(ODD_ONES[name], "odd.mod")), encoding="utf-8")
    tab.load(path)
    tab.one("#expand").click()
    rows = len(tab.rows())
    tab.choose(tab.rows()[0])
    tab.keys(*[Keys.ARROW_DOWN] * rows)
    last = tab.all("[role=treeitem]")[-1]
    assert last.get_attribute("aria-selected") == "true"
    atoms = len(tab.all(".row.atom"))
    assert len(tab.all("#depth-table tbody tr")) == atoms


def test_the_frame_of_a_notebook(tab: Any, tmp_path: Path) -> None:
    shown = frame(page(analyse(GPT)))
    path = tmp_path / "notebook.html"
    path.write_text(f"<!DOCTYPE html><meta charset='utf-8'><body>{shown}", encoding="utf-8")
    tab.driver.get(path.as_uri())
    tab.driver.switch_to.frame(tab.one("iframe"))
    try:
        assert tab.js("return document.documentElement.dataset.ready") == "true"
        tab.choose("mlp")
        assert tab.selected() == "block.*.mlp"
    finally:
        tab.driver.switch_to.default_content()


# --- the tests themselves ----------------------------------------------------------------------

WRONG = """<!DOCTYPE html><meta charset="utf-8"><link rel="icon" href="data:,">
<body><p style="color: #aaa; background: #fff">pale</p>
<script>console.info("a message"); fetch("http://127.0.0.1:9/").catch(() => null)</script>
"""


def test_what_these_tests_look_for_is_seen(tab: Any, tmp_path: Path) -> None:
    path = tmp_path / "wrong.html"
    path.write_text(WRONG, encoding="utf-8")
    tab.driver.get(path.as_uri())
    count, worst = tab.js(CONTRAST)
    assert count == 1
    assert worst[0][0] == pytest.approx(2.32, abs=0.01)
    assert "a message" in str(tab.driver.get_log("browser"))
    assert "http://127.0.0.1:9/" in tab.requests()


def test_the_policy_refuses_connections(gpt: Any) -> None:
    ask = "return fetch('http://127.0.0.1:9/').then(() => 'loaded', (error) => String(error))"
    assert "TypeError" in gpt.js(ask)
    assert "Content Security Policy" in str(gpt.driver.get_log("browser"))
    assert not [url for url in gpt.requests() if url.startswith("http")]


def test_counts_of_steps_are_written_in_one_way(tab: Any, tmp_path: Path) -> None:
    analysis = analyse(GPT)
    run = write_run(tmp_path / "run.jsonl", analysis.program, steps=2400)
    path = tmp_path / "long.html"
    path.write_text(page(analysis, extras("html", monitor=run)), encoding="utf-8")
    tab.load(path)
    assert "2,400 recorded steps" in tab.one("#training .beside").text
    assert tab.one("#run-about").text.startswith("1,111 of 2,400 recorded steps are shown.")


def test_a_single_step_and_labels_of_close_ticks(tab: Any, tmp_path: Path) -> None:
    analysis = analyse(GPT)
    run = write_run(tmp_path / "run.jsonl", analysis.program, steps=1)
    path = tmp_path / "one.html"
    path.write_text(page(analysis, extras("html", monitor=run)), encoding="utf-8")
    tab.load(path)
    boxes = tab.js("""return [...document.querySelectorAll("[data-measure=norm] .series")].map(
        (line) => line.getBBox().width)""")
    assert max(boxes) >= 6
    write_run(tmp_path / "run.jsonl", analysis.program)
    rows = [json.loads(line) for line in run.read_text(encoding="utf-8").splitlines()]
    for row in rows[1:]:
        row["slack"] = [1 + row["step"] / 4e4 for _ in row["norm"]]
    run.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    path.write_text(page(analysis, extras("html", monitor=run)), encoding="utf-8")
    tab.load(path)
    labels = tab.js("""return [...document.querySelectorAll(
        "[data-measure=slack] .axis[text-anchor=end]")].map((label) => label.textContent)""")
    assert len(labels) > 3
    assert len(set(labels)) == len(labels)


def test_a_long_name_of_a_model_is_wrapped(tab: Any, tmp_path: Path) -> None:
    text = f"input x: float[batch, 8]\nmodel {'Long' * 24} = Linear(4)\n"
    path = tmp_path / "long.html"
    path.write_text(page(analyse_text(text)), encoding="utf-8")
    for width in (1440, 400):
        tab.resize(width, 900)
        tab.load(path)
        assert tab.js("return document.documentElement.scrollWidth - innerWidth") <= 0
        assert tab.js("""const [title, links] = ["h1", ".top nav"].map(
            (name) => document.querySelector(name).getBoundingClientRect());
            return title.right <= links.left || title.bottom <= links.top""")
