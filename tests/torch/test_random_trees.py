"""Random programs: the compiler, the generated file and two plain readings of the text agree."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from checks import check_function, check_plan, check_steps, check_targets, check_tools
from hypothesis import assume, given, settings
from strategies import Sample, programs

from modnorm.codegen.assemble import generate
from modnorm.diagnostics import ModnormError
from modnorm.pipeline import analyse_text
from tests.tools import RUFF

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = settings().max_examples


@settings(max_examples=4 * EXAMPLES)
@given(programs())
def test_targets_are_those_of_the_recursion(sample: Sample) -> None:
    check_targets(sample.text)


@given(programs())
def test_generated_code_computes_what_the_text_says(sample: Sample) -> None:
    check_function(sample.text)


@given(programs())
def test_the_plan_fits_the_model(sample: Sample) -> None:
    check_plan(sample.text)


@given(programs())
def test_a_step_moves_every_weight_by_its_target(sample: Sample) -> None:
    check_steps(sample.text)


@settings(max_examples=EXAMPLES // 6)
@given(programs())
def test_torch_compiles_and_exports(sample: Sample) -> None:
    check_tools(sample.text)


@settings(max_examples=EXAMPLES // 3)
@given(programs(counted=True))
def test_length_does_not_depend_on_the_number_of_copies(sample: Sample) -> None:
    lengths = set()
    for count in (2, 3, 7):
        params = dict.fromkeys(sample.counts, count)
        try:
            program = analyse_text(str(sample.text), params=params).program
        except ModnormError:
            assume(False)  # the other tests say that it is rightly refused
        lengths.add(len(generate(program).splitlines()))
    assert len(lengths) == 1


@pytest.mark.skipif(RUFF is None, reason="ruff is not installed")
def test_generated_files_are_tidy(tmp_path: Path) -> None:
    """What ruff says of some generated files."""
    written = 0

    @settings(max_examples=300 if os.environ.get("MODNORM_LONG") else 25)
    @given(programs())
    def write(sample: Sample) -> None:
        nonlocal written
        try:
            source = generate(analyse_text(str(sample.text)).program, standalone=True)
        except ModnormError:
            return
        written += 1
        (tmp_path / f"sample_{written}.py").write_text(source, encoding="utf-8")

    write()
    assert written > 10
    command = [str(RUFF), "check", "--config", str(ROOT / "pyproject.toml"), str(tmp_path)]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout + found.stderr
