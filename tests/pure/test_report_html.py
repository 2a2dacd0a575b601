"""The HTML report: well formed, alone, compact, and true to the JSON report."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from html.parser import HTMLParser
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from report_models import GPT, MLP, ODD, RESCNN, RESMLP, TIED, analysed

import modnorm
from modnorm.cli import cli
from modnorm.pipeline import Analysis, analyse
from modnorm.report import as_json
from modnorm.report.extras import Extras
from modnorm.report.formats import extras
from modnorm.report.html import data as page_data
from modnorm.report.html import frame, page
from modnorm.report.html.data import Finder
from modnorm.report.html.graph import GAP_X, layered
from modnorm.report.model import described
from modnorm.report.unusable import Unusable
from tests.report_files import CHECK, write_check, write_run
from tests.report_files import GPT as GPT_FILE

VOID = {"meta", "input", "br", "hr", "img", "link"}
ODD_NAMES = """\
param label = "</script><img src=x onerror=alert(1)>"
input x: float[batch, 8]
# <b>&amp; <!-- not the end of the script </script>
model M = Linear(8) if label == "" else 2 * Linear(8)
"""
FROZEN = """\
input x: float[batch, 8]
model M = Linear(8)
  @ Linear(8, mass = 0)
"""
PROGRAMS = {
    "gpt": GPT, "mlp": MLP, "odd": ODD, "resmlp": RESMLP, "rescnn": RESCNN, "tied": TIED,
    "names": ODD_NAMES,
}  # fmt: skip


class Reader(HTMLParser):
    """A page's elements, with a complaint about every tag that is not closed in its turn."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self.feed(text)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len({name for name, _ in attrs}) == len(attrs), (tag, attrs)
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open[-1:] == [tag], (tag, self.open)
        self.open.pop()

    def handle_data(self, data: str) -> None:
        if self.open:
            self.texts.setdefault(self.open[-1], []).append(data)


