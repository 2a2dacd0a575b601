"""Reports on saved plans, and explanations: the numbers are those of the file, without torch."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import modnorm
from modnorm.cli import cli
from modnorm.kernels.weight import Weight, as_weight

LAYOUT = ["h.0.qkv", [6, 4], [3, 2, 4], [[0, 1], [0, 2], [0, 4]], [0, 1, 2]]
ROWS: list[list[Any]] = [
    [
        "wte.weight",
        "Embed",
        [8, 4],
        "row_rms",
        1.0,
        0.05,
        None,
        "table",
        "declared",
        "wte (a.py:3)",
    ],
    ["h.0.qkv.q", "Linear", [2, 4], "spectral", 2.0, 0.4, LAYOUT, "matrix", "measured", "h.0"],
    ["h.0.up.weight", "Linear", [4, 4], "spectral", 3.0, 0.6, None, "matrix", "measured", "h.0"],
    ["h.1.up.weight", "Linear", [4, 4], "spectral", 3.0, 0.3, None, "matrix", "measured", "h.1"],
    ["h.1.up.bias", "Bias", [4], "rms", 0.0, 0.0, None, "bias", "declared", ""],
]
PLAN = tuple(as_weight([*row[:2], tuple(row[2]), *row[3:]]) for row in ROWS)
MASS = 9.0


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "plan.json"
    path.write_text(json.dumps({"format": 1, "model": "Net", "weights": ROWS}), "utf-8")
    return str(path)


def run(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(cli, [*arguments])
    return done.exit_code, done.output


def shown(*arguments: str) -> str:
    code, output = run(*arguments)
    assert code == 0, output
    return output


def test_json_has_the_numbers_of_the_file(file: str) -> None:
    found = json.loads(shown("report", file, "--format", "json"))
    assert (found["model"], found["source"], found["mass"]) == ("Net", "plan.json", MASS)
    assert found["weights"] == 32 + 8 + 16 + 16 + 4
    for atom, row in zip(found["atoms"], ROWS, strict=True):
        name, op, shape, norm, mass, target, layout, role, how, place = row
        assert atom["weight"] == name
        assert atom["path"] == name.removesuffix(".weight")
        assert (atom["op"], atom["shape"], atom["norm"]) == (op, shape, norm)
        assert (atom["role"], atom["sensitivity"], atom["place"]) == (role, how, place)
        assert (atom["mass"], atom["target"]) == (mass, target)
        assert atom.get("parameter") == (layout and layout[0])
        assert atom["share"] == pytest.approx(mass / MASS, rel=1e-15)
        if target:
            product = atom["downstream_sensitivity"] * target
            assert product == pytest.approx(mass / MASS, rel=1e-14)
        else:
            assert atom["downstream_sensitivity"] is None


def test_json_has_the_keys_of_a_reports_on_a_file(file: str, tmp_path: Path) -> None:
    """Whatever is null has a reason."""
    (tmp_path / "a.mod").write_text("input x: float[batch, 4]\nmodel M = Linear(2)\n", "utf-8")
    program = json.loads(shown("report", str(tmp_path / "a.mod"), "--format", "json"))
    plan = json.loads(shown("report", file, "--format", "json"))
    missing = {"certified_sharpness", "loss", "outputs", "assumptions"}
    assert program.keys() - plan.keys() <= missing
    assert program["atoms"][0].keys() - plan["atoms"][0].keys() == {"line"}
    assert {key for key, value in plan.items() if value is None} == set(plan["unknown"])
    assert all(plan["unknown"].values())


def test_text_has_kinds_of_weights(file: str) -> None:
    lines = shown("report", file).splitlines()
    assert max(map(len, lines)) <= 80
    (row,) = [line for line in lines if line.startswith("h.*.up.weight")]
    assert row.split()[1:] == ["2", "matrix", "spectral", "66.7%", "0.5556", "…", "1.111",
                               "0.3", "…", "0.6"]  # fmt: skip
    (frozen,) = [line for line in lines if "up.bias" in line]
    assert frozen.endswith("0 (frozen)")


def test_markdown_has_every_weight(file: str) -> None:
    text = shown("report", file, "--format", "markdown")
    table = text[text.index("## Weights") :]
    for name, *_, place in ROWS:
        (line,) = [x for x in table.splitlines() if x.startswith(f"| `{name}` |")]
        assert line.endswith(f"{place} |")


def test_a_page(file: str, tmp_path: Path) -> None:
    out = tmp_path / "plan.html"
    shown("report", file, "-o", str(out))
    text = out.read_text("utf-8")
    assert all(row[0] in text for row in ROWS)


def test_python_shows_the_same(file: str) -> None:
    report = modnorm.report(PLAN)
    assert report.json == json.loads(shown("report", file, "--format", "json")) | {
        "source": None, "model": "model",
    }  # fmt: skip
    assert "h.*.up.weight" in str(report)
    explained = modnorm.explain(PLAN, "h.0.up")
    assert explained.weights == ("h.0.up.weight",)
    assert str(explained) == shown("explain", file, "h.0.up").rstrip("\n").replace("Net", "model")


def test_factors_multiply_out_to_the_target(file: str) -> None:
    text = shown("explain", file, "h.0.qkv.q")
    assert text.startswith("h.0.qkv.q\nmatrix, 2 × 4, norm spectral\na part of h.0.qkv\n")
    values = [float(line.split()[-5] if "=" not in line else line.split()[1])
              for line in text.splitlines() if line.strip().startswith("=")]  # fmt: skip
    assert values == [pytest.approx(2 / MASS, rel=1e-5), 0.4]
    assert "sensitivity downstream, measured, by random cotangents" in text
    assert f"{2 / MASS / 0.4:.6g}" in text


def test_what_is_frozen_is_told(file: str) -> None:
    assert "no step changes it" in shown("explain", file, "h.1.up.bias")


def test_several_are_listed(file: str) -> None:
    text = shown("explain", file, "h.*.up")
    assert text.startswith("2 weights match `h.*.up`; name one to explain it\n")
    code, text = run("explain", file, "h.0.upp")
    assert code == 1
    assert "the model `Net` has no weight `h.0.upp`" in text
    assert "did you mean `h.0.up`?" in text


WRONG = {
    "no JSON": ('{"format": ', "is no plan that modnorm can read: this is no JSON"),
    "another object": ('{"format": 1, "a": 1}', "object contains unknown field `a`"),
    "a newer one": ('{"format": 99, "model": "Net", "weights": []}', "a newer modnorm wrote it"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_no_plan(case: str, tmp_path: Path) -> None:
    content, said = WRONG[case]
    path = tmp_path / "plan.json"
    path.write_text(content, "utf-8")
    for arguments in (["report", str(path)], ["explain", str(path), "a"]):
        code, text = run(*arguments)
        assert code == 1
        assert said in " ".join(text.split())


@pytest.mark.parametrize("option", [
    ("-p", "a=1"), ("--model", "M"), ("--loss", "mse"), ("--against", "b.mod"), ("--root", "."),
])  # fmt: skip
def test_options_of_programs_are_refused(option: tuple[str, str], file: str) -> None:
    code, text = run("report", file, *option)
    assert code == 2
    assert "is for programs, and" in " ".join(text.split())
    code, text = run("report", file, "--format", "dot")
    assert (code, "not as dot" in text) == (1, True)


def test_python_refuses_them_too(file: str) -> None:
    with pytest.raises(ValueError, match=r"loss is for a `\.mod` file, and this is a plan"):
        modnorm.report(PLAN, loss="mse")  # type: ignore[call-overload]
    with pytest.raises(ValueError, match=r"d is for a `\.mod` file, and this is a plan"):
        modnorm.explain(PLAN, "wte", d=3)
    for of in (modnorm.report, lambda path: modnorm.explain(path, "wte")):
        with pytest.raises(ValueError, match=r"is a plan and no program: give what .*load_plan"):
            of(file)  # type: ignore[operator]


def test_torch_is_not_imported(file: str) -> None:
    code = (
        "import sys; from modnorm.cli import cli\n"
        f"cli.main(['report', {file!r}], standalone_mode=False)\n"
        f"cli.main(['explain', {file!r}, 'wte'], standalone_mode=False)\n"
        "sys.exit(any(name in sys.modules for name in ('torch', 'numpy')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr


def test_records_are_those_of_the_runtime() -> None:
    assert all(isinstance(w, Weight) for w in PLAN)
    assert math.fsum(w.mass for w in PLAN) == MASS
