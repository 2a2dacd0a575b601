"""The two forms of a generated file: one imports the runtime, and one has it in itself."""

from __future__ import annotations

import ast
import copy
import pickle
import re
import shlex
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from torch import Tensor

import modnorm
from modnorm.cli import cli
from modnorm.codegen.imports import import_source
from modnorm.kernels import Plan, Weight
from modnorm.kernels.plan import FORMAT
from tests.tools import RUFF

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"
SMALL: dict[str, dict[str, int]] = {
    "gpt": {"vocab": 17, "context": 12, "d_embed": 16, "heads": 4, "blocks": 2},
    "rescnn": {"width": 6, "blocks": 2, "size": 6},
}
KINDS = ("NormedAdam", "NormedSGD", "DualizedSGD")


def module(name: str, **options: Any) -> ModuleType:
    source = modnorm.compile(EXAMPLES / f"{name}.mod", **options, **SMALL[name])
    return import_source(source, name)


def trained(made: Any, kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Weights and the optimizer's state after some steps."""
    draw = torch.Generator().manual_seed(0)
    model = getattr(made, made.MODEL)(generator=draw)
    optimizer = getattr(made, kind)(model.named_parameters(), lr=0.1, weight_decay=0.01)
    (entry,) = made.INPUTS
    shape = [{"batch": 4, "seq": 7}.get(size, size) for size in entry.shape]
    for _ in range(5):
        x = torch.randn(shape, generator=draw)
        if entry.dtype == "int":
            x = torch.randint(entry.bound, shape, generator=draw)
        (model(x) - 1).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.state_dict(), optimizer.state_dict()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("device", ["sm_90", "cpu"])
def test_both_train_to_the_same_bits(name: str, kind: str, device: str) -> None:
    (one, first), (other, second) = (
        trained(module(name, standalone=alone, device=device), kind) for alone in (False, True)
    )
    assert all(torch.equal(one[key], other[key]) for key in one)
    assert first["plan_hash"] == second["plan_hash"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_checkpoint_of_one_is_one_of_the_other(kind: str) -> None:
    here, there = module("gpt"), module("gpt", standalone=True)
    weights, state = trained(there, kind)
    model = here.GPT()
    model.load_state_dict(weights)
    optimizer = getattr(here, kind)(model.named_parameters(), lr=0.1)
    optimizer.load_state_dict(state)
    saved = optimizer.state_dict()
    for key, own in state["state"].items():
        assert all(torch.equal(x, saved["state"][key][part]) for part, x in own.items())


def test_what_a_file_imports_is_the_runtime_alone() -> None:
    """Not the compiler, nor what that needs."""
    program = (
        "import sys, modnorm\n"
        "from modnorm.kernels import *\n"
        "assert NormedAdam and Monitor and Plan\n"
        "print([n for n in sys.modules if n.partition('.')[0] in ('lark', 'networkx', 'click')])\n"
        "print(sorted({n.split('.')[1] for n in sys.modules if n.startswith('modnorm.')}))"
    )
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)
    assert done.stdout.decode().split("\n")[:2] == ["[]", "['kernels']"]


def test_the_runtime_has_no_other_names() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'NormedAdma'"):
        modnorm.kernels.NormedAdma  # noqa: B018


@pytest.mark.skipif(RUFF is None, reason="ruff is not installed")
@pytest.mark.parametrize("name", ["gpt", "gpt_certified", "rescnn", "resmlp"])
def test_a_file_is_short_and_as_linters_want_it(name: str, tmp_path: Path) -> None:
    path = tmp_path / f"{name}.py"
    source = modnorm.compile(EXAMPLES / f"{name}.mod", output=path)
    assert len(source.splitlines()) <= 400
    for command in (["check"], ["format", "--check"]):
        done = subprocess.run([str(RUFF), *command, "--isolated", str(path)], capture_output=True)
        assert done.returncode == 0, done.stdout
    names = {node.id for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Name)}
    assert {name for name in names if name.startswith("_")} <= {"_", "__all__"}


@pytest.mark.parametrize("options", [[], ["--standalone"], ["--device", "cpu"]])
def test_the_first_lines_say_how_to_make_a_file_again(
    options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    text = 'param width = 4\nparam kind = "it\'s \\"\\"\\" odd"\ninput x: float[b, 3]\n'
    text += "model Odd = Linear(width) @ Linear(2)\nmodel Other = Tanh\n"
    Path("odd's one.mod").write_text(text, encoding="utf-8")
    arguments = [
        "compile",
        "odd's one.mod",
        "-o",
        "odd.py",
        "--model",
        "Odd",
        "-p",
        "width=7",
        *options,
    ]
    assert CliRunner().invoke(cli, arguments, catch_exceptions=False).exit_code == 0
    made = Path("odd.py").read_text(encoding="utf-8")
    described = ast.get_docstring(ast.parse(made), clean=False)
    assert described is not None
    assert f"made by modnorm {modnorm.__version__}" in described
    (command,) = re.findall(r"^    (modnorm compile .*)$", described, re.MULTILINE)
    Path("odd.py").unlink()
    arguments = [*shlex.split(command)[1:], "-o", "odd.py"]
    again = CliRunner().invoke(cli, arguments, catch_exceptions=False)
    assert again.exit_code == 0, again.output
    assert Path("odd.py").read_text(encoding="utf-8") == made


# --- the plan ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("format", "age"), [(FORMAT - 1, "older"), (FORMAT + 1, "newer")])
def test_a_file_of_another_format_says_so_in_a_sentence(format: int, age: str) -> None:
    source = modnorm.compile(EXAMPLES / "gpt.mod", **SMALL["gpt"])
    source = source.replace(f"format={FORMAT},", f"format={format},")
    with pytest.raises(ImportError, match=f"GPT was written by an {age} modnorm") as told:
        import_source(source, "other")
    assert "\n" not in str(told.value)
    assert "compile it again" in str(told.value)


def test_a_plan_is_a_sequence_of_records_with_choices() -> None:
    plan = module("gpt").PLAN
    assert isinstance(plan, Plan)
    assert isinstance(plan, tuple)
    assert plan.model == "GPT"
    assert plan.schemes[16, 16] == ("plain", 6)
    for same in (copy.deepcopy(plan), pickle.loads(pickle.dumps(plan))):
        assert same == plan
        assert vars(same) == vars(plan)
    other = plan.of([Weight("head", "Linear", (5, 3), "spectral", 1.0, 0.5)])
    assert len(other) == 1
    own = {"model": "", "stored": (), "parts": {}}
    assert {**vars(other), **own} == {**vars(plan), **own}
    assert plan.of(plan) is plan
    assert plan.scheme((3, 5)).form == "gram"  # of a shape that it has not: by cost
    assert Plan([("head", "Linear", (5, 3), "spectral", 1.0, 0.5)])[0].norm == "spectral"


def test_another_plan_has_what_the_file_knows_of_shapes() -> None:
    made = module("gpt")
    model = made.GPT()
    plan = [record._replace(target=record.target / 2) for record in made.PLAN]
    optimizer = made.DualizedSGD(model.named_parameters(), lr=0.1, plan=plan)
    assert optimizer.plan.smoothness == made.PLAN.smoothness
    assert optimizer.plan.polar_tiles == made.PLAN.polar_tiles
    assert optimizer.plan[0].target == made.PLAN[0].target / 2
