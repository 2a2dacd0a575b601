"""Random programs: the generated code does what a plain reading of the text says."""

from __future__ import annotations

import ast
import math
import subprocess
import sys
import types
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from interpreter import Run
from pythonic import Program as Reading
from strategies import Kind, Sample, programs

from modnorm.codegen.assemble import generate
from modnorm.codegen.plan import records
from modnorm.diagnostics import ModnormError
from modnorm.passes.program import Program
from modnorm.pipeline import analyse_text
from tests.plain import Mistake, Plain, Target, targets, unroll
from tests.tools import RUFF

ROOT = Path(__file__).resolve().parents[2]
NORMAL = settings()


def shape(kind: Kind) -> tuple[int, ...]:
    match kind:
        case ("vec", d):
            return (2, d)
        case ("seq", d):
            return (2, 3, d)
        case ("image", c, size):
            return (2, c, size, size)
        case ("tok", _):
            return (2, 3)
    raise AssertionError(kind)


def value(kind: Kind, generator: torch.Generator) -> torch.Tensor:
    if kind[0] == "tok":
        return torch.randint(kind[1], shape(kind), generator=generator)
    x = torch.randn(shape(kind), generator=generator, dtype=torch.float64)
    return x.requires_grad_()


def flat(x: Any) -> list[torch.Tensor]:
    return [t for member in x for t in flat(member)] if isinstance(x, tuple) else [x]


@dataclass
class Case:
    """A program that compiles: analysed, and read a second time by Python."""

    sample: Sample
    program: Program
    tree: Plain
    targets: list[Target]
    mass: Any
    reading: Plain

    def load(self) -> Any:
        module = types.ModuleType("generated")
        sys.modules["generated"] = module  # torch looks up annotations there
        exec(compile(generate(self.program), "generated.py", "exec"), module.__dict__)
        return module

    def model(self, module: Any, dtype: torch.dtype, seed: int = 0) -> torch.nn.Module:
        generator = torch.Generator().manual_seed(seed)
        made = getattr(module, module.MODEL)(dtype=dtype, generator=generator)
        assert isinstance(made, torch.nn.Module)
        return made

    def inputs(self, seed: int = 0) -> tuple[torch.Tensor, ...]:
        generator = torch.Generator().manual_seed(seed)
        return tuple(value(kind, generator) for kind in self.sample.inputs)


def compiled(sample: Sample) -> Case | None:
    """The program compiled, or None if it rightly does not compile."""
    reading = Reading(sample.text).model
    mistakes: set[str] = set()
    expected: list[Target] = []
    try:
        _, expected = targets(reading)
    except Mistake as mistake:
        mistakes = {mistake.code}
    try:
        program = analyse_text(str(sample.text)).program
    except ModnormError as error:
        found = {d.code for d in error.diagnostics if d.severity == "error"}
        if found != mistakes:
            raise
        return None
    assert not mistakes
    tree = unroll(program.tree)
    mass, own = targets(tree)
    assert same_targets(own, expected)
    return Case(sample, program, tree, own, mass, reading)


def same_targets(found: list[Target], expected: list[Target]) -> bool:
    """The weights of both readings, in execution order."""
    for a, b in zip(found, expected, strict=True):
        assert a.op.name == b.op.name
        for x, y in ((a.mass, b.mass), (a.downstream, b.downstream), (a.target, b.target)):
            assert close(x, y), (a, b)
    return True


def close(a: Any, b: Any, tolerance: float = 1e-10) -> bool:
    return math.isclose(a, b, rel_tol=tolerance, abs_tol=1e-300)


# -- the analysis ------------------------------------------------------------------------------


@given(programs())
def test_targets_are_those_of_the_recursion(sample: Sample) -> None:
    case = compiled(sample)
    if case is None:
        return
    found = {r.name: r for r in records(case.program)}
    expected = {str(t.key): t for t in case.targets}
    assert found.keys() == expected.keys()
    assert close(case.program.mass, case.mass)
    for name, target in expected.items():
        record = found[name]
        assert record.weight.op.name == target.op.name
        assert record.weight.op.weight_shape == target.op.weight_shape
        assert close(record.weight.mass, target.mass), name
        assert close(record.downstream, target.downstream), name
        assert close(record.target, target.target), name
    if expected:
        assert close(sum(r.target * r.downstream for r in found.values()), 1)


