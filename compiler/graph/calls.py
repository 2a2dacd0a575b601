"""Calls: arguments bound to the formals of a definition, or checked and given to an operation."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from modnorm.diagnostics import Label, Span, did_you_mean
from modnorm.graph import equivalents
from modnorm.graph.checks import Checks, Evaluates
from modnorm.graph.mixtures import mixture
from modnorm.graph.modules import (
    Assume,
    Compose,
    Leaf,
    Module,
    Scope,
    Shared,
    Stored,
    Tare,
    Tuple,
)
from modnorm.graph.numbers import fits_float, written
from modnorm.graph.place import snake
from modnorm.graph.values import POISON, Frame, Poison, Value, describe, is_module, is_number
from modnorm.ops import registry
from modnorm.ops.base import Argument, Atom, Misfit, Reader
from modnorm.ops.fused import Fused
from modnorm.ops.scalars import Identity
from modnorm.ops.types import Real
from modnorm.syntax import tree

MAX_SIZE = 2**31 - 1
"""Largest size of an axis."""
MAX_AXIS = 64
"""Largest axis that can be named."""


class _Rejected(Exception):
    """An argument was wrong; it has been reported."""


class Passed(NamedTuple):
    """An argument's value, its place, and where a name that stands there is defined."""

    value: Value
    span: Span
    origin: tuple[Label, ...] = ()


@dataclass
class Given:
    """The arguments of a call by name; `good` if nothing was reported."""

    values: dict[str, Passed] = field(default_factory=dict)
    good: bool = True


def bind(
    evaluator: Evaluates,
    called: str,
    names: Sequence[str],
    by_position: Sequence[str],
    signature: Callable[[], str],
    arguments: tuple[tree.Argument, ...],
    frame: Frame,
    here: tuple[Label, ...] = (),
    takes_all: str = "",
) -> Given:
    """The arguments of a call, each under its name. All are evaluated, whatever is wrong.

    `takes_all` names the one that is everything given by position, if there is one.
    """
    given = Given()
    row: list[Passed] = []
    places: dict[str, Span] = {}
    position = 0

    def fail(message: str, span: Span, others: tuple[Label, ...], hint: str = "") -> None:
        evaluator.fail("E301", message, span, others=others, hint=hint)
        given.good = False

    for argument in arguments:
        value = evaluator.value(argument.value, frame)
        name = argument.name
        if name is None:
            if takes_all:
                row.append(Passed(value, argument.span, evaluator.origin(argument.value, frame)))
                continue
            position += 1
            if position == len(by_position) + 1:
                wanted = amount(len(by_position), "argument")
                by = " by position" if len(by_position) < len(names) else ""
                message = f"`{called}` takes {wanted}{by}, this is number {position}"
                if not names:
                    message = f"`{called}` takes no arguments"
                hint = f"write `{signature()}`"
                if is_module(value) or isinstance(argument.value, tree.Call):
                    inner = argument.value.span.text(20)
                    hint = f"modules are joined, not called: write `{called} @ {inner}`"
                fail(message, argument.span, here, hint)
            if position > len(by_position):
                continue
            name = by_position[position - 1]
        if name not in names:
            written = [(a.name, a.value.span.text(20)) for a in arguments]
            hint = equivalents.argument(called, name, written, names)
            hint = hint or did_you_mean(name, names) or f"write `{signature()}`"
            fail(f"`{called}` has no argument `{name}`", argument.span, here, hint)
        elif name in places:
            first = (Label(places[name], "first given here"),)
            fail(f"`{called}` gets its argument `{name}` twice", argument.span, first)
        else:
            origin = evaluator.origin(argument.value, frame)
            given.values[name] = Passed(value, argument.value.span, origin)
            places[name] = argument.span
    if row and takes_all in places:
        first = (Label(places[takes_all], "first given here"),)
        fail(f"`{called}` gets its argument `{takes_all}` twice", row[0].span, first)
    elif row:
        given.values[takes_all] = _together(row)
    return given


