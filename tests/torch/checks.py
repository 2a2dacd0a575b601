"""What must hold for every program: three readings of it agree.

The compiler's records, the generated file, and two plain trees, one from the compiler's module tree
and one that Python read from the text, have the same weights, targets, outputs and gradients.
"""

from __future__ import annotations

import math
import sys
import types
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import pytest
import torch
from hypothesis import currently_in_test_context, reject
from interpreter import Run, resolved
from pythonic import Program as Reading
from pythonic import Statement, Text

from modnorm.codegen.assemble import generate
from modnorm.codegen.plan import records
from modnorm.diagnostics import ModnormError
from modnorm.ops.types import Tensor, TupleType, Type
from modnorm.passes.program import Program
from modnorm.pipeline import analyse_text
from tests.plain import Mistake, Plain, Target, targets, unroll

SIZES = {"batch": 2, "seq": 3}

Results: TypeAlias = tuple[list[torch.Tensor], list[torch.Tensor | None]]
"""Outputs and gradients."""


@dataclass(frozen=True)
class Case:
    """A program that compiles. `targets` are those of `tree`, in execution order."""

    text: Text | str
    program: Program
    tree: Plain
    reading: Plain
    targets: list[Target]

    @property
    def type(self) -> Type:
        """The type of the inputs."""
        return self.program.types[self.program.tree.id][0]

    def load(self) -> Any:
        """The generated file as a module."""
        module = types.ModuleType("generated")
        sys.modules["generated"] = module  # torch looks up annotations there
        exec(compile(generate(self.program), "generated.py", "exec"), module.__dict__)
        return module

    def inputs(self) -> list[torch.Tensor]:
        generator = torch.Generator().manual_seed(0)
        return [value(i.type, generator) for i in self.program.inputs]


def value(type: Tensor, generator: torch.Generator) -> torch.Tensor:
    """A random value of a type, with free sizes as in `SIZES`."""
    shape = [s if isinstance(s, int) else SIZES[str(s)] for s in type.shape]
    if type.dtype == "int":
        assert isinstance(type.bound, int)
        return torch.randint(type.bound, shape, generator=generator)
    return torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()


def compiled(text: Text) -> Case | None:
    """The program compiled, or None if it rightly does not compile."""
    reading = Reading(text).model
    given = declared(text)
    type = given[0] if len(given) == 1 else TupleType(tuple(given))
    reading, _ = resolved(reading, type, given)
    mistakes: set[str] = set()
    expected: list[Target] = []
    try:
        _, expected = targets(reading)
    except Mistake as mistake:
        mistakes = {mistake.code}
    try:
        program = analyse_text(str(text)).program
    except ModnormError as error:
        if {d.code for d in error.diagnostics if d.severity == "error"} != mistakes:
            raise
        return None
    assert not mistakes
    tree, _ = resolved(unroll(program.tree), type, given)
    mass, own = targets(tree)
    assert close(program.mass, mass)
    for a, b in zip(own, expected, strict=True):
        assert a.op.name == b.op.name
        assert close(a.mass, b.mass)
        assert close(a.downstream, b.downstream)
        assert close(a.target, b.target)
    return Case(text, program, tree, reading, own)


def declared(text: Text) -> list[Type]:
    """The types of the inputs, as the compiler reads them from their declarations alone."""
    inputs = tuple(s for s in text.statements if s.kind == "input")
    alone = Text((*inputs, Statement("model", "Alone", "Identity")))
    return [entry.type for entry in analyse_text(str(alone)).program.inputs]


def close(a: Any, b: Any) -> bool:
    return math.isclose(a, b, rel_tol=1e-10)


# -- the analysis ------------------------------------------------------------------------------


def check_targets(text: Text) -> None:
    """The compiler's targets are those of the recursion, and the update has modular norm 1."""
    case = compiled(text)
    if case is None:
        return
    found = {record.name: record for record in records(case.program)}
    expected = {str(target.key): target for target in case.targets}
    assert found.keys() == expected.keys()
    for name, target in expected.items():
        record = found[name]
        assert record.weight.op.name == target.op.name
        assert record.weight.op.weight_shape == target.op.weight_shape
        assert close(record.weight.mass, target.mass), name
        assert close(record.downstream, target.downstream), name
        assert close(record.target, target.target), name
    if expected:
        assert close(sum(r.target * r.downstream for r in found.values()), 1)


