"""What weights are made of in checkpoints of other models: the statements `rename`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from modnorm.diagnostics import Span
from modnorm.graph.evaluate import Evaluator
from modnorm.graph.names import OF_TENSORS, Namespace
from modnorm.graph.values import POISON, Frame, Poison, Value, describe, is_number
from modnorm.syntax import tree

Recipe: TypeAlias = "str | int | float | tuple[str | Recipe, ...]"
"""The name of a tensor, a number, or an operation with what it is of: see
`modnorm.kernels.checkpoint`."""

SIGNS = {"+": "add", "*": "mul"}


@dataclass(frozen=True)
class Rename:
    """A statement, evaluated. `weight` may have a `*` for each number in a name."""

    weight: str
    made: Recipe
    span: Span


def evaluate(file: tree.File, space: Namespace, evaluator: Evaluator) -> tuple[Rename, ...]:
    """The renames of a file; mistakes in them are reported."""
    reader, found = _Reader(space, evaluator), list[Rename]()
    for statement in file.statements:
        if isinstance(statement, tree.Rename):
            made = reader.recipe(statement.value)
            if not isinstance(made, Poison):
                found.append(Rename(statement.weight.value, made, statement.weight.span))
    return tuple(found)


class _Reader:
    def __init__(self, space: Namespace, evaluator: Evaluator) -> None:
        self.space, self.evaluator = space, evaluator

    def fail(self, message: str, span: Span, hint: str = "") -> Poison:
        self.evaluator.fail("E310", message, span, hint=hint)
        return POISON

    def recipe(self, expr: tree.Expr) -> Recipe | Poison:
        """What an expression of tensors' names says."""
        if isinstance(expr, tree.Binary) and expr.operator in SIGNS:
            left, right = self.recipe(expr.left), self.recipe(expr.right)
            if isinstance(left, Poison) or isinstance(right, Poison):
                return POISON
            if isinstance(left, str | tuple) or isinstance(right, str | tuple):
                return (SIGNS[expr.operator], left, right)
            return self.value(expr)
        if isinstance(expr, tree.Call) and expr.function.text in OF_TENSORS:
            return self.call(expr)
        return self.value(expr)

    def value(self, expr: tree.Expr) -> Recipe | Poison:
        value = self.evaluator.value(expr, Frame(self.space))
        if isinstance(value, Poison | str):
            return value
        if is_number(value):
            return value if isinstance(value, int) else float(value)
        known = ", ".join(f"`{form}`" for form in OF_TENSORS.values())
        return self.fail(
            f"a weight is made of tensors by their names, and not of {describe(value)}",
            expr.span,
            f"a name stands in quotes; there are sums, products, {known}",
        )

    def call(self, call: tree.Call) -> Recipe | Poison:
        name = call.function.text
        given = self.arguments(call)
        if isinstance(given, Poison):
            return POISON
        first = self.recipe(given["x"])
        if isinstance(first, Poison):
            return POISON
        if not isinstance(first, str | tuple):
            return self.fail(f"`{name}` is of a tensor, by its name", call.span, use(name))
        if name == "transposed":
            return (name, first)
        numbers = []
        for key in ("dim", "start", "end", "every"):
            value = self.number(given.get(key), call)
            if isinstance(value, Poison):
                return POISON
            numbers.append(value)
        _, start, end, every = numbers
        if not start < end or (every and every < end):
            message = f"`part` goes from {start} to {end}" + (f" of {every}" if every else "")
            return self.fail(f"{message}, which are no entries", call.span, use(name))
        return (name, first, *numbers)

    def arguments(self, call: tree.Call) -> dict[str, tree.Expr] | Poison:
        name = call.function.text
        places = ("x", "start", "end", "dim", "every") if name == "part" else ("x",)
        given: dict[str, tree.Expr] = {}
        for index, argument in enumerate(call.arguments):
            key = argument.name or (places[index] if index < len(places) else "")
            if key not in places or key in given:
                return self.fail(f"`{name}` does not take this", argument.span, use(name))
            given[key] = argument.value
        missing = [key for key in places[:3] if key not in given]
        if missing:
            return self.fail(f"`{name}` has too few arguments", call.span, use(name))
        return given

    def number(self, expr: tree.Expr | None, call: tree.Call) -> int | Poison:
        value: Value = 0 if expr is None else self.evaluator.value(expr, Frame(self.space))
        if isinstance(value, Poison):
            return POISON
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            where = call.span if expr is None else expr.span
            return self.fail(f"a place is a whole number, not {describe(value)}", where)
        return value


def use(name: str) -> str:
    return f"write `{OF_TENSORS[name]}`"
