"""Names of a `.mod` file that mean something else in the generated file, or in Python."""

from __future__ import annotations

import ast
import builtins
import keyword
import os
from functools import cache
from types import ModuleType

import pytest
import torch
from torch import nn

from modnorm.codegen import sections
from modnorm.codegen.assemble import generate
from modnorm.codegen.imports import import_source
from modnorm.codegen.runtime import Part
from modnorm.diagnostics import Diagnostics, ModnormError
from modnorm.graph.place import is_reserved
from modnorm.pipeline import ANALYSIS, analyse_text

WORK = "Softmax @ GELU @ Abs @ SiLU @ Tanh @ ReLU @ RMSDivide @ Linear(8) @ Add"
NAMED = (
    "sequence Sequence ClassVar Iterator WeakSet annotations cache import_module json os pairwise"
    " partial platform prod suppress warnings __class__ __dict__ __name__ __init__ __1 _1 _ __ _2"
    " __2 __x__ __x position size view type x y z i self factory generator device dtype weight copy"
    " lambdas nones ifs module _orig_mod math torch F nn Tensor range super"
).split()
LONG = bool(os.environ.get("MODNORM_LONG"))
EVERY, ALONE = (1, 1) if LONG else (4, 24)
"""Beside `NAMED` every so many names are taken, and so many where each has a file of its own."""


