"""From parsed files to the model: parameters, inputs and the placed module tree."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from numbers import Rational, Real

from modnorm.diagnostics import (
    Diagnostic,
    Diagnostics,
    Label,
    ModnormError,
    Source,
    Span,
    did_you_mean,
)
from modnorm.graph.calls import MAX_SIZE
from modnorm.graph.evaluate import Evaluator, OutOfSteps
from modnorm.graph.modules import Module
from modnorm.graph.names import Namespace, Resolver, build, mentions
from modnorm.graph.numbers import FUNCTIONS, Impossible, checked, show, written
from modnorm.graph.place import place
from modnorm.graph.renames import Rename, evaluate
from modnorm.graph.values import POISON, Frame, Poison, Value, describe, is_module, is_number
from modnorm.ops.given import Given
from modnorm.ops.types import Dtype, Size, Symbol, Tensor, declared
from modnorm.syntax import tree
from modnorm.syntax.parser import parse_expression

MAX_AXES = 16
"""Axes of an input."""
MAX_INPUTS = 1_000
"""Inputs of a model."""
SHOWN = 5
"""Models shown where one has to be chosen."""


@dataclass(frozen=True)
class InputValue:
    """A declared input, evaluated."""

    name: str
    type: Tensor
    span: Span


@dataclass(frozen=True)
class Elaborated:
    """A model ready for the passes."""

    name: str
    span: Span
    params: Mapping[str, Value]
    inputs: tuple[InputValue, ...]
    tree: Module
    renames: tuple[Rename, ...] = ()


def elaborate(
    main: tree.File,
    resolver: Resolver,
    overrides: Mapping[str, object],
    model: str | None,
    diagnostics: Diagnostics,
) -> Elaborated:
    """Evaluate the file's model. There may be errors among the diagnostics afterwards.

    `overrides` are values of params: numbers, bools, or text in the language.

    Raises:
        ModnormError: with every mistake found.
    """
    space = build(main, resolver, diagnostics)
    values = _overrides(space, overrides, diagnostics)
    evaluator = Evaluator(space, values, diagnostics)
    chosen = _choose(space, model, diagnostics)
    params: dict[str, Value] = {}
    inputs: list[InputValue | None] = []
    body: Value = POISON
    renames: tuple[Rename, ...] = ()
    try:
        for statement in main.statements:
            if isinstance(statement, tree.Param):
                params[statement.name] = evaluator.param(space, statement)
        declared = [s for s in main.statements if isinstance(s, tree.Input)]
        inputs += [_input(statement, space, evaluator) for statement in declared[:MAX_INPUTS]]
        if len(declared) > MAX_INPUTS:
            message = f"a model has at most {MAX_INPUTS:,} inputs, but here are {len(declared):,}"
            evaluator.fail("E305", message, declared[MAX_INPUTS].span)
        inputs = _without_batch(inputs)
        for index, (statement, known_input) in enumerate(zip(declared, inputs, strict=False)):
            if known_input is not None:
                given = Given(statement.name, index, known_input.type)
                evaluator.inputs[id(statement)] = given
        renames = evaluate(main, space, evaluator)
        if chosen is not None:
            body = evaluator.module(
                evaluator.body(chosen.body, Frame(space)),
                chosen.body.value.span,
                "a `model` is a module",
            )
    except OutOfSteps:
        diagnostics.check()
    unread = any(broken.is_input for broken in main.broken)
    if not inputs and not unread and chosen is not None:
        diagnostics.add(
            Diagnostic(
                "E404",
                "this file declares no input",
                chosen.name_span,
                hint="say what the model takes: `input x: float[batch, 784]`",
            )
        )
    known = tuple(i for i in inputs if i is not None)
    unread = unread or len(known) < len(inputs) or not known
    if chosen is None or isinstance(body, Poison) or unread:
        diagnostics.check()
        raise AssertionError("a mistake that was not reported")
    placed = place(body, chosen.name_span, diagnostics)  # type: ignore[arg-type]
    if placed is None:
        diagnostics.check()
        raise AssertionError("a mistake that was not reported")
    return Elaborated(chosen.name, chosen.name_span, params, known, placed, renames)


def _choose(space: Namespace, model: str | None, diagnostics: Diagnostics) -> tree.Model | None:
    """The model to compile; None, and reported, if there is no such one."""
    models = [s for s in space.file.statements if isinstance(s, tree.Model)]
    names = [m.name for m in models]
    source = space.file.source
    start = Span(source, 1, 1, 1, 1)
    if space.file.broken and (not models if model is None else model in space.broken):
        return None  # it may be among what could not be read
    if not models:
        span, hint = start, "say what to compile: `model Name = …`"
        if defs := [s for s in space.file.statements if isinstance(s, tree.Def)]:
            last = next((d for d in reversed(defs) if not d.formals), defs[-1])
            span = last.name_span
            hint = f"say what to compile: `model {last.name} = …` for `def {last.name} = …`"
            if last.formals:
                hint = f"say what to compile: `model Name = {last.name}(…)`"
        diagnostics.add(Diagnostic("E206", "this file defines no model", span, hint=hint))
        return None
    if model is not None:
        for m in models:
            if m.name == model:
                return m
        listed = ", ".join(f"`{n}`" for n in names)
        diagnostics.add(
            Diagnostic(
                "E206",
                f"there is no model `{model}` in {source.name}; it defines {listed}",
                hint=did_you_mean(model, names),
            )
        )
        return None
    if len(models) > 1:
        diagnostics.add(
            Diagnostic(
                "E206",
                "this file defines several models; say which one to compile",
                models[1].name_span,
                others=tuple(
                    Label(m.name_span, "another one") for m in (models[0], *models[2:SHOWN])
                ),
                hint=f"use `--model {models[0].name}`",
            )
        )
        return None
    return models[0]


def _overrides(
    space: Namespace, overrides: Mapping[str, object], diagnostics: Diagnostics
) -> dict[str, Value]:
    params = [n for n, d in space.own.items() if isinstance(d, tree.Param)]
    values: dict[str, Value] = {}
    for name, given in overrides.items():
        if name in space.broken:
            continue
        if name not in params:
            listed = ", ".join(f"`{p}`" for p in params)
            diagnostics.add(
                Diagnostic(
                    "E207",
                    f"{space.file.source.name} has no param `{name}`"
                    + (f"; it has {listed}" if params else ""),
                    hint=did_you_mean(name, params),
                )
            )
            continue
        values[name] = _given(name, given, space, diagnostics)
    return values


def _given(name: str, given: object, space: Namespace, diagnostics: Diagnostics) -> Value:
    """A value from the command line or from Python, of the kind of the param's default."""
    default = _default(name, space)
    value: Value = POISON
    if isinstance(given, bool):
        value = given
    elif isinstance(given, Real):
        try:
            value = _exact(given)
        except (Impossible, ValueError, OverflowError) as error:
            reason = str(error) if isinstance(error, Impossible) else "it is not finite"
            diagnostics.add(Diagnostic("E103", f"param `{name}` cannot be {show(given)}: {reason}"))
    elif isinstance(given, str):
        value = _read(name, given, isinstance(default, str), diagnostics)
    else:
        kind = type(given).__name__
        message = f"param `{name}` must be a number, a truth value or a string, not {kind}"
        diagnostics.add(Diagnostic("E302", message))
    if not isinstance(value, Poison) and _kind(value) != (_kind(default) or _kind(value)):
        definition = space.own[name]
        diagnostics.add(
            Diagnostic(
                "E302",
                f"the param `{name}` is {_kind(default)}, but it is given {describe(value)}",
                definition.name_span,
            )
        )
        return POISON
    return value


