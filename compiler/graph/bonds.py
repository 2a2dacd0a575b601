"""`bond` statements: formulas with their constants filled in, their sensitivity checked."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from modnorm.diagnostics import Label, Span
from modnorm.graph.modules import Leaf
from modnorm.graph.names import Namespace
from modnorm.graph.numbers import show
from modnorm.graph.values import POISON, Frame, Poison, Value
from modnorm.ops.formula import Formula
from modnorm.ops.formula_tree import BadFormula
from modnorm.ops.types import Real
from modnorm.syntax import tree

if TYPE_CHECKING:
    from modnorm.graph.evaluate import Evaluator


def build_bond(
    evaluator: Evaluator,
    space: Namespace,
    definition: tree.Bond,
    bound: Mapping[str, Value],
    span: Span,
) -> Leaf | Poison:
    """The bond as an operation; POISON, and reported, if its formula or sensitivity is wrong."""
    constants: dict[str, Real] = {}
    for name, value in bound.items():
        number = evaluator.number(value, span, f"`{name}` of `{definition.name}`")
        if isinstance(number, Poison):
            return POISON
        constants[name] = number
    frame = Frame(space, dict(constants))
    sensitivity = evaluator.number(
        evaluator.value(definition.sensitivity, frame),
        definition.sensitivity.span,
        "a sensitivity",
    )
    if isinstance(sensitivity, Poison):
        return POISON
    if sensitivity <= 0:
        return evaluator.fail(
            "E501",
            f"the sensitivity of `{definition.name}` must be positive, but it is"
            f" {show(sensitivity)}",
            definition.sensitivity.span,
        )
    params = _params(evaluator, space, definition, constants)
    if params is None:
        return POISON
    try:
        op = Formula.of(definition, {**params, **constants}, sensitivity)
    except BadFormula as bad:
        return evaluator.fail(bad.code, bad.message, bad.span, hint=bad.hint)
    if op not in evaluator.checked_bonds:
        evaluator.checked_bonds[op] = op.check()
    violation = evaluator.checked_bonds[op]
    if violation is not None:
        steep = math.isfinite(violation.slope)
        return evaluator.fail(
            "E309",
            f"`{definition.name}` breaks its sensitivity {show(sensitivity)}: {violation.reason}"
            if steep
            else f"`{definition.name}` is not defined everywhere: {violation.reason}",
            definition.sensitivity.span if steep else definition.formula.span,
            others=(Label(span, "used here"),),
            hint=f"declare `sensitivity {_above(violation.slope)}` or more" if steep else "",
        )
    return Leaf(op, span)


def _above(slope: float) -> str:
    """Six digits of a slope, rounded up."""
    rounded = float(f"{slope:.6g}")
    return f"{rounded if rounded >= slope else slope * (1 + 5e-6):.6g}"


def _params(
    evaluator: Evaluator, space: Namespace, definition: tree.Bond, constants: Mapping[str, Real]
) -> dict[str, Real] | None:
    """The file's params that the formula mentions; None, and reported, if one is no number."""
    from modnorm.graph.names import mentions

    found: dict[str, Real] = {}
    tensor = definition.formals[0].name
    for name, called, _ in mentions(definition.formula):
        head = name.parts[0]
        if called or head == tensor or head in constants or len(name.parts) > 1:
            continue
        number = evaluator.number(
            evaluator.name(name, Frame(space)), name.span, "a constant of a formula"
        )
        if isinstance(number, Poison):
            return None
        found[head] = number
    return found