# -- the generated code ------------------------------------------------------------------------


def weights_of(targets: list[Target], seed: int) -> dict[Any, torch.Tensor]:
    """Random weights for the atoms of a reading, the same for the same position."""
    generator = torch.Generator().manual_seed(seed)
    return {
        t.key: torch.randn(t.op.weight_shape, generator=generator, dtype=torch.float64)
        .mul(0.5)
        .requires_grad_()
        for t in targets
    }


Results = tuple[list[torch.Tensor], list[torch.Tensor | None]]


def measured(outputs: Any, wanted: list[torch.Tensor]) -> Results:
    """Outputs, and the gradients of a fixed random function of them."""
    found = flat(outputs)
    generator = torch.Generator().manual_seed(2)
    loss = torch.zeros((), dtype=torch.float64)
    for y in found:
        loss = loss + (y * torch.randn(y.shape, generator=generator, dtype=y.dtype)).sum()
    if not loss.requires_grad:
        return found, [None] * len(wanted)
    return found, list(torch.autograd.grad(loss, wanted, allow_unused=True))


def interpreted(case: Case, tree: Plain, seed: int, noise: float = 0.0) -> Results:
    """A plain reading run on random inputs and weights."""
    keys = [target.key for target in targets(tree)[1]]
    weights = dict(zip(keys, weights_of(case.targets, seed).values(), strict=True))
    inputs = case.inputs(seed)
    run = Run(lambda key, _: weights[key], noise)
    outputs = run(tree, inputs if len(inputs) > 1 else inputs[0])
    floats = [x for x in inputs if x.is_floating_point()]
    return measured(outputs, [*weights.values(), *floats])


def far(found: Results, expected: Results, tolerance: float) -> str:
    """Where two results differ by more than the tolerance of the result's size; "" if nowhere."""
    for what, ours, theirs in zip(("output", "gradient"), found, expected, strict=True):
        for number, (a, b) in enumerate(zip(ours, theirs, strict=True)):
            a = torch.zeros(()) if a is None else a.detach()
            b = torch.zeros(()) if b is None else b.detach()
            room = tolerance * max(1.0, b.abs().max().item() if b.numel() else 0)
            if not (a - b).abs().le(room).all():
                return f"{what} {number}: {(a - b).abs().max()} against {room}"
    return ""


@given(programs())
def test_generated_code_computes_what_the_text_says(sample: Sample) -> None:
    case = compiled(sample)
    if case is None:
        return
    expected = interpreted(case, case.tree, 0)
    assume(not far(interpreted(case, case.tree, 0, noise=1e-13), expected, 1e-10))
    module = case.load()
    model = case.model(module, torch.float64)
    named = dict(model.named_parameters())
    weights = {str(key): w for key, w in weights_of(case.targets, 0).items()}
    assert named.keys() == weights.keys()
    with torch.no_grad():
        for name, parameter in named.items():
            parameter.copy_(weights[name])
    inputs = case.inputs()
    floats = [x for x in inputs if x.is_floating_point()]
    found = measured(model(*inputs), [*(named[name] for name in weights), *floats])
    assert far(found, expected, 1e-9) == ""
    assert far(interpreted(case, case.reading, 0), expected, 1e-9) == ""


def grouped(sample: Sample, names: list[str]) -> dict[str, list[str]]:
    """Names in order, those of every shared module for themselves.

    The plan is in execution order. So are a module's parameters, but for shared ones: they stand
    together at the root, and in the plan where they are first used.
    """
    shared = {s.name for s in sample.text.statements if s.kind == "shared"}
    groups: dict[str, list[str]] = {}
    for name in names:
        head = name.partition(".")[0]
        groups.setdefault(head if head in shared else "", []).append(name)
    return groups


