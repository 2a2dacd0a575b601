"""`Experts`: the module of one expert, stacked for all of them."""

from __future__ import annotations

from dataclasses import replace

from modnorm.diagnostics import Label, Span
from modnorm.graph.checks import Checks
from modnorm.graph.modules import (
    Hole,
    Leaf,
    Module,
    Scan,
    Scope,
    Shared,
    Tuple,
    compose,
    rebuilt,
    walk,
)
from modnorm.graph.place import snake
from modnorm.graph.values import POISON, Poison
from modnorm.ops.experts import Experts, Member, Scored, Spread

STACKS = "`Linear`, `Bias`, `Scale`, functions of entries, sums, products, normalized vectors"


def mixture(evaluator: Checks, leaf: Leaf, span: Span) -> Module | Poison:
    """(x, scores) to the mixture: the experts' outputs side by side, and the operation on them.

    POISON, and reported, where the module cannot be stacked.
    """
    op = leaf.op
    assert isinstance(op, Experts)
    module: Module = op.module_
    if any(isinstance(part, Hole) for part in walk(module)):
        return POISON
    for part in walk(module):
        if isinstance(part, Shared):
            name = part.key.rpartition(":")[2]
            return evaluator.fail(
                "E302",
                f"`{name}` is shared, and a weight of `Experts` is another for each expert",
                part.span,
                others=(Label(part.definition, f"`{name}` is declared here"),),
                hint=f"declare it as `def {name} = …`, or use it before or behind `Experts`",
            )
        if isinstance(part, Scan):
            return evaluator.fail(
                "E302",
                "`Scan` cannot stand in an expert: an expert works on each vector along the last"
                " axis by itself",
                part.span,
                hint="scan before or behind `Experts`, or let the cell of a scan have experts",
            )
        if isinstance(part, Leaf) and part.op.stacked(op.count) is None:
            return _refused(evaluator, part, op)
    each = (Leaf(Member(0), span), Leaf(Spread(op.count), span), _stacked(module, op))
    mix = replace(leaf, op=replace(op, module_=None))
    both = Tuple((compose(each, span), Leaf(Member(1), span)), span)
    steps = (Leaf(Scored(op.count), span, places=leaf.places), both, mix)
    return Scope(snake(op.label), compose(steps, span), "where", span, span)


def _stacked(module: Module, op: Experts) -> Module:
    if isinstance(module, Leaf):
        stacked = module.op.stacked(op.count)
        assert stacked is not None
        return replace(module, op=stacked)
    return rebuilt(module, lambda part: _stacked(part, op))


def _refused(evaluator: Checks, part: Leaf, op: Experts) -> Poison:
    """What one vector does not decide by itself, or what there is no stack of."""
    called = part.op if part.stored is None else part.stored.op
    written = part.span.text(40) if called.is_module else called.label
    what = f"`{written}` cannot stand in an expert"
    why = "an expert works on each vector along the last axis by itself"
    if called.gives is not None:
        why = "an expert reads what comes to it, and no input by name"
    elif called.is_module:
        why = "there is no form of it with something for each expert"
    return evaluator.fail(
        "E302", f"{what}: {why}", part.span, hint=f"an expert is made of {STACKS}, and `Dropout`"
    )