def _together(row: Sequence[Passed]) -> Passed:
    """Arguments as one tuple; one that is a tuple is all of them."""
    values = tuple(passed.value for passed in row)
    origin = tuple(dict.fromkeys(label for passed in row for label in passed.origin))
    span = row[0].span.to(row[-1].span)
    if any(isinstance(value, Poison) for value in values):
        return Passed(POISON, span, origin)
    if len(values) == 1 and isinstance(values[0], tuple):
        values = values[0]
    return Passed(values, span, origin)


def amount(count: int, what: str) -> str:
    """`no arguments`, `1 argument`, `2 arguments`."""
    return f"{count or 'no'} {what}{'' if count == 1 else 's'}"


def listed(names: Sequence[str]) -> str:
    """Names in a sentence: `` `a`, `b` and `c` ``."""
    quoted = [f"`{name}`" for name in names]
    return " and ".join([", ".join(quoted[:-1]), quoted[-1]] if len(quoted) > 1 else quoted)


def _missing(names: Sequence[str]) -> str:
    return f"its argument{'s' if len(names) > 1 else ''} {listed(names)}"


def bind_formals(
    evaluator: Evaluates,
    home: Frame,
    definition: tree.Def | tree.Bond,
    arguments: tuple[tree.Argument, ...],
    span: Span,
    frame: Frame,
) -> dict[str, Value] | None:
    """The formals of a definition with their values; None, and reported, if they do not fit.

    Defaults are evaluated among the names of `home`. A bond's first formal is its tensor and gets
    no value.
    """
    formals = definition.formals if isinstance(definition, tree.Def) else definition.formals[1:]
    names = [f.name for f in formals]
    here = (Label(definition.name_span, f"`{definition.name}` is defined here"),)

    def signature() -> str:
        shown = (f"{f.name} = {f.default.span.text(20)}" if f.default else f.name for f in formals)
        return f"{definition.name}({', '.join(shown)})" if formals else definition.name

    given = bind(evaluator, definition.name, names, names, signature, arguments, frame, here)
    missing = [f.name for f in formals if f.default is None and f.name not in given.values]
    if missing and given.good:
        evaluator.fail(
            "E301",
            f"`{definition.name}` needs {_missing(missing)}",
            span,
            others=here,
            hint=f"write `{signature()}`",
        )
    if missing or not given.good:
        return None
    bound: dict[str, Value] = {}
    for formal in formals:
        if formal.name in given.values:
            bound[formal.name] = given.values[formal.name].value
        elif formal.default is not None:
            bound[formal.name] = evaluator.value(formal.default, home)
    return None if any(isinstance(v, Poison) for v in bound.values()) else bound