def _exact(given: Real) -> int | Fraction:
    """A number from Python as it is written there: 0.1 is one tenth."""
    if isinstance(given, Rational):
        exact = Fraction(int(given.numerator), int(given.denominator))
    else:
        exact = Fraction(str(float(given)))
    result = checked(exact)
    assert not isinstance(result, float)
    return result


def _kind(value: Value) -> str:
    """What a param can be: a number, true or false, a string; empty for what is not known."""
    if isinstance(value, Poison):
        return ""
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, str):
        return "a string"
    return "a number" if is_number(value) else "a module or a tuple"


def _default(name: str, space: Namespace) -> Value:
    """The value that a param has in the file, if it has one without what is overridden."""
    definition = space.own[name]
    assert isinstance(definition, tree.Param)
    try:
        return Evaluator(space, {}, Diagnostics()).param(space, definition)
    except OutOfSteps:
        return POISON


def _read(name: str, given: str, is_text: bool, diagnostics: Diagnostics) -> Value:
    """A value written in the language; quotes may be left out where a string is expected."""
    where = f"-p {name}"
    if is_text and not given.strip().startswith(('"', "'")):
        return given
    try:
        expr = parse_expression(given, where)
    except ModnormError as error:
        diagnostics.extend(error.diagnostics)
        return POISON
    unknown = [n for n, called, _ in mentions(expr) if not (called and n.text in FUNCTIONS)]
    for mention in unknown:
        message = f"`{mention.text}` has no meaning here"
        hint = "an option's value is a number, `true`, `false` or a string"
        diagnostics.add(Diagnostic("E201", message, mention.span, hint=hint))
    if unknown:
        return POISON
    space = Namespace(tree.File(Source(where, given), ()), is_main=False)
    try:
        return Evaluator(space, {}, diagnostics).value(expr, Frame(space))
    except OutOfSteps:
        return POISON