@given(programs())
def test_plan_and_parameters(sample: Sample) -> None:
    case = compiled(sample)
    if case is None:
        return
    module = case.load()
    plan = {w.name: w for w in module.PLAN}
    assert len(plan) == len(module.PLAN)
    expected = {str(t.key): t for t in case.targets}
    assert plan.keys() == expected.keys()
    for name, weight in plan.items():
        target = expected[name]
        assert (weight.atom, weight.shape) == (target.op.name, target.op.weight_shape)
        assert weight.norm == target.op.norm.name
        assert close(weight.mass, target.mass)
        assert close(weight.target, target.target)
    model = case.model(module, torch.float32)
    named = list(model.named_parameters(remove_duplicate=False))
    assert len({id(p) for _, p in named}) == len(named) == len(model.state_dict())
    assert {n: tuple(p.shape) for n, p in named} == {n: w.shape for n, w in plan.items()}
    for name, parameter in named:
        norm = expected[name].op.weight_norm(parameter.detach().double()).item()
        assert norm == pytest.approx(0 if plan[name].atom == "Bias" else 1, abs=1e-5)
    assert grouped(sample, [n for n, _ in named]) == grouped(sample, list(plan))


@given(programs())
def test_a_step_moves_every_weight_by_its_target(sample: Sample) -> None:
    case = compiled(sample)
    if case is None or not case.targets:
        return
    module = case.load()
    plan = {w.name: w for w in module.PLAN}
    ops = {str(t.key): t.op for t in case.targets}
    lr = 0.25
    for kind in (module.NormedAdam, module.NormedSGD, module.DualizedSGD):
        model = case.model(module, torch.float64)
        optimizer = kind(model.named_parameters(), lr=lr)
        _, gradients = measured(model(*case.inputs()), list(model.parameters()))
        before = {n: p.detach().clone() for n, p in model.named_parameters()}
        for parameter, gradient in zip(model.parameters(), gradients, strict=True):
            parameter.grad = gradient
        optimizer.step()
        for (name, parameter), gradient in zip(model.named_parameters(), gradients, strict=True):
            moved = parameter.detach() - before[name]
            size = lr * plan[name].target
            if gradient is None or not gradient.any() or not size:
                assert not moved.any()
                continue
            norm = ops[name].weight_norm(moved).item()
            rounding = 1e-14 * before[name].abs().max().item()
            match plan[name].norm:
                case "row_rms":
                    rows = moved.square().mean(dim=1).sqrt()
                    used = gradient.any(dim=1)
                    assert rows[used].sub(size).abs().le(1e-9 * size + rounding).all()
                    assert not rows[~used].any()
                case "rms" | "max":
                    assert abs(norm - size) <= 1e-9 * size + rounding
                case _ if kind is module.DualizedSGD:
                    assert 0.995 * size - rounding <= norm <= 1.0001 * size + rounding
                case _:  # one step of power iteration measures from below
                    assert norm >= size * (1 - 1e-9) - rounding


# -- the text of the file ----------------------------------------------------------------------


@settings(NORMAL, max_examples=NORMAL.max_examples // 3)
@given(programs(counted=True))
def test_length_does_not_depend_on_the_number_of_copies(sample: Sample) -> None:
    lengths = set()
    for count in (2, 3, 7):
        params = dict.fromkeys(sample.counts, count)
        try:
            program = analyse_text(str(sample.text), params=params).program
        except ModnormError:
            assume(False)  # the other tests say that it is rightly refused
        source = ast.parse(generate(program))
        source.body = source.body[1:]  # the docstring wraps
        lengths.add(len(ast.unparse(source).splitlines()))
    assert len(lengths) == 1


@pytest.mark.skipif(RUFF is None, reason="ruff is not installed")
def test_generated_files_are_tidy(tmp_path: Path) -> None:
    """What ruff says of a few generated files."""
    written = 0

    @settings(NORMAL, max_examples=25)
    @given(programs())
    def write(sample: Sample) -> None:
        nonlocal written
        try:
            source = generate(analyse_text(str(sample.text)).program)
        except ModnormError:
            return
        written += 1
        (tmp_path / f"sample_{written}.py").write_text(source)

    write()
    assert written > 10
    found = subprocess.run(
        [str(RUFF), "check", "--config", str(ROOT / "pyproject.toml"), str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stdout + found.stderr