# -- the function ------------------------------------------------------------------------------


def check_function(text: Text) -> None:
    """The generated model computes what both plain readings do, forward and backward."""
    case = compiled(text)
    if case is None:
        return
    weights = random_weights(case)
    expected = interpreted(case, case.tree, weights)
    unstable = far(interpreted(case, case.tree, weights, noise=1e-13), expected, 1e-10)
    if unstable and currently_in_test_context():
        reject()  # what rounding alone changes cannot be compared
    assert unstable == ""
    assert far(interpreted(case, case.reading, weights), expected, 1e-9) == ""
    module = case.load()
    model = getattr(module, module.MODEL)(dtype=torch.float64).requires_grad_().eval()
    named = dict(model.named_parameters())
    names = [str(target.key) for target in case.targets]
    assert named.keys() == set(names)
    with torch.no_grad():
        for name, weight in zip(names, weights, strict=True):
            named[name].copy_(weight)
    inputs = case.inputs()
    found = measured(model(*inputs), [named[name] for name in names], inputs)
    assert far(found, expected, 1e-9) == ""


def random_weights(case: Case) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    shapes = [target.op.weight_shape for target in case.targets]
    drawn = [torch.randn(s, generator=generator, dtype=torch.float64) / 2 for s in shapes]
    return [weight.requires_grad_() for weight in drawn]


def interpreted(
    case: Case, tree: Plain, weights: list[torch.Tensor], noise: float = 0.0
) -> Results:
    """A plain reading with these weights, in execution order."""
    keys: list[Hashable] = [target.key for target in targets(tree)[1]]
    table = dict(zip(keys, weights, strict=True))
    inputs = case.inputs()
    outputs = Run(lambda key: table[key], noise)(tree, case.type, *inputs)
    return measured(outputs, weights, inputs)


def flat(x: Any) -> list[torch.Tensor]:
    return [t for member in x for t in flat(member)] if isinstance(x, tuple) else [x]


def measured(outputs: Any, weights: list[Any], inputs: list[torch.Tensor]) -> Results:
    """Outputs, and gradients of a fixed random function of them."""
    found = flat(outputs)
    generator = torch.Generator().manual_seed(2)
    loss = torch.zeros((), dtype=torch.float64)
    for y in found:
        loss = loss + (y * torch.randn(y.shape, generator=generator, dtype=y.dtype)).sum()
    wanted = [*weights, *(x for x in inputs if x.requires_grad)]
    if not loss.requires_grad:
        return found, [None] * len(wanted)
    return found, list(torch.autograd.grad(loss, wanted, allow_unused=True))


def far(found: Results, expected: Results, tolerance: float) -> str:
    """Where two results differ by more than the tolerance of the result's size; "" if nowhere."""
    for what, ours, theirs in zip(("output", "gradient"), found, expected, strict=True):
        for number, pair in enumerate(zip(ours, theirs, strict=True)):
            a, b = (torch.zeros(()) if t is None else t.detach() for t in pair)
            room = tolerance * max(1.0, b.abs().max().item())
            if not (a - b).abs().le(room).all():
                return f"{what} {number} is off by {(a - b).abs().max()}, more than {room}"
    return ""


def check_tools(text: Text) -> None:
    """`torch.compile` and `torch.export` take the whole model, and agree."""
    case = compiled(text)
    if case is None:
        return
    module = case.load()
    check_whole(getattr(module, module.MODEL)(dtype=torch.float64).eval(), case.inputs())


def check_whole(model: torch.nn.Module, inputs: Sequence[torch.Tensor]) -> None:
    """The same of a model."""
    expected = flat(model(*inputs))
    torch._dynamo.reset()
    whole = torch.compile(model, fullgraph=True, backend="eager")
    torch.testing.assert_close(flat(whole(*inputs)), expected)
    exported = torch.export.export(model, tuple(inputs)).module()
    torch.testing.assert_close(flat(exported(*inputs)), expected)


# -- the plan ----------------------------------------------------------------------------------