def _input(statement: tree.Input, space: Namespace, evaluator: Evaluator) -> InputValue | None:
    if len(statement.sizes) > MAX_AXES:
        message = f"an input has at most {MAX_AXES} axes, but here are {len(statement.sizes)}"
        evaluator.fail("E404", message, statement.span)
        return None
    sizes = [_size(size, space, evaluator, "a size") for size in statement.sizes]
    bound: Size | None = None
    if statement.bound is not None:
        if statement.dtype != "int":
            held = "what is true or false" if statement.dtype == "bool" else "real numbers"
            evaluator.fail(
                "E404",
                "only an `int` input has a bound",
                statement.bound.span,
                others=(Label(statement.dtype_span, f"this input holds {held}"),),
                hint="a bound says which integers occur: `input tokens: int[batch, seq] < vocab`",
            )
            return None
        bound = _size(statement.bound, space, evaluator, "a bound")
        if bound is None:
            return None
    if any(size is None for size in sizes):
        return None
    shape = tuple(size for size in sizes if size is not None)
    dtypes: dict[str, Dtype] = {"int": "int", "bool": "bool"}
    type = declared(dtypes.get(statement.dtype, "float"), shape, bound)
    return InputValue(statement.name, type, statement.span)


def _without_batch(inputs: list[InputValue | None]) -> list[InputValue | None]:
    """The inputs, where a size that is counted along another axis, or bounds integers, such as the
    nodes of a graph, is no batch along the first."""
    known = [given.type for given in inputs if given is not None]
    inner = {size for type in known for size in (*type.shape[1:], type.bound)}

    def marked(given: InputValue) -> InputValue:
        type = given.type
        if type.axis("batch") is None or type.shape[0] not in inner:
            return given
        return replace(given, type=replace(type, roles=("other", *type.roles[1:])))

    return [None if given is None else marked(given) for given in inputs]


def _may_be_number(name: str, space: Namespace) -> bool:
    """Whether a size's name is that of a param or a definition, not a free one."""
    found = space.find(name)
    if found is None:
        return False
    definition = found[1]
    return isinstance(definition, tree.Param) or (
        isinstance(definition, tree.Def) and not definition.formals
    )


def _size(expr: tree.Expr, space: Namespace, evaluator: Evaluator, what: str) -> Size | None:
    name = expr.text if isinstance(expr, tree.Name) and len(expr.parts) == 1 else None
    if name is not None and not _may_be_number(name, space):
        return None if name in space.broken else Symbol((name,))
    value = evaluator.value(expr, Frame(space))
    if isinstance(value, Poison):
        return None
    if name is not None and is_module(value):
        return Symbol((name,))
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    others = evaluator.origin(expr, Frame(space))
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        shown = written(value) if is_number(value) else describe(value)
        message = f"{what} must be a positive whole number, but it is {shown}"
        evaluator.fail("E304", message, expr.span, others=others)
        return None
    if value > MAX_SIZE:
        message = f"{what} may be at most {MAX_SIZE:,}, but it is {show(value)}"
        evaluator.fail("E305", message, expr.span, others=others)
        return None
    return value