def build_op(
    evaluator: Checks,
    name: str,
    values: Mapping[str, Passed],
    span: Span,
    *,
    complete: bool = True,
) -> Module | Poison:
    """An operation with its arguments checked, or POISON, and reported.

    `complete` is False where an argument is missing because it was reported already.
    """
    op = registry.find(name)
    assert op is not None, name
    fields: dict[str, Any] = {}
    required = [a.name for a in op.arguments() if a.required]
    missing = [argument for argument in required if argument not in values]
    if missing and complete:
        parts = [f"{a.name}…" if a.takes_all else a.name for a in op.arguments() if a.required]
        written = f"`{name}({', '.join(parts)})`"
        full = f"`{op.signature()}`"
        instead = f"; {op.instead}" if op.instead else ""
        evaluator.fail(
            "E301",
            f"`{name}` needs {_missing(missing)}",
            span,
            hint=f"write {written}" + (f", or in full {full}" if full != written else "") + instead,
        )
    good = complete and not missing
    for argument in op.arguments():
        if argument.name not in values:
            continue
        passed = values[argument.name]
        if isinstance(passed.value, Poison):
            good = False
            continue
        try:
            fields.update(_converted(evaluator, name, argument, passed))
        except _Rejected:
            good = False
    if not good:
        return POISON
    try:
        built = op(**fields)
    except Misfit as misfit:
        at = values[misfit.argument].span if misfit.argument in values else span
        evaluator.fail(misfit.code, misfit.message, at, hint=misfit.hint)
        return POISON
    if built.scalar == 0:
        evaluator.fail(
            "E306",
            "a module cannot be multiplied by 0: what it scales could never learn",
            values["a"].span if "a" in values else span,
            label="this is 0",
            others=values["a"].origin if "a" in values else (),
            hint="leave the branch out where its factor is 0: `f if n == 1 else residual(f, n)`",
        )
        return POISON
    places = {argument: passed.span for argument, passed in values.items()}
    leaf = Leaf(built, span, places=places)
    kinds = {argument.name: argument.kind for argument in built.arguments()}
    if "module" in kinds.values():
        return mixture(evaluator, leaf, span)
    if not isinstance(built, Fused):
        # the operation behind what it takes, where some of that is given by arguments
        given = [p.value for n, p in values.items() if kinds[n] == "member" and is_module(p.value)]
        before = Tuple((Leaf(Identity(), span), *given), span)
        return Compose((before, leaf), span) if given else leaf
    members: list[Module] = []
    for part, atom in built.parts().items():
        leaf = Leaf(atom, span, stored=Stored(built, part), places=places)
        members.append(Scope(part, leaf, "where", span, span))
    return Scope(snake(built.label), Tuple(tuple(members), span), "where", span, span)


