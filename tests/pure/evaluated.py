"""Expressions of the language, evaluated by themselves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import modnorm.ops  # noqa: F401  (registers the operations)
from modnorm.diagnostics import Diagnostics
from modnorm.graph.evaluate import Evaluator
from modnorm.graph.modules import Compose, Hole, Leaf, Module, Repeat, Scope, Shared, Tare, Tuple
from modnorm.graph.names import build
from modnorm.graph.numbers import show
from modnorm.graph.values import Frame, is_number
from modnorm.syntax.loader import load_text
from modnorm.syntax.parser import parse_expression


def evaluate(
    expression: str,
    before: str = "",
    overrides: Mapping[str, Any] | None = None,
    **local: Any,
) -> tuple[Any, list[str]]:
    """The value of an expression behind these statements, and the errors: `E302: …`.

    `local` are values of names, as in a definition's body.
    """
    diagnostics = Diagnostics()
    loaded = load_text(f"input x: float[batch, 4]\n{before}", "test.mod", diagnostics)
    assert loaded is not None
    diagnostics.check()
    space = build(loaded.main, loaded, diagnostics)
    evaluator = Evaluator(space, overrides or {}, diagnostics)
    value = evaluator.value(parse_expression(expression, "value"), Frame(space, dict(local)))
    return value, [f"{d.code}: {d.message}" for d in diagnostics.errors]


def written(value: Any) -> Any:
    """A module as a short text; another value as it is.

    Steps stand in execution order between `>>`, repetitions behind `^`, the names of definitions,
    `where` bindings and shared modules before `:`.
    """
    match value:
        case Leaf(op=op):
            numbers = {name: show(x) for name, x in vars(op).items() if is_number(x)}
            mass = numbers.pop("mass", "1")
            arguments = [*numbers.values(), *([f"mass = {mass}"] if mass != "1" else [])]
            return f"{op.name}({', '.join(arguments)})" if arguments else op.name
        case Hole():
            return "?"
        case Compose(steps=steps):
            return "(" + " >> ".join(map(written, steps)) + ")"
        case Tuple(members=members):
            return "[" + ", ".join(map(written, members)) + "]"
        case Repeat(runs=runs):
            return " ".join(f"{written(run.body)}^{run.count}" for run in runs)
        case Scope(name=name, body=body):
            return f"{name}:{written(body)}"
        case Shared(key=key, body=body):
            return f"{key.rpartition(':')[2]}!{written(body)}"
        case Tare(body=body, mass=mass):
            return f"tare({written(body)}, {show(mass)})"
    return value


def module(expression: str, before: str = "") -> Module:
    """The module tree of an expression without mistakes, before it is placed."""
    value, reported = evaluate(expression, before)
    assert not reported, reported
    assert isinstance(value, Module)
    return value
