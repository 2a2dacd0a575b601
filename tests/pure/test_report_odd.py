"""Reports with measurements of another model, empty runs, and texts that are no markup."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

import modnorm
from modnorm.pipeline import analyse
from modnorm.report.checked import read_check
from modnorm.report.output import CannotWrite, write
from modnorm.report.words import constant
from tests.report_files import GPT, write_check, write_run

ODD = "</script>|`$\"' \\ `x` & \n# line"
LANGUAGE = '"</script>|`$\\"\' \\\\ `x` & \\n# line"'


def test_measurements_of_another_model_are_refused(tmp_path: Path) -> None:
    check = write_check(tmp_path / "check.json", model="Other")
    with pytest.raises(ValueError, match="are of the model `Other`, and the report is on `GPT`"):
        modnorm.report(GPT, format="html", check=check)


def test_measurements_with_other_params_are_told_of(tmp_path: Path) -> None:
    same = write_check(tmp_path / "same.json", params={"blocks": 4})
    other = write_check(tmp_path / "other.json", params={"blocks": 2, "heads": 4})
    said = "Measured with other params"
    assert said not in str(modnorm.report(GPT, format="html", check=same))
    assert f"{said}: blocks = 2." in str(modnorm.report(GPT, format="html", check=other))
    wrong = write_check(tmp_path / "wrong.json", params=[4])
    with pytest.raises(ValueError, match="expected `object`, got `array` at `params`"):
        modnorm.report(GPT, format="html", check=wrong)


def test_a_run_without_steps(tmp_path: Path) -> None:
    program = analyse(GPT).program
    for steps, said in ((0, "No step is recorded yet."), (1, "1 recorded step<")):
        run = write_run(tmp_path / "run.jsonl", program, steps)
        page = str(modnorm.report(GPT, format="html", monitor=run))
        assert said in page
        assert ('id="run-weight"' in page) == (steps > 0)


def test_a_string_is_shown_as_the_language_writes_it(tmp_path: Path) -> None:
    assert constant(ODD) == LANGUAGE
    folder = tmp_path / "a`b` | <c>"
    folder.mkdir()
    path = folder / "m.mod"
    text = f"param s = {LANGUAGE}\ninput x: float[batch, 8]\n"
    path.write_text(f'{text}model M = Linear(4) @ (ReLU if s == "" else Tanh)\n', encoding="utf-8")
    report = modnorm.report(path, format="markdown")
    assert report.json["params"] == {"s": ODD}
    tokens = MarkdownIt("commonmark").enable("table").parse(str(report))
    cells = [t for t in tokens if t.type == "inline"]
    for name, expected in (("params", f"s = {LANGUAGE}"), ("source", os.fspath(path))):
        (at,) = (i for i, cell in enumerate(cells) if cell.content == f"**{name}**")
        inner = cells[at + 1].children or []
        assert "code_inline" not in {token.type for token in inner}
        assert "".join(token.content for token in inner) == expected


def test_params_of_no_other_file() -> None:
    with pytest.raises(ValueError, match="need against"):
        modnorm.report(GPT, against_params={"blocks": 2})
    with pytest.raises(ValueError, match="against is a report"):
        modnorm.report(GPT, against=modnorm.report(GPT), against_params={"blocks": 2})


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="there is no /proc")
def test_a_folder_in_which_nothing_can_be_made() -> None:
    with pytest.raises(CannotWrite, match="nothing can be made in `/proc`"):
        write("/proc/modnorm.html", json.dumps({}))


def test_sizes_that_are_not_known_or_the_same_stand_once(tmp_path: Path) -> None:
    module = {"path": "linear", "name": "Linear", "kind": "atom", "verdict": "ok"}
    bounds = [(None, None), (2.5, 2.5), (1.5, 2.5), (None, 2.5)]
    modules = [{**module, "input": {"low": low, "high": high}} for low, high in bounds]
    check = write_check(tmp_path / "check.json", modules=modules)
    page = str(modnorm.report(GPT, format="html", check=check))
    rows = re.findall(r"<code>linear</code> Linear</td><td></td><td[^>]*>([^<]*)<", page)
    assert rows == ["–", "2.5", "1.5 … 2.5", "2.5"]


@pytest.mark.parametrize("written", ["NaN", "-Infinity", "1e999", f"-{10**4000}", "null"])
def test_what_is_not_finite_is_not_known(written: str, tmp_path: Path) -> None:
    module = {"path": "linear", "name": "Linear", "verdict": "ok", "declared": 7, "norm": "P"}
    check = write_check(tmp_path / "check.json", modules=[module])
    text = check.read_text(encoding="utf-8").replace('"declared": 7', f'"declared": {written}')
    check.write_text(text, encoding="utf-8")
    assert read_check(check).modules[0].declared is None
    page = str(modnorm.report(GPT, format="html", check=check))
    assert re.search(r"<code>linear</code> Linear</td><td>P</td><td[^>]*>–</td>", page)
