"""Calls: arguments bound to the formals of a definition, or checked and given to an operation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from modnorm.diagnostics import Label, Span, did_you_mean
from modnorm.graph.modules import Leaf, Module, Scope, Shared, Tare
from modnorm.graph.names import Namespace
from modnorm.graph.numbers import show
from modnorm.graph.values import POISON, Frame, Poison, Value, describe, is_number
from modnorm.ops import registry
from modnorm.ops.base import Argument, Atom, Reader
from modnorm.syntax import tree

if TYPE_CHECKING:
    from modnorm.graph.evaluate import Evaluator

MAX_SIZE = 2**31 - 1
"""Largest size of an axis."""
MAX_ELEMENTS = 2**40
"""Largest number of entries of one weight."""


class _Rejected(Exception):
    """An argument was wrong; it has been reported."""


def bind_formals(
    evaluator: Evaluator,
    space: Namespace,
    definition: tree.Def | tree.Bond,
    arguments: tuple[tree.Argument, ...],
    span: Span,
    frame: Frame,
) -> dict[str, Value] | None:
    """The formals of a definition with their values; None, and reported, if they do not fit.

    A bond's first formal is its tensor and gets no value.
    """
    formals = definition.formals if isinstance(definition, tree.Def) else definition.formals[1:]
    names = [f.name for f in formals]
    here = (Label(definition.name_span, f"`{definition.name}` is defined here"),)
    signature = f"{definition.name}({', '.join(names)})"
    bound: dict[str, Value] = {}
    places: dict[str, Span] = {}
    good = True
    position = 0
    for argument in arguments:
        value = evaluator.value(argument.value, frame)
        name = argument.name
        if name is None:
            if position >= len(names):
                evaluator.fail(
                    "E301",
                    f"`{definition.name}` takes {len(names)} arguments, this is number"
                    f" {position + 1}",
                    argument.span,
                    others=here,
                    hint=f"write `{signature}`" if names else f"write `{definition.name}`",
                )
                return None
            name = names[position]
            position += 1
        if name not in names:
            evaluator.fail(
                "E301",
                f"`{definition.name}` has no argument `{name}`",
                argument.span,
                others=here,
                hint=did_you_mean(name, names) or f"write `{signature}`",
            )
            good = False
        elif name in bound:
            evaluator.fail(
                "E301",
                f"`{definition.name}` gets its argument `{name}` twice",
                argument.span,
                others=(Label(places[name], "first given here"),),
            )
            good = False
        else:
            bound[name], places[name] = value, argument.span
    for formal in formals:
        if formal.name in bound:
            continue
        if formal.default is None:
            evaluator.fail(
                "E301",
                f"`{definition.name}` needs its argument `{formal.name}`",
                span,
                others=here,
                hint=f"write `{signature}`",
            )
            good = False
        else:
            bound[formal.name] = evaluator.value(formal.default, Frame(space))
    if not good or any(isinstance(v, Poison) for v in bound.values()):
        return None
    return {f.name: bound[f.name] for f in formals}


def build_op(
    evaluator: Evaluator, name: str, values: Mapping[str, tuple[Value, Span]], span: Span
) -> Leaf | Poison:
    """An operation with its arguments checked, or POISON, and reported."""
    op = registry.find(name)
    assert op is not None, name
    fields: dict[str, Any] = {}
    good = True
    for argument in op.arguments():
        if argument.name not in values:
            if argument.required:
                evaluator.fail(
                    "E301",
                    f"`{name}` needs its argument `{argument.name}`",
                    span,
                    hint=f"write `{op.signature()}`",
                )
                good = False
            continue
        value, place = values[argument.name]
        if isinstance(value, Poison):
            good = False
            continue
        try:
            fields.update(_converted(evaluator, name, argument, value, place))
        except _Rejected:
            good = False
    if not good:
        return POISON
    built = op(**fields)
    if built.scalar == 0:
        evaluator.fail(
            "E306",
            "a module cannot be multiplied by 0: what it scales could never learn",
            values["a"][1] if "a" in values else span,
            label="this is 0",
            hint="leave the branch out where its factor is 0: `f if n == 1 else residual(f, n)`",
        )
        return POISON
    if isinstance(built, Atom) and not _weight_fits(evaluator, built, span):
        return POISON
    return Leaf(built, span)


def _weight_fits(evaluator: Evaluator, op: Atom, span: Span) -> bool:
    total = 1
    for argument in op.arguments():
        value = getattr(op, argument.field)
        if argument.kind == "size" and isinstance(value, int):
            total *= value
    if total > MAX_ELEMENTS:
        evaluator.fail(
            "E305",
            f"a weight of `{op.name}` would have {show(total)} entries; at most {MAX_ELEMENTS} fit",
            span,
        )
        return False
    return True


def _converted(
    evaluator: Evaluator, name: str, argument: Argument, value: Value, span: Span
) -> dict[str, Any]:
    """The value as the operation's field(s)."""
    what = f"`{argument.name}` of `{name}`"

    def reject(code: str, wanted: str, hint: str = "") -> _Rejected:
        shown = show(value) if is_number(value) else describe(value)
        evaluator.fail(code, f"{what} must be {wanted}, but it is {shown}", span, hint=hint)
        return _Rejected()

    match argument.kind:
        case "size" | "index":
            least = 1 if argument.kind == "size" else 0
            wanted = "a positive whole number" if least else "a whole number of at least 0"
            if isinstance(value, float) and value.is_integer():
                value = int(value)
            if not is_number(value):
                raise reject("E302", wanted)
            if not isinstance(value, int) or value < least:
                hint = "" if isinstance(value, int) else "round it with `floor` or `ceil`"
                raise reject("E304", wanted, hint)
            if value > MAX_SIZE:
                raise reject("E305", f"at most {MAX_SIZE}")
            return {argument.field: value}
        case "number":
            if not is_number(value):
                raise reject("E302", "a number")
            if argument.name == "mass" and value < 0:  # type: ignore[operator]
                raise reject("E307", "at least 0")
            return {argument.field: value}
        case "flag":
            if not isinstance(value, bool):
                raise reject("E302", "true or false")
            return {argument.field: value}
        case "axes":
            axes = value if isinstance(value, tuple) else (value,)
            if not axes or not all(isinstance(a, int) and not isinstance(a, bool) for a in axes):
                raise reject("E302", "an axis or a tuple of axes, such as `-1` or `(1, 2, 3)`")
            if any(abs(a) > 64 for a in axes):  # type: ignore[arg-type]
                raise reject("E305", "an axis between -64 and 64")
            return {argument.field: value}
        case "embed":
            return _read(value, reject)


def _read(value: Value, reject: Any) -> dict[str, Any]:
    """The fields of a reader: which shared weight it reads, and that weight's sizes."""
    wanted = "a `shared` Embed, by its name"
    hint = "declare it as `shared embed = Embed(count, dim)`"
    if not isinstance(value, Shared):
        raise reject("E308", wanted, hint)
    body: Module = value.body
    while isinstance(body, Scope | Tare):
        body = body.body
    if not isinstance(body, Leaf) or not isinstance(body.op, Atom):
        raise reject("E308", wanted, hint)
    fields = Reader.fields_from(body.op)
    if fields is None:
        raise reject("E308", wanted, hint)
    return {"embed": value.key, **fields}

