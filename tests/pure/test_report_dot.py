"""The dot report: a graph that Graphviz reads, with every value and every use."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest
from report_models import GPT, MLP, ODD, RESCNN, RESMLP, TIED, analysed

from modnorm.graph.dataflow import Loop, Region
from modnorm.report.dot import label, quoted, render
from modnorm.report.model import Norm, described

PROGRAMS = {"gpt": GPT, "mlp": MLP, "odd": ODD, "resmlp": RESMLP, "rescnn": RESCNN, "tied": TIED}


def counted(region: Region) -> tuple[int, int, int]:
    """Values that are no repetition, uses, and repetitions, those inside repetitions included."""
    values = uses = loops = 0
    for number in region.numbers():
        value = region[number]
        uses += len(value.inputs)
        if not isinstance(value, Loop):
            values += 1
            continue
        uses += len(value.runs) - 1  # from one run to the next
        loops += len(value.runs)
        for run in value.runs:
            inner = counted(run.region)
            values, uses, loops = values + inner[0], uses + inner[1], loops + inner[2]
    return values, uses, loops


@pytest.mark.parametrize("name", PROGRAMS)
def test_every_value_use_and_repetition(name: str) -> None:
    analysis = analysed(PROGRAMS[name])
    text = render(analysis.program)
    values, uses, loops = counted(analysis.program.flow)
    assert len(re.findall(r"^ +v\w+ \[label=", text, re.MULTILINE)) == values
    assert len(re.findall(r"^ +v\w+ -> v\w+", text, re.MULTILINE)) == uses
    assert text.count("subgraph cluster_") == loops
    assert text.count("{\n") == len(re.findall(r"^ *\}$", text, re.MULTILINE))


@pytest.mark.parametrize("name", PROGRAMS)
def test_graphviz_reads_it(name: str) -> None:
    program = shutil.which("dot")
    if program is None:
        pytest.skip("Graphviz is not installed")
    done = subprocess.run(
        [program, "-Tplain"],
        input=render(analysed(PROGRAMS[name]).program),
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    values, uses, _ = counted(analysed(PROGRAMS[name]).program.flow)
    lines = done.stdout.splitlines()
    assert sum(line.startswith("node ") for line in lines) == values
    assert sum(line.startswith("edge ") for line in lines) == uses


def test_a_repetition_is_drawn_once_with_its_count() -> None:
    few, many = (render(analysed(GPT, blocks=blocks).program) for blocks in (4, 96))
    assert len(few.splitlines()) == len(many.splitlines())
    assert 'label="body.block × 96"' in many
    assert "target 0.7143" in many


def test_edges_have_types() -> None:
    text = render(analysed(MLP).program)
    assert 'v0 -> v1 [label="float[batch, 20]"' in text


def test_edges_have_the_bounds_of_the_certificate() -> None:
    analysis = analysed(MLP)
    (norm,) = [p.norm for p in described(analysis.program).parts if p.path == "linear"]
    assert norm is not None
    assert norm.high is not None
    line = next(x for x in render(analysis.program).splitlines() if " v1 -> v2 " in x)
    assert str(norm) in line
    assert str(norm).endswith(f"≤ {norm.high:.4g}")


def test_every_use_of_a_shared_weight_has_its_target_and_its_own_bounds() -> None:
    lines = render(analysed(ODD).program).splitlines()
    assert sum("cell.linear\\ntarget 0.1031" in line for line in lines) == 2


def test_strings_are_escaped() -> None:
    assert quoted('a "b" \\n') == r'"a \"b\" \\n"'
    assert quoted("a\nb") == '"a b"'
    assert label("a", "", 'b"') == r'"a\nb\""'


def test_bounds_of_a_norm() -> None:
    assert str(Norm("P", 0.5, 1.0)) == "0.5 ≤ P ≤ 1"
    assert str(Norm("P", 0, 2.0)) == "P ≤ 2"
    assert str(Norm("I", 0.0, None)) == "I"