def payload(text: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    assert found
    result: dict[str, Any] = json.loads(found[1])
    return result


@pytest.fixture(scope="module")
def gpt() -> Analysis:
    return analyse(GPT_FILE)


# --- the page itself -------------------------------------------------------------------------


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_page_is_well_formed_and_alone(name: str) -> None:
    reader = Reader(page(analysed(PROGRAMS[name])))
    ids = [attrs["id"] for _, attrs in reader.elements if "id" in attrs]
    assert len(set(ids)) == len(ids)
    assert reader.elements[0][0] == "html"
    for tag, attrs in reader.elements:
        assert tag not in ("img", "link", "iframe", "object", "embed", "base")
        assert not {"src", "style", "srcset", "action"} & set(attrs)
        assert not [key for key in attrs if key.startswith("on")]
        if "href" in attrs:
            assert (attrs["href"] or "").startswith("#")
            assert (attrs["href"] or "")[1:] in ids
        for key in ("aria-labelledby", "aria-controls", "for"):
            assert attrs.get(key) is None or attrs[key] in ids


def test_what_is_to_be_done_comes_first(gpt: Analysis) -> None:
    """Findings lead the panels, each with its line; a missing bound is no alarm."""
    text = page(gpt)
    titles = re.findall(r'<section class="panel" id="(\w+)"', text)
    assert titles[0] == "findings"
    (found,) = re.findall(r'id="findings".*?</section>', text, re.DOTALL)
    assert found.count("<li>") == len(gpt.diagnostics) > 0
    for one in gpt.diagnostics:
        assert one.span is not None
        assert f'href="#L0-{one.span.line}"' in found
        assert f": {one.severity} {one.code}: " in found
    (tile,) = re.findall(r'<div class="tile open">(.*?)</div>', text)
    assert "not certified" in tile
    assert "its input can be 0" in tile
    assert 'id="findings"' not in page(analysed("input x: float[batch, 8]\nmodel M = Linear(8)"))


@pytest.mark.parametrize("name", ["gpt", "rescnn", "tied", "odd"])
def test_parts_say_what_they_give_and_how_many_parameters_they_have(name: str) -> None:
    program = analysed(PROGRAMS[name]).program
    found = described(program)
    nodes = payload(page(analysed(PROGRAMS[name])))["nodes"]
    assert nodes[0].get("parameters", 0) == program.entries
    for part, node in zip(found.parts, nodes, strict=True):
        assert node["output"] == str(program.types[part.module.id][1])
    atoms = [part for part in found.parts if part.weight]
    assert sum(part.parameters for part in atoms) == program.entries


def test_the_words_of_the_page_are_explained(gpt: Analysis) -> None:
    (terms,) = re.findall(r'<details class="panel" id="terms">.*?</details>', page(gpt), re.DOTALL)
    for word in ("mass", "target", "sensitivity", "norm", "κ", "sharpness", "parameter"):
        assert re.search(rf"<dt>[^<]*{word}", terms)


def test_the_policy_allows_only_the_page_itself(gpt: Analysis) -> None:
    reader = Reader(page(gpt))
    (policy,) = (
        attrs["content"] or ""
        for tag, attrs in reader.elements
        if attrs.get("http-equiv") == "Content-Security-Policy"
    )
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    for kind, tag in (("script-src", "script"), ("style-src", "style")):
        text = reader.texts[tag][-1]
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert rules[kind] == f"'sha256-{digest}'"
    assert set(rules) == {"default-src", "script-src", "style-src", "base-uri", "form-action"}
    script = reader.texts["script"][-1]
    for word in ("fetch(", "XMLHttpRequest", "import(", "eval(", "innerHTML", "console."):
        assert word not in script


def test_what_the_source_says_stays_text() -> None:
    text = page(analysed(ODD_NAMES, "<b>.mod"))
    assert "<img" not in text
    assert text.count("</script>") == 2
    assert "&lt;b&gt;.mod" in text
    params = [t for t in Reader(text).texts["p"] if "onerror" in t]
    assert params == [' label = "</script><img src=x onerror=alert(1)>"']


def test_a_repetition_is_there_once() -> None:
    pages = {n: page(analyse(GPT_FILE, {"blocks": n})) for n in (4, 96, 1000)}
    few, many, most = (payload(pages[n]) for n in (4, 96, 1000))
    assert len(few["nodes"]) == len(many["nodes"]) == len(most["nodes"])
    assert len(most["depth"]["target"]) == 6003
    assert len(pages[96].encode()) < 2_000_000
    # all that grows are three numbers a weight
    assert len(pages[1000]) - len(pages[4]) < 25 * (6003 - 27)
    assert pages[96].count("Attention(") == pages[4].count("Attention(")


def test_parts_are_those_of_the_json_report(gpt: Analysis) -> None:
    found = as_json.report(gpt)
    nodes = payload(page(gpt))["nodes"]
    assert nodes[0]["name"] == "GPT"
    by_path = {node["path"]: node for node in nodes if node["kind"] == "atom"}
    assert by_path["block.{0}.mlp.linear"]["copies"] == 4
    for atom in found["atoms"]:
        node = by_path[re.sub(r"block\.\d+", "block.{0}", atom["path"])]
        assert node["shape"] == atom["shape"]
        assert node["targets"] == pytest.approx([atom["target"]] * 2, rel=1e-5)
        assert node["share"] == pytest.approx(atom["share"] * node["copies"], rel=1e-5)
    assert sum(node["share"] for node in by_path.values()) == pytest.approx(1, rel=1e-4)
    for i, node in enumerate(nodes[1:], 1):
        assert 0 <= node["parent"] < i
    depth = payload(page(gpt))["depth"]
    first = [nodes[i]["path"].rpartition(".")[2] for i in depth["node"][:3]]
    assert first == ["embed", "embed", "linear"]
    assert depth["target"] == pytest.approx([a["target"] for a in found["atoms"]], rel=1e-4)


def test_findings_stand_under_their_lines() -> None:
    text = page(analysed(FROZEN))
    lines = re.split(r'(?=<div class="line")', text)
    (frozen,) = [line for line in lines if 'id="L0-3"' in line]
    assert 'class="note warning"' in frozen
    assert "W602" in frozen
    assert "its weight is frozen" in frozen
    assert 'class="note' not in next(line for line in lines if 'id="L0-2"' in line)


def test_only_files_that_are_pointed_at_are_shown(gpt: Analysis) -> None:
    names = re.findall(r'<section class="file" aria-label="([^"]*)"', page(gpt))
    assert names == [str(GPT_FILE), "std.nn"]
    assert re.findall('class="file" aria-label="([^"]*)"', page(analysed(MLP))) == ["model.mod"]


# --- the drawing -----------------------------------------------------------------------------


@st.composite
def graphs(draw: st.DrawFn) -> tuple[list[tuple[float, float]], list[tuple[int, int]]]:
    size = st.tuples(st.floats(5, 200), st.floats(5, 80))
    sizes = draw(st.lists(size, min_size=1, max_size=14))
    edges = [
        (source, target)
        for target in range(1, len(sizes))
        for source in draw(st.sets(st.integers(0, target - 1), min_size=1, max_size=3))
    ]
    return sizes, edges


@given(graphs())
def test_boxes_do_not_touch_and_edges_go_down(
    graph: tuple[list[tuple[float, float]], list[tuple[int, int]]],
) -> None:
    sizes, edges = graph
    placed = layered(sizes, edges)
    boxes = [
        (x - w / 2, y, x + w / 2, y + h)
        for x, y, (w, h) in zip(placed.x, placed.y, sizes, strict=True)
    ]
    for left, top, right, bottom in boxes:
        assert min(left, top) >= -1e-6
        assert right <= placed.width + 1e-6
        assert bottom <= placed.height + 1e-6
    for one, other in combinations(boxes, 2):
        apart = max(one[0], other[0]) - min(one[2], other[2])
        under = max(one[1], other[1]) - min(one[3], other[3])
        assert apart >= GAP_X - 1e-6 or under > 0
    assert set(placed.edges) == set(edges)
    for (source, target), line in placed.edges.items():
        assert line[0] == (placed.x[source], placed.y[source] + sizes[source][1])
        assert line[-1] == (placed.x[target], placed.y[target])
        downwards = [y for _, y in line]
        assert downwards == sorted(downwards)


def test_the_drawing_shows_every_weight_once(gpt: Analysis) -> None:
    text = page(gpt)
    start = text.index('<svg id="graph-svg"')
    picture = text[start : text.index("</svg>", start)]
    atoms = re.findall(r'<g class="box atom" data-node="(\d+)"', picture)
    nodes = payload(text)["nodes"]
    assert sorted(map(int, atoms)) == [i for i, n in enumerate(nodes) if n["kind"] == "atom"]
    assert "block × 4" in picture
    assert ">Standardize<" in picture  # a part without weights is one box
    assert "RMSDivide" not in re.sub("<title>.*?</title>", "", picture, flags=re.DOTALL)


# --- beside the model ------------------------------------------------------------------------


def test_measured_sensitivities_and_verdicts(gpt: Analysis, tmp_path: Path) -> None:
    beside = extras("html", check=write_check(tmp_path / "check.json"))
    text = page(gpt, beside)
    found = {n.get("path"): n for n in payload(text)["nodes"] if "measured" in n}
    assert {path: (n["measured"], n["verdict"]) for path, n in found.items()} == {
        "block.{0}.attention": (1.625, "above declared"),
        "block.{0}.mlp.ScaledGELU.gelu": (1.25, "violated"),
        "linear": (0.9375, "ok"),
    }
    table = text[text.index('id="check"') :]
    assert table.index("violated") < table.index("above declared") < table.index(">ok<")
    assert "stretches its input by 1.25" in table
    assert "0.9 … 1" in table
    cells = re.findall(r"<td[^>]*>(.*?)</td>", table)
    at = cells.index("<code>linear.weight</code>")
    assert cells[at : at + 4] == ["<code>linear.weight</code>", "1", "0.1429", "0.125"]
    at = cells.index("<code>d_embed</code>")
    assert cells[at + 1 : at + 4] == ["<code>block.0.mlp</code>", "change", "0.0125"]
    assert 'id="check"' not in page(gpt)


def test_a_name_that_is_the_path_is_said_once(gpt: Analysis, tmp_path: Path) -> None:
    first = {**CHECK["modules"][0], "path": "body", "name": "body"}
    other = {**first, "path": "body.linear", "name": "Linear"}
    beside = extras("html", check=write_check(tmp_path / "a.json", modules=[first, other]))
    cells = re.findall(r"<td[^>]*>(.*?)</td>", page(gpt, beside))
    assert "<code>body</code>" in cells
    assert "<code>body.linear</code> Linear" in cells


def wrong(**changes: Any) -> str:
    return json.dumps({**CHECK, **changes})


def wrong_module(**changes: Any) -> str:
    return wrong(modules=[{**CHECK["modules"][0], **changes}])


WRONG = {
    "no such": (None, "no such file or directory"),
    "empty": ("", "no JSON at line 1, column 1"),
    "a list": ("[]", "`modnorm check --format json` writes: expected `object`, got `array`"),
    "other JSON": ('{"a": 1}', "it is not what `modnorm check --format json` writes"),
    "no modules": ('{"model": "M"}', "object missing required field `modules`"),
    "a module": (wrong(modules=[3]), r"expected `object`, got `int` at `modules\[0\]`"),
    "no path": (wrong(modules=[{}]), r"missing required field `path` at `modules\[0\]`"),
    "input": (wrong_module(input=3), r"expected `object`, got `int` at `modules\[0\]\.input`"),
    "measured": (
        wrong_module(measured=[1]),
        r"expected `float \| null`, got `array` at `modules\[0\]\.measured`",
    ),
    "a truth": (
        wrong_module(declared=True),
        r"expected `float \| null`, got `bool` at `modules\[0\]\.declared`",
    ),
    "violations": (wrong(violations=1), "expected `array`, got `int` at `violations`"),
    "weights": (wrong(weights=[1]), r"expected `object`, got `int` at `weights\[0\]`"),
    "coordinates": (wrong(coordinates=[1]), r"got `array` at `coordinates`"),
    "params": (
        wrong(coordinates={"params": [{"param": 1}]}),
        r"expected `str`, got `int` at `coordinates\.params\[0\]\.param`",
    ),
    "bytes": (b"\xff\xfe", "it is no UTF-8 text"),
    "deep": ("[" * 100_000, "nested too deeply|no JSON at"),
}


@pytest.mark.parametrize("case", WRONG)
def test_measurements_that_cannot_be_used(case: str, tmp_path: Path) -> None:
    content, message = WRONG[case]
    path, out = tmp_path / "check.json", tmp_path / "out.html"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        path.write_text(content, encoding="utf-8")
    with pytest.raises(Unusable, match=message):
        extras("html", check=path)
    done = CliRunner().invoke(cli, ["report", str(GPT_FILE), "-o", str(out), "--check", str(path)])
    assert done.exit_code == 1
    assert re.search(message, done.output)
    assert "cannot use" in done.output
    assert not out.exists()


def test_a_run_is_thinned_and_keeps_its_ends(
    gpt: Analysis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_run(tmp_path / "run.jsonl", gpt.program, steps=50)
    whole = payload(page(gpt, extras("html", monitor=path)))["run"]
    assert whole["step"] == [10 * i for i in range(1, 51)]
    assert len(whole["weights"]) == len(whole["norm"]) == len(whole["spent"]) == 27
    assert whole["slack"][0][:2] == [None, pytest.approx(1.096)]
    nodes = payload(page(gpt))["nodes"]
    assert nodes[whole["node"][2]]["path"] == "block.{0}.attention.q.linear"
    assert whole["node"][8] == whole["node"][2]
    monkeypatch.setattr(page_data, "BUDGET", 27 * 4 * 7)
    thin = payload(page(gpt, extras("html", monitor=path)))["run"]
    assert len(thin["step"]) == len(thin["loss"]) == len(thin["norm"][5]) == 7
    assert (thin["step"][0], thin["step"][-1], thin["recorded"]) == (10, 500, 50)


def test_a_run_that_cannot_be_used(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    path.write_text("{}\n", encoding="utf-8")
    done = CliRunner().invoke(
        cli, ["report", str(GPT_FILE), "--format", "html", "--monitor", str(path)]
    )
    assert done.exit_code == 1
    assert "run.jsonl" in done.output
    assert "<html" not in done.output


def test_paths_of_copies_lead_to_their_run() -> None:
    finder = Finder(described(analysed(ODD).program).parts)
    for name, path in {
        "f.0.linear.weight": "f.{0}.linear",
        "f.1.linear.weight": "f.{0}.linear",
        "f.2.linear.weight": "f.{2}.linear",
        "f.3.linear_1.weight": "f.{3}.linear_1",
        "4.linear.weight": "{0}.linear",
        "deep.{0}.blk.linear": "deep.{0}.blk.linear",
        "cell.linear.weight": "cell.linear",
    }.items():
        node = finder.weight(name)
        assert node is not None, name
        assert node.path == path
    assert finder.weight("nothing.weight") is None


# --- who asks for it -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "starts"),
    [("a.html", "<!DOCTYPE html>"), ("a.md", "# GPT"), ("a.dot", "digraph"), ("a.json", "{")],
)
def test_the_suffix_chooses_the_format(name: str, starts: str, tmp_path: Path) -> None:
    out = tmp_path / name
    done = CliRunner().invoke(cli, ["report", str(GPT_FILE), "-o", str(out)])
    assert done.exit_code == 0, done.output
    assert out.read_text(encoding="utf-8").startswith(starts)
    other = ["report", str(GPT_FILE), "-o", str(tmp_path / "a.graph"), "--format", "dot"]
    assert CliRunner().invoke(cli, other).exit_code == 0
    assert (tmp_path / "a.graph").read_text(encoding="utf-8").startswith("digraph")


@pytest.mark.parametrize("option", ["--check", "--monitor"])
@pytest.mark.parametrize("form", ["text", "json", "markdown", "dot"])
def test_other_formats_say_what_they_cannot_show(form: str, option: str) -> None:
    done = CliRunner().invoke(cli, ["report", str(GPT_FILE), "--format", form, option, "x"])
    assert done.exit_code == 2
    assert f"is shown by the format html, not by {form}" in done.output


def test_in_a_notebook_a_report_is_its_page() -> None:
    found = modnorm.report(GPT_FILE)
    shown = found._repr_html_()
    assert shown is not None
    assert shown == frame(page(found.analysis))
    ((tag, attrs),) = Reader(shown).elements
    assert (tag, attrs["sandbox"]) == ("iframe", "allow-scripts")
    assert attrs["srcdoc"] == page(found.analysis, Extras())
    assert html.unescape(shown).count("<!DOCTYPE html>") == 1
    assert (found._repr_markdown_() or "").startswith("# GPT\n")
    assert modnorm.report(GPT_FILE, format="markdown")._repr_html_() is None
    assert modnorm.report(GPT_FILE, format="json")._repr_markdown_() is None
    as_html = modnorm.report(GPT_FILE, format="html")
    assert str(as_html).startswith("<!DOCTYPE html>")
    assert len(repr(as_html)) < 80


def test_the_python_interface_takes_measurements(tmp_path: Path) -> None:
    check = write_check(tmp_path / "check.json")
    assert 'id="check"' in str(modnorm.report(GPT_FILE, format="html", check=check))
    with pytest.raises(ValueError, match="shown by the format html, not by text"):
        modnorm.report(GPT_FILE, check=check)
    with pytest.raises(ValueError, match="'html' or 'dot', not 'pdf'"):
        modnorm.report(GPT_FILE, format="pdf")  # type: ignore[arg-type]
