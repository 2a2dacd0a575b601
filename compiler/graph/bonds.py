"""`bond` statements: formulas with their constants filled in, their sensitivity checked."""

from __future__ import annotations

import math
from collections.abc import Mapping

from modnorm.diagnostics import Diagnostic, Span
from modnorm.graph.checks import Evaluates
from modnorm.graph.modules import Leaf
from modnorm.graph.names import Namespace, is_operation, mentions
from modnorm.graph.numbers import fits_float, show
from modnorm.graph.values import POISON, Frame, Poison, Value
from modnorm.ops.formula import Formula
from modnorm.ops.formula_check import Violation
from modnorm.ops.formula_tree import KNOWN, Apply, BadFormula, Node
from modnorm.ops.types import Real
from modnorm.syntax import tree

MAX_NODES = 200
"""Parts of one formula."""
MAX_CHECKED = 1_000
"""Parts of all formulas whose sensitivity is checked."""


def build_bond(
    evaluator: Evaluates,
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
    # the checker has told that a sensitivity is a constant
    frame = Frame(space, {definition.formals[0].name: POISON, **constants})
    sensitivity = evaluator.number(
        evaluator.value(definition.sensitivity, frame),
        definition.sensitivity.span,
        "a sensitivity",
    )
    params = _params(evaluator, space, definition, constants)
    if isinstance(sensitivity, Poison) or params is None:
        return POISON
    if sensitivity <= 0 or not fits_float(sensitivity):
        wanted = "positive" if sensitivity <= 0 else "a number that a float can hold"
        return evaluator.fail(
            "E501",
            f"the sensitivity of `{definition.name}` must be {wanted}, but it is"
            f" {show(sensitivity)}",
            definition.sensitivity.span,
        )
    domain = _domain(evaluator, definition, frame)
    if isinstance(domain, Poison):
        return POISON
    try:
        op = Formula.of(definition, {**params, **constants}, sensitivity, domain)
    except BadFormula as bad:
        return evaluator.fail(bad.code, bad.message, bad.span, hint=bad.hint)
    if op not in evaluator.checked_bonds:
        nodes = _count(op.formula)
        evaluator.checked_nodes += nodes
        if nodes > MAX_NODES or evaluator.checked_nodes > MAX_CHECKED:
            return _too_many(evaluator, definition, nodes)
        violation = evaluator.checked_bonds[op] = op.check()
        if violation is None and (slope := op.undecided()) is not None:
            _warn_of(evaluator, definition, slope, sensitivity)
    violation = evaluator.checked_bonds[op]
    if violation is None:
        return Leaf(op, span)
    if math.isnan(violation.slope):
        return evaluator.fail(
            "E309",
            f"`{definition.name}` is not defined everywhere: {violation.reason}",
            definition.formula.span,
            hint="a formula needs a value at every x; keep x where it has one by `max` or `min`, or"
            " say where it is used: `on [1/2, 2]`"
            if domain is None
            else "it needs a value at every x of its range: make that smaller",
        )
    return evaluator.fail(
        "E309",
        f"`{definition.name}` breaks its sensitivity {show(sensitivity)}: {violation.reason}",
        definition.sensitivity.span,
        hint=_mend(violation, definition.formals[0].name),
    )


def _domain(
    evaluator: Evaluates, definition: tree.Bond, frame: Frame
) -> tuple[Real, Real] | Poison | None:
    """The range that a formula is for; POISON, and reported, if it is none."""
    if definition.domain is None:
        return None
    assert definition.domain_span is not None
    ends: list[Real] = []
    for end in definition.domain:
        number = evaluator.number(evaluator.value(end, frame), end.span, "an end of a range")
        if isinstance(number, Poison):
            return POISON
        if not fits_float(number):
            message = (
                f"an end of a range must be a number that a float can hold, not {show(number)}"
            )
            return evaluator.fail("E305", message, end.span)
        ends.append(number)
    low, high = ends
    if float(low) < float(high):
        return low, high
    return evaluator.fail(
        "E302",
        f"the range of `{definition.name}` goes from {show(low)} to {show(high)}: it is empty",
        definition.domain_span,
        hint="the smaller end comes first: `on [0, 1]`",
    )


def _mend(violation: Violation, x: str) -> str:
    """What to write where a declared sensitivity does not hold."""
    if not math.isfinite(violation.slope):
        return "round the corner off: `sqrt(abs(x) + 0.01)` has a gradient everywhere"
    if not violation.grows:
        return f"declare `sensitivity {violation.most:.6g}` or more"
    if not violation.holds:
        return f"its slope grows with `{x}`: bound that, as `max(-1, min({x}, 1))` does"
    digits = 3 - math.ceil(math.log10(violation.holds))
    c = math.floor(violation.holds * 10.0**digits) / 10.0**digits  # rounded down
    return f"its slope grows with `{x}`: write `max(-{c:g}, min({x}, {c:g}))` for `{x}`"


def _warn_of(evaluator: Evaluates, definition: tree.Bond, slope: float, sensitivity: Real) -> None:
    """No slope above the declared one was found, and none is ruled out."""
    least = f"slopes up to {slope:.4g}" if math.isfinite(slope) else "larger slopes"
    evaluator.diagnostics.add(
        Diagnostic(
            "W612",
            f"the sensitivity of `{definition.name}` could not be checked: {least} are not ruled"
            f" out, and {show(sensitivity)} is declared",
            definition.sensitivity.span,
            hint="no steeper place was found; a formula with fewer `x` in it may be decided, as"
            " `sigmoid(x)` is where `1 / (1 + exp(-x))` is not",
        )
    )


def _count(formula: Node) -> int:
    """Operations, constants and mentions of the tensor in a formula."""
    count, stack = 0, [formula]
    while stack:
        count += 1
        node = stack.pop()
        if isinstance(node, Apply):
            stack.extend(node.arguments)
    return count


def _too_many(evaluator: Evaluates, definition: tree.Bond, nodes: int) -> Poison:
    """More than can be checked numerically in reasonable time."""
    if nodes > MAX_NODES:
        message = f"the formula of `{definition.name}` has more than {MAX_NODES} parts"
        hint = "compose it of several bonds"
        return evaluator.fail("E305", message, definition.formula.span, hint=hint)
    message = f"the formulas of this model's bonds have more than {MAX_CHECKED:,} parts in all"
    hint = "a bond is checked anew for each set of constants that it is used with"
    return evaluator.fail("E305", message, definition.name_span, hint=hint)


def _params(
    evaluator: Evaluates, space: Namespace, definition: tree.Bond, constants: Mapping[str, Real]
) -> dict[str, Real] | None:
    """The numbers of the file that the formula mentions; None, and reported, if one is none.

    None, too, for what the checker of names has reported.
    """
    found: dict[str, Real] = {}
    tensor = definition.formals[0].name
    for name, called, loops in mentions(definition.formula):
        head = name.parts[0]
        if called:
            if name.text not in KNOWN:
                return None
        elif head not in loops and name.text != tensor and name.text not in constants:
            if is_operation(name, space):
                return None
            value = evaluator.name(name, Frame(space))
            number = evaluator.number(value, name.span, "a constant of a formula")
            if isinstance(number, Poison):
                return None
            found[name.text] = number
    return found
