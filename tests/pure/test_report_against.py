"""What a report says about the difference of two models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from report_models import GPT, MLP, ODD, RESCNN, RESMLP, TIED, analysed

import modnorm
from modnorm.cli import cli
from modnorm.report import terminal
from modnorm.report.against import document
from modnorm.report.formats import compared as compare
from modnorm.report.words import encode

PROGRAMS = [GPT, MLP, ODD, RESMLP, RESCNN, TIED]


def invoke(*words: str) -> Result:
    return CliRunner().invoke(cli, ["report", *words])


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.mod").write_text(GPT, encoding="utf-8")
    Path("mlp.mod").write_text(MLP, encoding="utf-8")


def text(found: dict[str, Any]) -> str:
    return terminal.render(document(found))


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_model_does_not_differ_from_itself(program: str) -> None:
    found = compare(analysed(program), analysed(program))
    assert found["params"] == {}
    assert found["parts"] == []
    weights = found["weights"]
    assert (weights["added"], weights["removed"], weights["changed"]) == ([], [], [])
    assert weights["same"] == len(analysed(program).program.weights)
    assert all(one == other for one, other in found["facts"].values())
    assert text(found).count("No difference.") == 2


def test_more_blocks_are_one_change_of_a_count() -> None:
    found = compare(analysed(GPT), analysed(GPT, blocks=96))
    assert found["params"] == {"blocks": [4, 96]}
    assert found["weights"] == {"added": [], "removed": [], "changed": [], "same": 9}
    assert found["facts"]["mass"] == [7.0, 7.0]
    assert found["facts"]["weights"] == [811_264, 65 * 128 * 2 + 64 * 128 + 96 * 12 * 128**2]
    first = found["parts"][0]
    assert (first["path"], first["change"]) == ("body.block", "changed")
    assert first["changes"]["copies"] == [4, 96]
    shown = text(found)
    parts = shown[shown.index("\nParts\n") :].splitlines()
    assert len(parts) <= 12 + 2
    assert ["blocks", "4", "96"] in [line.split() for line in shown.splitlines()]
    assert ["changed", "body.block", "copies", "4", "→", "96"] in [line.split() for line in parts]


def test_shapes_and_targets_of_weights() -> None:
    found = compare(analysed(GPT), analysed(GPT, d_embed=64, blocks_mass=12))
    changed = {entry["path"]: entry["changes"] for entry in found["weights"]["changed"]}
    linear = changed["linear"]
    assert linear["shape"] == [[65, 128], [65, 64]]
    assert linear["target"][0] == pytest.approx([1 / 7] * 2)
    assert linear["target"][1] == pytest.approx([1 / 14] * 2)
    assert "mass" not in linear
    query = next(entry for path, entry in changed.items() if ".q." in path)
    assert query["mass"] == pytest.approx([5 / 6, 2])  # of all copies


def test_weights_that_only_one_has() -> None:
    before = MLP
    after = MLP.replace("@ ReLU @ Linear(100, 100)", "@ ReLU @ Bias @ Linear(100, 100)")
    found = compare(analysed(before), analysed(after))
    (added,) = found["weights"]["added"]
    assert (added["path"], added["op"], added["shape"]) == ("bias", "Bias", [100])
    assert found["weights"]["removed"] == []
    assert [(p["path"], p["change"]) for p in found["parts"]] == [("bias", "added")]
    back = compare(analysed(after), analysed(before))
    assert [p["change"] for p in back["parts"]] == ["removed"]
    assert back["weights"]["removed"] == [added]


def test_an_added_part_stands_for_all_in_it() -> None:
    found = compare(analysed(MLP), analysed(GPT))
    added = [part["path"] for part in found["parts"] if part["change"] == "added"]
    assert added == ["embed", "body", "norm"]
    assert found["weights"]["same"] == 0


def test_a_weight_that_becomes_a_part_of_its_name() -> None:
    one = "input x: float[b, 8]\nmodel M = Linear(8)\n"
    other = "input x: float[b, 8]\ndef linear = Linear(8) >> ReLU\nmodel M = linear\n"
    shown = text(compare(analysed(one), analysed(other)))
    assert "copies – → 1, share of mass – → 100.0%" in " ".join(shown.split())
    assert "copies 1 → –" in text(compare(analysed(other), analysed(one)))


@pytest.mark.parametrize("other", PROGRAMS)
@pytest.mark.parametrize("one", PROGRAMS)
def test_every_pair_in_every_format(one: str, other: str) -> None:
    found = compare(analysed(one), analysed(other))
    assert json.loads(encode(found)) == found
    shown = text(found)
    assert all(len(line) <= 80 for line in shown.splitlines() if "…" not in line)


def test_the_command() -> None:
    done = invoke("a.mod", "--against", "a.mod", "--against-p", "blocks=96")
    assert done.exit_code == 0, done.output
    lines = [line.split() for line in done.output.splitlines()]
    assert ["changed", "body.block", "copies", "4", "→", "96"] in lines
    assert ["source", "a.mod", "the", "same"] in lines
    as_json = invoke("a.mod", "--against", "mlp.mod", "--format", "json")
    assert json.loads(as_json.output)["after"]["model"] == "MLP"
    params = invoke("a.mod", "-p", "blocks=2", "--against", "a.mod", "--format", "json")
    found: dict[str, Any] = json.loads(params.output)
    assert found["params"] == {"blocks": [2, 4]}


def test_the_page_shows_the_changes() -> None:
    done = invoke("a.mod", "--against", "a.mod", "--against-p", "blocks=96", "-o", "out.html")
    assert done.exit_code == 0, done.output
    page = Path("out.html").read_text(encoding="utf-8")
    section = page[page.index('id="changes"') :]
    assert "copies 4 → 96" in section[: section.index("</section>")]


@pytest.mark.parametrize(
    ("loss", "sigma", "tau"), [("cross_entropy", "11.4018", "32.5"), ("mse", "4", "2")]
)
def test_the_constants_of_a_loss(loss: str, sigma: str, tau: str) -> None:
    words = ("a.mod", "--against", "a.mod", "--against-p", "blocks=96", "--loss", loss)
    rows = {line.split()[0]: line.split()[1:] for line in invoke(*words).output.splitlines()[1:12]}
    assert rows["loss"] == [loss, "the", "same"]
    assert rows["σ"] == [sigma, "the", "same"]
    assert rows["τ"] == [tau, "the", "same"]
    found = json.loads(invoke(*words, "--format", "json").output)["facts"]
    alone = (
        modnorm.report("a.mod", loss=loss).json["loss"],
        modnorm.report("a.mod", loss=loss, blocks=96).json["loss"],
    )
    for key in ("loss", "sigma", "tau", "smoothness"):
        assert found[key] == [one[key] for one in alone]
    markdown = invoke(*words, "--format", "markdown").output
    assert f"| σ | {sigma} | the same |" in markdown
    assert "| λ |" in markdown
    assert invoke(*words, "-o", "out.html").exit_code == 0
    page = Path("out.html").read_text(encoding="utf-8")
    section = page[page.index('id="changes"') :]
    assert f"<td>σ</td><td>{sigma}</td>" in section
    assert "<td>λ</td>" in section
    assert "loss" not in json.loads(invoke(*words[:5], "--format", "json").output)["facts"]


def test_one_model_of_several() -> None:
    Path("two.mod").write_text(MLP + "model Other = Linear(3)\n", encoding="utf-8")
    words = ("two.mod", "--model", "MLP", "--against", "two.mod", "--format", "json")
    same = invoke(*words)
    assert json.loads(same.output)["after"]["model"] == "MLP"
    other = invoke(*words, "--against-model", "Other")
    assert json.loads(other.output)["after"]["model"] == "Other"


def test_what_is_wrong_is_said() -> None:
    dot = invoke("a.mod", "--against", "a.mod", "--format", "dot")
    assert dot.exit_code == 2
    assert "dot shows one model" in dot.output
    alone = invoke("a.mod", "--against-p", "blocks=96")
    assert alone.exit_code == 2
    assert "need --against" in alone.output
    missing = invoke("a.mod", "--against", "no.mod")
    assert missing.exit_code == 1
    assert "no.mod" in missing.output
    unknown = invoke("a.mod", "--against", "a.mod", "--against-p", "block=96")
    assert unknown.exit_code == 1
    assert "did you mean `blocks`?" in unknown.output


def test_from_python() -> None:
    found = modnorm.report("a.mod", against="a.mod", against_params={"blocks": 96})
    assert "copies 4 → 96" in str(found)
    assert found.json["params"] == {"blocks": [4, 96]}
    again = modnorm.report("a.mod", against=modnorm.report("a.mod", blocks=96), format="json")
    assert json.loads(str(again)) == found.json
    markdown = found._repr_markdown_() or ""
    assert markdown.startswith("# GPT against GPT")
    with pytest.raises(ValueError, match="dot shows one model"):
        modnorm.report("a.mod", against="a.mod", format="dot")
