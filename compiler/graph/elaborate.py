"""From parsed files to the model: parameters, inputs and the placed module tree."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

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
from modnorm.graph.names import Namespace, Resolver, build
from modnorm.graph.numbers import Impossible, checked, show
from modnorm.graph.place import place
from modnorm.graph.values import POISON, Frame, Poison, Value, describe, is_number
from modnorm.ops.types import Size, Symbol, Tensor
from modnorm.syntax import tree
from modnorm.syntax.parser import parse_expression

MAX_AXES = 16
DTYPES = ("int", "float")


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


def elaborate(
    main: tree.File,
    resolver: Resolver,
    overrides: Mapping[str, object],
    model: str | None,
    diagnostics: Diagnostics,
) -> Elaborated:
    """Evaluate the file's model.

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
    try:
        for statement in main.statements:
            if isinstance(statement, tree.Param):
                params[statement.name] = evaluator.param(space, statement)
                _check_param(statement, params[statement.name], evaluator)
        for statement in main.statements:
            if isinstance(statement, tree.Input):
                inputs.append(_input(statement, space, evaluator))
        if chosen is not None:
            body = evaluator.module(
                evaluator.body(chosen.body, Frame(space)), chosen.body.value.span, "`model`"
            )
    except OutOfSteps:
        diagnostics.check()
    if not inputs and chosen is not None:
        diagnostics.add(
            Diagnostic(
                "E404",
                "this file declares no input",
                chosen.name_span,
                hint="say what the model takes: `input x: float[batch, 784]`",
            )
        )
    diagnostics.check()
    assert chosen is not None
    assert not isinstance(body, Poison)
    placed = place(body, chosen.name_span, diagnostics)  # type: ignore[arg-type]
    diagnostics.check()
    assert placed is not None
    known = tuple(i for i in inputs if i is not None)
    return Elaborated(chosen.name, chosen.name_span, params, known, placed)


def _choose(
    space: Namespace, model: str | None, diagnostics: Diagnostics
) -> tree.Model | None:
    """The model to compile; None, and reported, if there is no such one."""
    models = [s for s in space.file.statements if isinstance(s, tree.Model)]
    names = [m.name for m in models]
    source = space.file.source
    start = Span(source, 1, 1, 1, 1)
    if not models:
        diagnostics.add(
            Diagnostic(
                "E206",
                "this file defines no model",
                start,
                hint="say what to compile: `model Name = …`",
            )
        )
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
                others=(Label(models[0].name_span, "another one"),),
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
    """A value from the command line or from Python."""
    if isinstance(given, bool):
        return given
    if isinstance(given, int | float | Fraction):
        try:
            return checked(Fraction(str(given)) if isinstance(given, float) else given)
        except (Impossible, ValueError) as error:
            reason = "it is not finite" if isinstance(error, ValueError) else str(error)
            diagnostics.add(Diagnostic("E103", f"param `{name}` cannot be {given}: {reason}"))
            return POISON
    if not isinstance(given, str):
        diagnostics.add(
            Diagnostic(
                "E302",
                f"param `{name}` must be a number, a bool or a string, not"
                f" {type(given).__name__}",
            )
        )
        return POISON
    try:
        expr = parse_expression(given, f"-p {name}={given}")
    except ModnormError as error:
        diagnostics.extend(error.diagnostics)
        return POISON
    file = tree.File(Source(f"-p {name}={given}", given), ())
    alone = Evaluator(Namespace(file, is_main=False), {}, diagnostics)
    definition = space.own[name]
    default = definition.value if isinstance(definition, tree.Param) else None
    if isinstance(expr, tree.Name) and isinstance(default, tree.String):
        return expr.text
    if isinstance(expr, tree.Name):
        diagnostics.add(
            Diagnostic("E201", f"unknown name `{expr.text}`", expr.span, hint="give a number")
        )
        return POISON
    try:
        value = alone.value(expr, Frame(alone.main))
    except OutOfSteps:
        return POISON
    return value


def _check_param(statement: tree.Param, value: Value, evaluator: Evaluator) -> None:
    if isinstance(value, Poison | bool | str) or is_number(value):
        return
    evaluator.fail(
        "E302",
        f"a param is a number, a truth value or a string, but `{statement.name}` is"
        f" {describe(value)}",
        statement.value.span,
        hint=f"write `def {statement.name} = …` for a module",
    )


def _input(statement: tree.Input, space: Namespace, evaluator: Evaluator) -> InputValue | None:
    if statement.dtype not in DTYPES:
        evaluator.fail(
            "E404",
            f"an input is `int` or `float`, not `{statement.dtype}`",
            statement.dtype_span,
            hint=did_you_mean(statement.dtype, DTYPES),
        )
        return None
    if len(statement.sizes) > MAX_AXES:
        evaluator.fail("E404", f"an input has at most {MAX_AXES} axes", statement.span)
        return None
    sizes = [_size(size, space, evaluator, "a size") for size in statement.sizes]
    bound: Size | None = None
    if statement.bound is not None:
        if statement.dtype != "int":
            evaluator.fail(
                "E404", "only an `int` input has a bound", statement.bound.span
            )
            return None
        bound = _size(statement.bound, space, evaluator, "a bound")
        if bound is None:
            return None
    if any(size is None for size in sizes):
        return None
    shape = tuple(size for size in sizes if size is not None)
    type = Tensor("int" if statement.dtype == "int" else "float", shape, bound)
    return InputValue(statement.name, type, statement.span)


def _size(expr: tree.Expr, space: Namespace, evaluator: Evaluator, what: str) -> Size | None:
    if isinstance(expr, tree.Name) and len(expr.parts) == 1 and space.find(expr.text) is None:
        return None if expr.text in space.broken else Symbol((expr.text,))
    value = evaluator.value(expr, Frame(space))
    if isinstance(value, Poison):
        return None
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        shown = show(value) if is_number(value) else describe(value)
        evaluator.fail(
            "E304", f"{what} must be a positive whole number, but it is {shown}", expr.span
        )
        return None
    if value > MAX_SIZE:
        evaluator.fail("E305", f"{what} may be at most {MAX_SIZE}", expr.span)
        return None
    return value