def _converted(evaluator: Checks, name: str, argument: Argument, passed: Passed) -> dict[str, Any]:
    """The value as the operation's field(s)."""
    value, span, origin = passed
    what = f"`{argument.name}` of `{name}`"

    def reject(code: str, wanted: str, hint: str = "") -> _Rejected:
        shown = written(value) if is_number(value) else describe(value)
        return refuse(code, f"must be {wanted}, but it is {shown}", hint, origin)

    def refuse(code: str, why: str, hint: str, others: tuple[Label, ...] = ()) -> _Rejected:
        evaluator.fail(code, f"{what} {why}", span, others=others, hint=hint)
        return _Rejected()

    def whole(least: float, wanted: str, most: str = "at most", each: str = "") -> int:
        found = _whole(value, least)
        if found is None:
            fraction = is_number(value) and _whole(value, -math.inf) is None
            hint = "round it with `floor` or `ceil`" if fraction else ""
            raise reject("E304" if is_number(value) else "E302", wanted, hint)
        if abs(found) > MAX_SIZE:
            raise reject("E305", f"{most} {MAX_SIZE:,}{each}")
        return found

    match argument.kind:
        case "size" | "index":
            least = 1 if argument.kind == "size" else 0
            wanted = "a positive whole number" if least else "a whole number of at least 0"
            return {argument.field: whole(least, wanted)}
        case "sizes":
            row, sizes = value if isinstance(value, tuple) else (value,), []
            for value in row:  # `reject` speaks of this one
                wanted = "positive whole numbers, or -1 for one of them"
                sizes.append(-1 if value == -1 else whole(1, wanted, "at most", " each"))
            return {argument.field: tuple(sizes)}
        case "integer":
            between = f"between -{MAX_SIZE:,} and"
            return {argument.field: whole(-math.inf, "a whole number", between)}
        case "number":
            if isinstance(value, str) and value in argument.choices:
                return {argument.field: value}
            if not is_number(value):
                or_one = "".join(f' or "{choice}"' for choice in argument.choices)
                hint = did_you_mean(value, argument.choices) if isinstance(value, str) else ""
                raise reject("E302", f"a number{or_one}", hint)
            number: Real = value
            if argument.name == "mass" and number < 0:
                raise reject("E307", "at least 0")
            if argument.name == "mass" and not fits_float(number):
                raise reject("E305", "0 or a number that a float can hold")
            return {argument.field: value}
        case "flag":
            if not isinstance(value, bool):
                raise reject("E302", "true or false")
            return {argument.field: value}
        case "axis" | "axes":
            several = argument.kind == "axes"
            given = value if isinstance(value, tuple) and several else (value,)
            axes = [a for a in given if isinstance(a, int) and not isinstance(a, bool)]
            if not axes or len(axes) < len(given):
                wanted = "an axis or a tuple of axes, such as `-1` or `(1, 2, 3)`"
                raise reject("E302", wanted if several else "an axis, such as `-1`")
            if any(abs(axis) > MAX_AXIS for axis in axes):
                raise reject("E305", f"between -{MAX_AXIS} and {MAX_AXIS}")
            return {argument.field: value}
        case "window" | "margin":
            if value in argument.choices:
                return {argument.field: value}
            least = 1 if argument.kind == "window" else 0
            members = value if isinstance(value, tuple) and value else (value,)
            sizes = [found for member in members if (found := _whole(member, least)) is not None]
            if len(sizes) < len(members):
                wanted = "a positive whole number" if least else "a whole number of at least 0"
                others = ["a tuple of them", *(f'"{choice}"' for choice in argument.choices)]
                *more, last = others
                near = did_you_mean(value, argument.choices) if isinstance(value, str) else ""
                code = "E304" if all(map(is_number, members)) else "E302"
                wanted = f"must be {', '.join([wanted, *more])} or {last}"
                shown = written(value) if is_number(value) else describe(value)
                if isinstance(value, tuple) and all(map(is_number, value)):
                    shown = f"({', '.join(map(written, value))})"
                raise refuse(code, f"{wanted}, but it is {shown}", near, origin)
            if max(sizes) > MAX_SIZE:
                raise reject("E305", f"at most {MAX_SIZE:,}")
            return {argument.field: tuple(sizes) if isinstance(value, tuple) else sizes[0]}
        case "pick":
            if isinstance(value, str):
                return {argument.field: value}
            return {argument.field: whole(0, "a whole number of at least 0, or a member's name")}
        case "member":
            if not is_module(value):
                hint = f"declare what it is as an input, and name that: `{argument.name} = pad`"
                raise reject("E302", "a module, such as the name of an input", hint)
            return {}
        case "choice":
            if value not in argument.choices:
                *most, last = (f'"{choice}"' for choice in argument.choices)
                hint = ""
                if isinstance(value, str):
                    begun = [choice for choice in argument.choices if choice.startswith(value)]
                    hint = did_you_mean(value, begun or argument.choices)
                raise reject("E302", f"{', '.join(most)} or {last}", hint)
            return {argument.field: value}
        case "embed":
            return _read(value, refuse)
        case "module":
            what = f"{what} is the module of which it makes copies"
            module = evaluator.module(value, span, what)
            if isinstance(module, Poison):
                raise _Rejected
            return {argument.field: module}


def _whole(value: Value, least: float) -> int | None:
    """A whole number of at least so much, or None."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        return None
    return value if value >= least else None


def _read(value: Value, refuse: Callable[..., _Rejected]) -> dict[str, Any]:
    """The fields of a reader: which shared weight it reads, and that weight's sizes."""
    code, wanted = "E308", "must be the name of a `shared` Embed, but"
    declare = "declare it as `shared embed = Embed(count, dim)`"
    match value:
        case Shared(body=body):
            name = value.key.rpartition(":")[2]
            here = (Label(value.definition, f"`{name}` is declared here"),)
            while isinstance(body, Scope | Tare | Assume):
                body = body.body
            op = body.op if isinstance(body, Leaf) else None
            fields = Reader.fields_from(op) if isinstance(op, Atom) else None
            if fields is not None:
                return {"embed": value.key, **fields}
            what = f"`{op.name}`" if op is not None else "module of several parts"
            raise refuse(code, f"{wanted} `{name}` is a shared {what}", "", here)
        case Scope(name=name):
            here = (Label(value.definition, f"`{name}` is defined here"),)
            why = f"{wanted} `{name}` is a definition: each mention has weights of its own"
            raise refuse(code, why, f"declare it as `shared {name} = …`", here)
    raise refuse(code, f"{wanted} it is {describe(value)}", declare)