def check_plan(text: Text) -> None:
    """PLAN has every weight with its target, and fits the model's parameters."""
    case = compiled(text)
    if case is None:
        return
    module = case.load()
    plan = {weight.name: weight for weight in module.PLAN}
    expected = {str(target.key): target for target in case.targets}
    assert len(plan) == len(module.PLAN)
    assert plan.keys() == expected.keys()
    assert list(plan) == [record.name for record in records(case.program)]
    for name, weight in plan.items():
        target = expected[name]
        assert (weight.atom, weight.shape) == (target.op.name, target.op.measured_shape)
        assert weight.norm == target.op.norm.name
        assert close(weight.mass, target.mass)
        assert close(weight.target, target.target)
    model = getattr(module, module.MODEL)(generator=torch.Generator().manual_seed(0))
    named = list(model.named_parameters(remove_duplicate=False))
    buffers = len(list(model.buffers()))
    assert len({id(p) for _, p in named}) == len(named) == len(model.state_dict()) - buffers
    shapes = {n: target.op.weight_shape for n, target in expected.items()}
    assert {n: tuple(p.shape) for n, p in named} == shapes
    for name, parameter in named:
        assert parameter.requires_grad == (plan[name].target != 0)
        op = expected[name].op
        norm = op.weight_norm(parameter.detach().double()).item()
        at_zero = op.begins_at_zero or op.init_ == "zero"
        assert norm == pytest.approx(0 if at_zero else 1, abs=1e-5)
    assert grouped(text, [name for name, _ in named]) == grouped(text, list(plan))


def grouped(text: Text, names: list[str]) -> dict[str, list[str]]:
    """Names in order, those of every shared module for themselves.

    The plan is in execution order. So are a module's parameters, but for shared ones: they stand
    together at the root, and in the plan where they are first used.
    """
    shared = {s.name.strip("_") for s in text.statements if s.kind == "shared"}
    groups: dict[str, list[str]] = {}
    for name in names:
        head = name.partition(".")[0].strip("_")
        groups.setdefault(head if head in shared else "", []).append(name)
    return groups


# -- the optimizers ----------------------------------------------------------------------------


def check_steps(text: Text) -> None:
    """A step of each optimizer moves every weight by lr·target in the weight's norm."""
    case = compiled(text)
    if case is None or not case.targets:
        return
    module = case.load()
    ops = {str(target.key): target.op for target in case.targets}
    lr = 0.25
    for kind in (module.NormedAdam, module.NormedSGD, module.DualizedSGD):
        generator = torch.Generator().manual_seed(3)
        model = getattr(module, module.MODEL)(dtype=torch.float64, generator=generator)
        model.requires_grad_()  # weights of mass 0 stay even so
        named = dict(model.named_parameters())
        optimizer = kind(named.items(), lr=lr, missing="skip")
        before = {name: p.detach().clone() for name, p in named.items()}
        inputs = case.inputs()
        torch.manual_seed(3)
        _, gradients = measured(model(*inputs), list(named.values()), inputs)
        for parameter, gradient in zip(named.values(), gradients, strict=False):
            parameter.grad = gradient
        optimizer.step()
        for record in module.PLAN:
            parameter = named[record.name]
            moved = parameter.detach() - before[record.name]
            rounding = 1e-14 * before[record.name].abs().max().item()
            size = lr * record.target
            if parameter.grad is None or not parameter.grad.any() or not size:
                assert not moved.any()
                continue
            norm = ops[record.name].weight_norm(moved).item()
            match record.norm:
                case "row_rms":
                    rows = moved.square().mean(dim=1).sqrt()
                    used = parameter.grad.any(dim=1)
                    assert rows[used].sub(size).abs().le(1e-9 * size + rounding).all()
                    assert not rows[~used].any()
                case "row":
                    rows = moved.norm(dim=1) * moved.shape[1] ** 0.5
                    used = parameter.grad.any(dim=1)
                    assert rows[used].sub(size).abs().le(1e-9 * size + 9 * rounding).all()
                    assert not rows[~used].any()
                case "column":
                    columns = moved.square().mean(dim=0).sqrt()
                    used = parameter.grad.any(dim=0)
                    assert columns[used].sub(size).abs().le(1e-9 * size + rounding).all()
                    assert not columns[~used].any()
                case "sign" | "frobenius":
                    assert abs(norm - size) <= 1e-9 * size + 99 * rounding
                case "rms" | "max":
                    assert abs(norm - size) <= 1e-9 * size + rounding
                case _ if kind is module.DualizedSGD:
                    assert 0.907 * size - rounding <= norm <= 1.042 * size + rounding
                case _:  # one step of power iteration measures from below
                    assert norm >= size * (1 - 1e-9) - rounding