@cache
def used() -> tuple[str, ...]:
    """Every name that a generated file mentions, defines or has as an argument, and builtins."""
    text = "input x: float[batch, seq, 8]\nmodel M = Linear(8) @ Bias @ MergeHeads @ Attention"
    text += " @ (SplitHeads(2) @ Linear(8), SplitHeads(2) @ Linear(8), SplitHeads(2) @ Linear(8))\n"
    program = analyse_text(text, passes=ANALYSIS).program
    tree = ast.parse(generate(program, standalone=True))
    found = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    found |= {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
    found.update(sections.bindings(tree), dir(builtins), dir(nn.Module()), dir(object))
    return tuple(sorted(found.union(NAMED)))


def defined(text: str) -> bool:
    """Whether the language takes a text with a name."""
    try:
        analyse_text(text, passes=ANALYSIS)
    except ModnormError:
        return False
    return True


@cache
def possible() -> tuple[str, ...]:
    """The names of `used` that the language takes, but for those in the programs below."""
    written = set(f"x Linear Bias {WORK}".split())
    text = "input x: float[b, 8]\ndef {0} = Tanh\nmodel M = {0}\n"
    return tuple(n for n in used() if n not in written and defined(text.format(n)))


def imported(text: str, standalone: bool = True) -> tuple[ModuleType, Diagnostics]:
    found = Diagnostics()
    analysis = analyse_text(text, "names.mod", passes=ANALYSIS)
    source = generate(analysis.program, "cpu", found, standalone=standalone)
    module = import_source(source, "names")
    found.extend(analysis.diagnostics)
    return module, found


def runs(text: str, standalone: bool = True) -> ModuleType:
    """The module of a program, after a step of its model; inputs are given by name."""
    module, _ = imported(text, standalone)
    model = getattr(module, module.MODEL)(generator=torch.Generator().manual_seed(0))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert list(before) == [record.name for record in module.PLAN]
    optimizer = module.NormedSGD(model.named_parameters(), lr=0.1)
    inputs = {entry.name: torch.randn(2, 8) for entry in module.INPUTS}
    model(**inputs).square().sum().backward()
    optimizer.step()
    assert any((value != before[name]).any() for name, value in model.state_dict().items())
    return module


def groups() -> list[tuple[str, ...]]:
    names = tuple(n for i, n in enumerate(possible()) if n in NAMED or i % EVERY == 0)
    return [names[i : i + 60] for i in range(0, len(names), 60)]


def test_there_are_names_to_try() -> None:
    assert len(possible()) > 500
    assert {"Sequence", "cache", "annotations", "blank", "polar", "step", "__class__"} <= {
        *possible()
    }


def test_definitions_with_names_that_the_file_uses() -> None:
    for names in groups():
        definitions = "".join(f"def {n} = Tanh @ Linear(8) @ Abs @ Bias\n" for n in names)
        runs(f"input x: float[b, 8]\n{definitions}model M = {' @ '.join(names)}\n")


def test_repeated_definitions_with_names_that_the_file_uses() -> None:
    """Each becomes a class and the variable of a loop."""
    for names in groups():
        definitions = "".join(f"def {n} = Tanh @ Linear(8) @ Bias\n" for n in names)
        model = " @ ".join(f"{n} ** 2" for n in names)
        runs(f"input x: float[b, 8]\n{definitions}model M = {model}\n")


def test_definitions_that_occur_twice_with_names_that_the_file_uses() -> None:
    for names in groups():
        definitions = "".join(f"def {n} = Tanh @ Linear(8)\n" for n in names)
        model = " @ ".join(f"{n} @ Abs @ {n}" for n in names)
        runs(f"input x: float[b, 8]\n{definitions}model M = {model}\n")


def test_shared_modules_with_names_that_the_file_uses() -> None:
    for names in groups():
        shared = "".join(f"shared {n} = Tanh @ Linear(8)\n" for n in names)
        model = " @ ".join(f"({n} @ Bias) ** 2" for n in names)
        runs(f"input x: float[b, 8]\n{shared}model M = {model}\n")


def test_local_definitions_with_names_that_the_file_uses() -> None:
    for names in groups():
        where = "".join(f"    {n} = Tanh @ Linear(8)\n" for n in names)
        runs(f"input x: float[b, 8]\nmodel M = {' @ '.join(names)} where\n{where}")


def test_params_and_arguments_with_names_that_the_file_uses() -> None:
    for names in groups():
        params = "".join(f"param {n} = 8\n" for n in names)
        runs(
            f"input x: float[b, 8]\n{params}model M = {' @ '.join(f'Linear({n})' for n in names)}\n"
        )


def test_inputs_with_names_that_the_file_uses() -> None:
    for names in groups():
        inputs = "".join(f"input {n}: float[b, 8]\n" for n in names)
        module = runs(f"{inputs}model M = {WORK}\n")
        for name, entry in zip(names, module.INPUTS, strict=True):
            needed = keyword.iskeyword(name) or name.startswith("__")
            if not needed and name not in ("self", "F", "torch", "_", "Tensor", "linear"):
                assert entry.name == name


@pytest.mark.parametrize("name", sorted({*NAMED, *used()[::ALONE]}))
def test_models_with_names_that_the_file_uses(name: str) -> None:
    text = f"input x: float[b, 8]\nmodel {name} = (Linear(8) @ Tanh @ Bias) ** 2\n"
    if defined(text):  # the names are the same in both forms of a file
        runs(text, standalone=LONG or name in NAMED[::4])


@pytest.mark.parametrize("name", ["position", "size", "view", "type", "out", "len"])
def test_an_input_keeps_its_name_where_the_forward_pass_does_not_need_it(name: str) -> None:
    module, found = imported(f"input {name}: float[b, 8]\nmodel M = Tanh @ Linear(8)\n")
    assert [entry.name for entry in module.INPUTS] == [name]
    assert module.M()(**{name: torch.ones(2, 8)}).shape == (2, 8)
    assert not list(found)


@pytest.mark.parametrize(
    ("name", "other"),
    [("torch", "torch_"), ("self", "self_"), ("lambda", "lambda_"), ("__x", "x_")],
)
def test_an_input_that_cannot_keep_its_name_is_warned_of(name: str, other: str) -> None:
    module, found = imported(f"input {name}: float[b, 8]\nmodel M = Tanh @ Linear(8)\n")
    assert [entry.name for entry in module.INPUTS] == [other]
    assert module.M()(**{other: torch.ones(2, 8)}).shape == (2, 8)
    (warning,) = found
    assert warning.code == "W605"
    assert f"`{name}`" in warning.message
    assert f"`{other}`" in warning.message
    assert warning.span is not None
    assert warning.span.line == 1


def test_a_model_that_cannot_keep_its_name_is_warned_of() -> None:
    module, found = imported("input x: float[b, 8]\nmodel cache = Linear(8)\n")
    assert module.MODEL == "cache_"
    assert [(d.code, d.span and d.span.line) for d in found] == [("W605", 2)]


def test_what_torch_modules_have_is_reserved() -> None:
    """The compiler imports no torch: its list is compared with what there is."""
    parts = [Part(), nn.Module(), nn.ModuleList()]
    attributes = {name for part in parts for name in (*dir(part), *vars(part))}
    attributes.update(nn.Module.__annotations__)
    foreign = {
        name for name in attributes
        if str(getattr(getattr(nn.Module, name, None), "__module__", "")).startswith("transformers")
    }  # fmt: skip  # which it adds to torch's class once it is imported
    attributes -= foreign
    assert [name for name in sorted(attributes) if not is_reserved(name)] == []
